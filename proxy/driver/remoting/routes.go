// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

const (
	// askAgain is how soon after the last answer a stale route is asked for again; while name servers fail it doubles up to askAgainMost.
	askAgain     = time.Second
	askAgainMost = 15 * time.Second
	// patience is how long a user waits for a newer route while there is one that may still do.
	patience = time.Second
)

// topic is what the cluster knows about one topic, its namespace included.
type topic struct {
	// users counts the open objects that name it.
	users int
	// view is the last good route; nil = none so far. It stays when name servers are away, and when they have forgotten the topic: they do that
	// as soon as a broker's connection breaks, long before the broker is given up, and a topic that is gone the brokers refuse themselves.
	view *view
	// fault is what was wrong with the last answer: the topic is missing, or leads to an address that is refused. nil after a good one, and
	// unchanged by a question that was not answered.
	fault error
	// question is under way, or nil.
	question *flight
	// asked is when the last question ended, used when somebody last wanted the route; failures counts unanswered questions in a row.
	asked, used time.Time
	failures    int
	// isStale asks for a new route at the next use.
	isStale bool
	// idle is this topic's own idle period, spread.
	idle time.Duration
}

// view is a route as it is used. It never changes, but for turn.
type view struct {
	route   *wire.Route
	masters map[string]string
	// turn counts sends, for the choice of queues. Views that are cut from this one share it.
	turn *atomic.Uint64
	// shares are the brokers with queues that can be written; queues is the sum.
	shares []share
	queues int
	// sharded are the queues among which sharding keys choose; see wire.Route.Sharded.
	sharded []wire.Queue
}

// share is a topic's writable queues on one broker.
type share struct {
	broker, address string
	queues          int
}

func newView(name string, r *wire.Route) *view {
	v := &view{route: r, masters: r.Masters(), turn: new(atomic.Uint64), sharded: r.Sharded(name)}
	v.turn.Store(rand.Uint64() >> 1)
	for _, q := range r.Writable(name) {
		if n := len(v.shares); n == 0 || v.shares[n-1].broker != q.Broker {
			v.shares = append(v.shares, share{broker: q.Broker, address: q.Address})
		}
		v.shares[len(v.shares)-1].queues++
		v.queues++
	}
	return v
}

// Route is route, as proof.Routes has it.
func (cl *cluster) Route(ctx context.Context, topic string) (*wire.Route, error) {
	return cl.route(ctx, topic)
}

// route is where topic is; the name has its namespace. It is answered from memory where that is fresh enough, else by one question at a time per
// topic, in which all masters' addresses are checked. While the name servers cannot answer, the last route goes on. Callers must not change it.
// A topic that does not exist: an error with wire.CodeTopicNotExist. It blocks for at most ctx.
func (cl *cluster) route(ctx context.Context, name string) (*wire.Route, error) {
	v, err := cl.viewOf(ctx, name)
	if err != nil {
		return nil, err
	}
	return v.route, nil
}

// address is where broker's master is, by topic's route. Unavailable: there is none at present.
func (cl *cluster) address(ctx context.Context, name, broker string) (string, error) {
	v, err := cl.viewOf(ctx, name)
	if err != nil {
		return "", wire.Errorf(err, "find broker %q", broker)
	}
	address, ok := v.masters[broker]
	if !ok {
		cl.stale(name)
		return "", driver.Errorf(driver.Unavailable, "", "broker %q of topic %q has no master at present", broker, name)
	}
	return address, nil
}

// stale says that topic's route may be wrong: the next user asks again, as soon as the last answer is a moment old.
func (cl *cluster) stale(name string) {
	cl.state.Lock()
	defer cl.state.Unlock()
	if t := cl.state.topics[name]; t != nil {
		t.isStale = true
	}
}

// use says that an open object names topics: their routes are kept and refreshed until unuse. It asks nothing.
func (cl *cluster) use(names ...string) {
	cl.state.Lock()
	defer cl.state.Unlock()
	for _, name := range names {
		cl.topicLocked(name).users++
	}
}

// unuse takes back what use said.
func (cl *cluster) unuse(names ...string) {
	cl.state.Lock()
	defer cl.state.Unlock()
	for _, name := range names {
		if t := cl.state.topics[name]; t != nil {
			t.users--
		}
	}
}

func (cl *cluster) topicLocked(name string) *topic {
	t := cl.state.topics[name]
	if t == nil {
		t = &topic{idle: about(cl.periods.idle), used: time.Now()}
		cl.state.topics[name] = t
	}
	return t
}

