// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	library "github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// fakeLoop plays a pull loop of the library: it puts a pull's answer through the inlet and then starts a callback for each message.
type fakeLoop struct {
	t        *testing.T
	leases   *leases
	queue    loop
	next     int64
	verdicts sync.Map // offset -> library.ConsumeResult
	done     sync.WaitGroup
}

// table is a lease table and what it was told about throttling. It is closed at the test's end.
type table struct {
	*leases
	t         *testing.T
	throttled []bool
}

func newTable(t *testing.T) *table {
	tb := &table{t: t}
	tb.leases = newLeases("group", func(stop bool) { tb.throttled = append(tb.throttled, stop) })
	t.Cleanup(func() {
		tb.close()
		tb.release()
	})
	return tb
}

func (tb *table) loop(id int) *fakeLoop {
	return &fakeLoop{t: tb.t, leases: tb.leases, queue: &primitive.MessageQueue{Topic: "T", BrokerName: "b", QueueId: id}}
}

// message is one as the library decodes it.
func (l *fakeLoop) message(offset int64, size int) *arrival {
	m := &primitive.MessageExt{MsgId: fmt.Sprintf("%d-%d", l.queue.QueueId, offset), QueueOffset: offset}
	m.Topic, m.Body = "T", make([]byte, size)
	return newArrival(m, l.queue, "T", "")
}

// pull brings n messages and returns when they have passed; their callbacks run on.
func (l *fakeLoop) pull(n int) { l.pullSized(n, 1) }

func (l *fakeLoop) pullSized(n, size int) {
	batch := make([]*arrival, n)
	for i := range batch {
		batch[i] = l.message(l.next+int64(i), size)
	}
	from := l.next
	l.next += int64(n)
	if !l.leases.admit(l.queue, batch) {
		return
	}
	for i := range n {
		l.done.Go(func() { l.verdicts.Store(from+int64(i), l.leases.await(l.queue, from+int64(i))) })
	}
}

func (l *fakeLoop) verdict(offset int64) (library.ConsumeResult, bool) {
	v, ok := l.verdicts.Load(offset)
	if !ok {
		return 0, false
	}
	return v.(library.ConsumeResult), true
}

func (tb *table) fetch(n int, lease time.Duration) []*driver.Received {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var all []*driver.Received
	for len(all) < n {
		rs, err := tb.leases.fetch(ctx, driver.FetchRequest{MaxMessages: n - len(all), MaxBytes: 1 << 20, Lease: lease})
		if err != nil {
			tb.t.Fatalf("fetch after %d of %d: %v", len(all), n, err)
		}
		all = append(all, rs...)
	}
	return all
}

// nothing demands that no message can be leased at this moment.
func (tb *table) nothing(why string) {
	tb.t.Helper()
	rs, err := tb.leases.fetch(endsNow(), driver.FetchRequest{MaxMessages: 1, MaxBytes: 1, Lease: time.Second})
	if err == nil {
		tb.t.Fatalf("%s: message %s came", why, rs[0].ID)
	}
}

// endsNow is a context that ends when everything else in the bubble waits.
func endsNow() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Nanosecond)
	context.AfterFunc(ctx, cancel)
	return ctx
}

func wantReason(t *testing.T, what string, err error, want driver.Reason) {
	t.Helper()
	if err == nil || driver.ReasonOf(err) != want {
		t.Errorf("%s: got %v, want reason %s", what, err, want)
	}
}

func TestTheCallbackReturnsWhenTheMessageIsAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable(t)
		l := tb.loop(0)
		l.pull(3)
		rs := tb.fetch(3, time.Minute)
		for i, r := range rs {
			if r.Offset != int64(i) || r.Attempt != 1 {
				t.Errorf("place %d: offset %d, attempt %d; a queue's order must be kept", i, r.Offset, r.Attempt)
			}
		}
		time.Sleep(30 * time.Second)
		if err := tb.ack(rs[1].Handle); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if v, ok := l.verdict(1); !ok || v != library.ConsumeSuccess {
			t.Errorf("verdict %v, %v", v, ok)
		}
		if _, ok := l.verdict(0); ok {
			t.Error("the callback of another message returned")
		}
		if err := tb.ack(rs[1].Handle); err != nil {
			t.Errorf("a repeated ack inside the lease: %v", err)
		}
		time.Sleep(31 * time.Second)
		wantReason(t, "a repeated ack after the lease", tb.ack(rs[1].Handle), driver.LeaseExpired)
	})
}

