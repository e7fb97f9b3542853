// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// Operation names the calls that a fault can hit.
type Operation int

// The operations. Open is OpenProducer and OpenConsumer, Keep all of driver.GroupKeeper.
const (
	Open Operation = iota
	Probe
	Keep
	Send
	Fetch
	Ack
	Nack
	Extend
	GiveBack
	DeadLetter
	Lag
	Seek
	Begin
	End
	// ReadDeadLetters is every look at dead letters, Redrive what changes something.
	ReadDeadLetters
	Redrive
	Close
	operations
)

// Fault says what goes wrong with which calls.
type Fault struct {
	Operation Operation
	// Times is how many calls are hit; 0 = all until the fault is lifted.
	Times int
	// Err is answered; nil = Unavailable "injected fault".
	Err error
	// Hang makes the call wait until the fault is lifted, its context ends (Timeout, no effect) or its client is closed (ErrClosed, no effect). A lifted
	// call goes on as if nothing had been.
	Hang bool
	// AnswerLost lets the call take effect and answers Err nevertheless. Open, Probe, Keep, Fetch, Lag and Close do not know it and fail
	// before they take effect.
	AnswerLost bool
	// Group, when set, hits only clients of that group (without namespace).
	Group string
}

// Faults makes calls of the broker's clients fail or hang. It is safe for concurrent use; faults apply in the order in which they were
// injected, the first that fits decides. A failed Close closes all the same and reports the error; a Close that hung until its context ended
// closes when the fault is lifted.
type Faults struct {
	// injected lets the common case, no fault at all, pass without a lock.
	injected atomic.Int32
	calls    [operations]atomic.Int64
	hanging  [operations]atomic.Int64

	mu     sync.Mutex
	active []*injection
}

// injection is a Fault at work.
type injection struct {
	Fault
	left   int
	lifted chan struct{}
	// after is called when the fault is lifted.
	after []func()
}

// Inject starts a fault and returns what lifts it; lifting twice is fine.
func (f *Faults) Inject(fault Fault) (lift func()) {
	in := &injection{Fault: fault, left: fault.Times, lifted: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.active = append(f.active, in)
	f.injected.Add(1)
	return func() { f.lift(in) }
}

// Fail makes the next n calls of op answer err without effect; n = 0 means all until the fault is lifted.
func (f *Faults) Fail(op Operation, n int, err error) (lift func()) {
	return f.Inject(Fault{Operation: op, Times: n, Err: err})
}

// Hang makes the next n calls of op hang; n = 0 means all until the fault is lifted.
func (f *Faults) Hang(op Operation, n int) (lift func()) {
	return f.Inject(Fault{Operation: op, Times: n, Hang: true})
}

// BrokerDown makes every operation but Close answer Unavailable until it is lifted. A Fetch that waits already is not hit.
func (f *Faults) BrokerDown() (lift func()) {
	err := driver.Errorf(driver.Unavailable, "", "the broker is down (injected fault)")
	var lifts []func()
	for op := range Close {
		lifts = append(lifts, f.Fail(op, 0, err))
	}
	return func() {
		for _, lift := range lifts {
			lift()
		}
	}
}

// Clear lifts every fault.
func (f *Faults) Clear() {
	f.mu.Lock()
	active := slices.Clone(f.active)
	f.mu.Unlock()
	for _, in := range active {
		f.lift(in)
	}
}

// Calls counts the calls of op so far, hit or not.
func (f *Faults) Calls(op Operation) int { return int(f.calls[op].Load()) }

// Hanging counts the calls of op that hang now.
func (f *Faults) Hanging(op Operation) int { return int(f.hanging[op].Load()) }

func (f *Faults) lift(in *injection) {
	f.mu.Lock()
	if i := slices.Index(f.active, in); i >= 0 {
		f.active = slices.Delete(f.active, i, i+1)
		f.injected.Add(-1)
	}
	select {
	case <-in.lifted:
		f.mu.Unlock()
		return
	default:
		close(in.lifted)
	}
	after := in.after
	in.after = nil
	f.mu.Unlock()
	for _, do := range after {
		do()
	}
}

// fate is what a call has to expect: an error instead of its effect, or after it.
type fate struct{ before, after error }

// enter counts a call and applies the fault that fits, if any. It blocks only for a Hang. done ends with the client; nil = no client yet.
func (f *Faults) enter(ctx context.Context, op Operation, group string, done <-chan struct{}) fate {
	f.calls[op].Add(1)
	if f.injected.Load() == 0 {
		return fate{}
	}
	in := f.choose(op, group)
	if in == nil {
		return fate{}
	}
	if in.Hang {
		return fate{before: f.hang(ctx, in, done)}
	}
	err := in.Err
	if err == nil {
		err = driver.Errorf(driver.Unavailable, "", "injected fault")
	}
	if in.AnswerLost && op != Open && op != Probe && op != Keep && op != Fetch && op != Lag && op != Close {
		return fate{after: err}
	}
	return fate{before: err}
}

// choose finds the fault for a call and uses it up by one. A Hang stays liftable after its last call.
func (f *Faults) choose(op Operation, group string) *injection {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, in := range f.active {
		if in.Operation != op || in.Group != "" && in.Group != group || in.Times > 0 && in.left == 0 {
			continue
		}
		in.left--
		return in
	}
	return nil
}

func (f *Faults) hang(ctx context.Context, in *injection, done <-chan struct{}) error {
	f.hanging[in.Operation].Add(1)
	defer f.hanging[in.Operation].Add(-1)
	select {
	case <-in.lifted:
		return nil
	case <-ctx.Done():
		return timeout(ctx)
	case <-done:
		return closedError()
	}
}

// enterClose applies a fault to Close, whose shutdown must happen sooner or later whatever the fault does.
func (f *Faults) enterClose(ctx context.Context, group string, shutdown func()) error {
	f.calls[Close].Add(1)
	var in *injection
	if f.injected.Load() > 0 {
		in = f.choose(Close, group)
	}
	if in == nil {
		shutdown()
		return nil
	}
	if !in.Hang {
		shutdown()
		if in.Err == nil {
			return driver.Errorf(driver.Unavailable, "", "injected fault")
		}
		return in.Err
	}
	err := f.hang(ctx, in, nil)
	if err == nil || !f.whenLifted(in, shutdown) {
		shutdown()
	}
	return err
}

// whenLifted registers do; it reports false when the fault is lifted already.
func (f *Faults) whenLifted(in *injection, do func()) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-in.lifted:
		return false
	default:
		in.after = append(in.after, do)
		return true
	}
}

func timeout(ctx context.Context) error {
	return driver.Errorf(driver.Timeout, "", "no answer in time: %w", context.Cause(ctx))
}

func closedError() error { return driver.Errorf(driver.Closed, "", "the client is closed") }