// viewOf is route, with what sending needs.
func (cl *cluster) viewOf(ctx context.Context, name string) (*view, error) {
	v, f := cl.look(name)
	if f == nil {
		return v, nil
	}
	if v == nil {
		if err := f.wait(ctx); err != nil {
			return nil, err
		}
	} else {
		limit, cancel := context.WithDeadline(ctx, f.started.Add(patience))
		err := f.wait(limit)
		cancel()
		if err != nil {
			return v, nil // the route there is goes on; the keeper reports name servers that are away
		}
	}
	cl.state.Lock()
	defer cl.state.Unlock()
	if t := cl.state.topics[name]; t != nil && t.view != nil {
		return t.view, nil
	}
	return nil, errClosed() // forgotten between answer and look: only a cluster without users forgets
}

// look is the route there is, and the question to wait for, which begins here if need be; no question = the route is good.
func (cl *cluster) look(name string) (*view, *flight) {
	now := time.Now()
	cl.state.Lock()
	t := cl.topicLocked(name)
	t.used = now
	if t.view != nil && !t.dueLocked(now, cl.periods.old) {
		defer cl.state.Unlock()
		return t.view, nil
	}
	v := t.view
	f, begin := t.askLocked()
	cl.state.Unlock()
	if begin {
		cl.ask(name, t, f)
	}
	return v, f
}

// askLocked is the question under way, or a new one that the caller begins with ask.
func (t *topic) askLocked() (f *flight, begin bool) {
	if t.question != nil {
		return t.question, false
	}
	t.question = newFlight()
	return t.question, true
}

// dueLocked reports whether the route is to be asked for again, at that age or because it is stale; never sooner than the last failure allows.
func (t *topic) dueLocked(now time.Time, age time.Duration) bool {
	since := now.Sub(t.asked)
	if since < min(askAgain<<min(t.failures, 8), askAgainMost) && t.view != nil {
		return false
	}
	return t.isStale || since >= age
}

// ask runs the question f about t.
func (cl *cluster) ask(name string, t *topic, f *flight) {
	var found *view
	cl.run(f, func(ctx context.Context) (err error) {
		found, err = cl.find(ctx, name)
		return err
	}, func(err error) {
		cl.state.Lock()
		defer cl.state.Unlock()
		t.question, t.asked = nil, time.Now()
		_, answered := wire.CodeOf(err)
		switch {
		case err == nil:
			t.view, t.fault, t.isStale, t.failures = found, nil, false, 0
		case answered || !driver.Retryable(err):
			t.fault, t.failures = err, 0
		default:
			t.failures++
			cl.state.suspicious = true
		}
	})
}

// find asks the name servers, and checks the addresses that would be dialled. A name that does not resolve now is no fault of the route.
func (cl *cluster) find(ctx context.Context, name string) (*view, error) {
	r, err := cl.wire.Route(ctx, name)
	if err != nil {
		return nil, err
	}
	for broker, address := range r.Masters() {
		_, err := wire.Resolve(ctx, address, cl.allow)
		if err != nil && !driver.Retryable(err) {
			return nil, wire.Errorf(err, "check broker %q", broker)
		}
	}
	return newView(name, r), nil
}

// autoQueues is how many queues a broker gives a topic that it makes by itself (TopicConfig's default, and what a send asks for).
const autoQueues = 4

// writable is the route to send to topic by, with at least one queue. For a topic that name servers do not know it is that of the brokers that make
// topics by themselves, if there are any.
func (cl *cluster) writable(ctx context.Context, name string) (*view, error) {
	v, err := cl.viewOf(ctx, name)
	if code, ok := wire.CodeOf(err); ok && code == wire.CodeTopicNotExist {
		makers, unknown := cl.viewOf(ctx, wire.DefaultTopic)
		if unknown != nil {
			return nil, err
		}
		v, err = makers.limited(autoQueues), nil
	}
	if err == nil && v.queues == 0 {
		cl.stale(name)
		err = driver.Errorf(driver.Unavailable, "", "topic %q has no queue that can be written: no master is up, or the topic is read-only", name)
	}
	return v, err
}

// limited is v with at most most queues a broker.
func (v *view) limited(most int) *view {
	l := &view{route: v.route, masters: v.masters, turn: v.turn}
	for _, s := range v.shares {
		s.queues = min(s.queues, most)
		l.shares = append(l.shares, s)
		l.queues += s.queues
	}
	for _, q := range v.sharded {
		if q.ID < most {
			l.sharded = append(l.sharded, q)
		}
	}
	return l
}