func TestALeaseThatEndsMakesTheMessageComeAgainToTheSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable(t)
		tb.loop(0).pull(1)
		began := time.Now()
		for attempt := 1; attempt <= 5; attempt++ {
			r := tb.fetch(1, 10*time.Second)[0]
			if r.Attempt != attempt || time.Since(began) != time.Duration(attempt-1)*10*time.Second {
				t.Fatalf("attempt %d after %v, want %d", r.Attempt, time.Since(began), attempt)
			}
		}
	})
}

func TestHandlesOfEndedLeasesHaveNoEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable(t)
		l := tb.loop(0)
		l.pull(1)
		first := tb.fetch(1, 10*time.Second)[0]
		second := tb.fetch(1, time.Minute)[0]
		wantReason(t, "ack", tb.ack(first.Handle), driver.LeaseExpired)
		wantReason(t, "give back", tb.giveBack(first.Handle), driver.LeaseExpired)
		_, _, err := tb.extend(first.Handle, time.Minute)
		wantReason(t, "extend", err, driver.LeaseExpired)
		_, err = tb.settle(first.Handle)
		wantReason(t, "settle", err, driver.LeaseExpired)
		synctest.Wait()
		if _, ok := l.verdict(0); ok {
			t.Error("an ended handle ended the callback")
		}
		if err := tb.ack(second.Handle); err != nil {
			t.Errorf("ack in the second lease: %v", err)
		}
	})
}

func TestExtendReplacesTheHandleAndTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable(t)
		tb.loop(0).pull(1)
		r := tb.fetch(1, 10*time.Second)[0]
		h, deadline, err := tb.extend(r.Handle, time.Minute)
		if err != nil || time.Until(deadline) != time.Minute {
			t.Fatalf("deadline in %v, %v", time.Until(deadline), err)
		}
		wantReason(t, "ack with the old handle", tb.ack(r.Handle), driver.LeaseExpired)
		time.Sleep(59 * time.Second)
		tb.nothing("the lease is extended")
		h, _, err = tb.extend(h, time.Second) // shorter works too
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if again := tb.fetch(1, time.Minute)[0]; again.Attempt != 2 || time.Since(began) != time.Second {
			t.Errorf("attempt %d after %v", again.Attempt, time.Since(began))
		}
		wantReason(t, "ack with the handle that was set shorter", tb.ack(h), driver.LeaseExpired)
	})
}

func TestGivingBackDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable(t)
		tb.loop(0).pull(2)
		for range 3 {
			r := tb.fetch(1, time.Minute)[0]
			if r.Attempt != 1 || r.Offset != 0 {
				t.Fatalf("offset %d, attempt %d: what was given back comes first and unchanged", r.Offset, r.Attempt)
			}
			if err := tb.giveBack(r.Handle); err != nil {
				t.Fatal(err)
			}
			wantReason(t, "ack after giving back", tb.ack(r.Handle), driver.LeaseExpired)
		}
	})
}

func TestANackThatFailsLeavesTheLeaseAndOneThatWorksEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable(t)
		l := tb.loop(0)
		l.pull(1)
		r := tb.fetch(1, time.Minute)[0]
		a, err := tb.settle(r.Handle)
		if err != nil {
			t.Fatal(err)
		}
		wantReason(t, "ack while the nack is written", tb.ack(r.Handle), driver.LeaseExpired)
		tb.unsettled(a)
		if a, err = tb.settle(r.Handle); err != nil {
			t.Fatalf("the second nack: %v", err)
		}
		tb.settled(a, true)
		synctest.Wait()
		if v, ok := l.verdict(0); !ok || v != library.ConsumeSuccess {
			t.Errorf("verdict %v, %v: the copy is stored, so the original is done", v, ok)
		}
		wantReason(t, "ack after the nack", tb.ack(r.Handle), driver.LeaseExpired)
	})
}

func TestALeaseThatEndsDuringAFailingNackMakesTheMessageComeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable(t)
		tb.loop(0).pull(1)
		r := tb.fetch(1, 10*time.Second)[0]
		a, err := tb.settle(r.Handle)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second)
		tb.nothing("the nack may still work")
		tb.unsettled(a)
		if again := tb.fetch(1, time.Minute)[0]; again.Attempt != 2 {
			t.Errorf("attempt %d", again.Attempt)
		}
	})
}

func TestFetchKeepsToItsBytesButForTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable(t)
		l := tb.loop(0)
		l.pullSized(1, 5000)
		l.pullSized(5, 1000)
		synctest.Wait() // all callbacks have begun
		var sizes []int
		for range 4 {
			rs, err := tb.leases.fetch(t.Context(), driver.FetchRequest{MaxMessages: 9, MaxBytes: 2100, Lease: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			sizes = append(sizes, len(rs))
		}
		if want := []int{1, 2, 2, 1}; !slices.Equal(sizes, want) {
			t.Errorf("got %v messages, want %v", sizes, want)
		}
	})
}

func TestCloseAnswersEveryoneAndLetsCallbacksGoOnlyWhenReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable(t)
		l := tb.loop(0)
		l.pull(2)
		r := tb.fetch(1, time.Minute)[0]
		fetched := make(chan error)
		l2 := tb.loop(1)
		l2.pull(1) // one more waits
		tb.fetch(2, time.Minute)
		go func() {
			_, err := tb.leases.fetch(context.Background(), driver.FetchRequest{MaxMessages: 1, MaxBytes: 1, Lease: time.Second})
			fetched <- err
		}()
		synctest.Wait()
		tb.close()
		if err := <-fetched; !errors.Is(err, driver.ErrClosed) {
			t.Errorf("the waiting Fetch got %v", err)
		}
		if err := tb.ack(r.Handle); !errors.Is(err, driver.ErrClosed) {
			t.Errorf("ack: %v", err)
		}
		synctest.Wait()
		if _, ok := l.verdict(0); ok {
			t.Error("a callback returned before the library was shut down: its return could count as an acknowledgement")
		}
		tb.release()
		l.done.Wait()
		if v, _ := l.verdict(0); v != library.ConsumeRetryLater {
			t.Errorf("verdict %v: what is not acknowledged must never look consumed", v)
		}
	})
}

func TestPositionsAndHolesForClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable(t)
		l := tb.loop(0)
		l.next = 100
		l.pull(5)
		rs := tb.fetch(5, time.Minute)
		for _, i := range []int{0, 2} {
			if err := tb.ack(rs[i].Handle); err != nil {
				t.Fatal(err)
			}
		}
		q := tb.leftOpen()[0]
		if got := tb.committable(q); got != 101 {
			t.Errorf("committable %d, want 101", got)
		}
		holes := tb.holes(q)
		if len(holes) != 1 || holes[0].content.Offset != 101 {
			t.Fatalf("holes %v, want offset 101 only", holes)
		}
		tb.givenAway(holes[0])
		if got := tb.committable(q); got != 103 {
			t.Errorf("committable %d after the hole was given away, want 103", got)
		}
		for _, i := range []int{3, 4} {
			if err := tb.ack(rs[i].Handle); err != nil {
				t.Fatal(err)
			}
		}
		if got := tb.committable(q); got != 105 {
			t.Errorf("committable %d when all is done, want 105", got)
		}
	})
}

func TestHandlesAreRefusedUnlessWeMadeThem(t *testing.T) {
	good := ticket{group: 1, client: 2, arrival: 3, lease: 4, deadline: time.UnixMilli(5)}
	if got, ok := parseHandle(good.handle()); !ok || got != good {
		t.Fatalf("got %+v, %v", got, ok)
	}
	h := string(good.handle())
	for i := range h {
		for _, c := range []byte{'A', 'z', '.', 0} {
			if bad := h[:i] + string(c) + h[i+1:]; bad != h {
				if _, ok := parseHandle(driver.Handle(bad)); ok {
					t.Errorf("%q was taken, %q is right", bad, h)
				}
			}
		}
	}
	for _, bad := range []string{"", "cg1.", h + "A", h[1:], h[:len(h)-1]} {
		if _, ok := parseHandle(driver.Handle(bad)); ok {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestHandlesOfAnotherGroupAreInvalidAndOfAnotherClientExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb, other := newTable(t), newTable(t)
		foreign := &table{t: t, leases: newLeases("another group", func(bool) {})}
		defer func() { foreign.close(); foreign.release() }()
		foreign.loop(0).pull(1)
		other.loop(0).pull(1)
		wantReason(t, "another group", tb.ack(foreign.fetch(1, time.Minute)[0].Handle), driver.InvalidHandle)
		wantReason(t, "another client of the group", tb.ack(other.fetch(1, time.Minute)[0].Handle), driver.LeaseExpired)
		future := ticket{group: tb.group, client: tb.client, arrival: 77, lease: 1, deadline: time.Now().Add(time.Hour)}
		wantReason(t, "an arrival that never was", tb.ack(future.handle()), driver.LeaseExpired)
	})
}

func FuzzParseHandle(f *testing.F) {
	f.Add(string(ticket{group: 1, client: 2, arrival: 3, lease: 4, deadline: time.UnixMilli(5)}.handle()))
	f.Add("cg1.")
	f.Fuzz(func(t *testing.T, text string) {
		if ticket, ok := parseHandle(driver.Handle(text)); ok && string(ticket.handle()) != text {
			t.Fatalf("%q means %+v, which is %q", text, ticket, ticket.handle())
		}
	})
}
