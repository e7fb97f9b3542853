// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/gate"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/letters"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// verbose is the log level for what harms nobody.
const verbose = 1

// consumer receives for one group by POP. While nobody fetches it is these fields: no goroutine, no timer, no poll and no heartbeat. state is the only
// thing that changes; its lock is held for computing only. What is leased is not recorded: handles say all that is needed, here or elsewhere.
type consumer struct {
	*letters.Box // what the group has given up
	driver       *Driver
	cluster      *cluster
	clocks       *clocks
	cfg          driver.ConsumerConfig
	group        string // with its namespace
	sources      []source
	marks        []uint32
	gate         *gate.Gate
	recent       recentAcks
	marked       seekMarks
	state        polls
}

// source is a topic that the consumer pops.
type source struct {
	// topic has its namespace; name is what applications call it.
	topic, name string
	filter      wire.Subscription
	// tags pass; none = all do.
	tags []string
	// classic is the group's retry topic of the time before POP. Pops of a topic bring the retries of POP, but not these: what the driver on the
	// library, or an SDK's push consumer, has sent back. Without it a change of the driver would lose them.
	//
	// It must be popped in order. The check point that a plain pop of such a topic leaves makes the broker's PopReviveService fail again and again when a
	// lease ends (KeyBuilder.parseNormalTopic cuts the topic's name behind its end, 5.5.0), and with it all redelivery, of every group, that goes
	// through the same revive queue. Ordered pops leave none: the same messages come again from the same place. The price for these leftovers is
	// that a give-back counts as an attempt.
	classic bool
}

// newConsumer makes one that has asked nothing yet. The caller owes leaveCluster.
func (d *Driver) newConsumer(cfg driver.ConsumerConfig) *consumer {
	cl := d.acquire(cfg.Connection)
	c := &consumer{driver: d, cluster: cl, clocks: cl.clocks, cfg: cfg, group: wire.WithNamespace(cfg.Connection.Namespace, cfg.Group), gate: gate.New()}
	c.sources = append(c.sources, source{topic: wire.RetryTopic(c.group), name: cfg.Subscriptions[0].Topic, classic: true})
	for _, s := range cfg.Subscriptions {
		tags, _ := driver.ParseTags(s.Tag) // Validate has parsed it
		topic := wire.WithNamespace(cfg.Connection.Namespace, s.Topic)
		c.sources = append(c.sources, source{topic: topic, name: s.Topic, filter: wire.NewSubscription(topic, s.Tag, s.SQL), tags: tags})
	}
	topics := make([]string, len(c.sources))
	for i := range c.sources {
		topics[i] = c.sources[i].topic
	}
	c.marks = marks(c.group, topics)
	c.state.ordered = cfg.Ordered
	cl.use(c.names()...)
	c.Box = letters.New(letters.Options{Wire: cl.wire, Routes: cl, Config: cfg, Gate: c.gate, Stored: c.hurryClassic})
	return c
}

// hurryClassic has the classic retry topic polled now, where a redriven message has just been stored; it may be the first one there ever was.
func (c *consumer) hurryClassic() {
	s := &c.state
	s.Lock()
	defer s.Unlock()
	s.hurried = time.Now()
	known := false
	for _, p := range s.pairs {
		if c.sources[p.source].classic && !p.gone {
			known, p.eager, p.lively = true, s.hurried.Add(classicEager), s.hurried
		}
	}
	if !known {
		s.looked, s.lookedClassic = time.Time{}, time.Time{}
	}
	s.wake()
}

// check refuses what would harm the broker; see source.classic.
func check(cfg *driver.ConsumerConfig) error {
	for i, s := range cfg.Subscriptions {
		if strings.HasPrefix(wire.WithNamespace(cfg.Connection.Namespace, s.Topic), wire.RetryTopic("")) {
			return driver.Errorf(driver.Invalid, fmt.Sprintf("subscriptions[%d].topic", i), "%q is a retry topic, which RocketMQ reads for its group by itself", s.Topic)
		}
	}
	return nil
}

// names are the topics that were subscribed.
func (c *consumer) names() []string {
	names := make([]string, 0, len(c.sources)-1)
	for _, s := range c.sources[1:] {
		names = append(names, s.topic)
	}
	return names
}

func (c *consumer) leaveCluster() {
	c.cluster.unuse(c.names()...)
	c.cluster.release()
}

// faultKept is how long a failed poll is reported when nobody fetches any more: whether it would still fail is unknown.
const faultKept = time.Minute

// Err implements driver.Consumer: what the cluster's checks found, classic members in the group, or a topic that fails on each of its brokers.
func (c *consumer) Err() error {
	if err := c.cluster.fault(c.names()...); err != nil {
		return err
	}
	c.state.Lock()
	defer c.state.Unlock()
	if c.state.classicMembers != nil {
		return c.state.classicMembers
	}
	faults := make([]error, len(c.sources))
	works := make([]bool, len(c.sources))
	for _, p := range c.state.pairs {
		switch {
		case p.gone:
		case p.err == nil || c.state.fetches == 0 && time.Since(p.retryAt) > faultKept:
			works[p.source] = true
		default:
			faults[p.source] = p.err
		}
	}
	for i, err := range faults {
		if err != nil && !works[i] && !c.sources[i].classic {
			return err
		}
	}
	return nil
}

// closeLimit bounds what Close asks of brokers.
const closeLimit = 5 * time.Second

// Close implements driver.Consumer. What came and was not fetched is given back. What Fetch has handed out stays leased to its deadline: an application
// may acknowledge it through another host, and after a give-back the broker would accept that without effect.
//
// A long poll that waits at a broker cannot be taken back. While others use the cluster's connections, what it still brings (for up to pollTime)
// is given back when it comes. When this was the last user, the connections are closed at once; brokers put nothing into a poll whose connection is
// closed, so that only a message which is on its way in that very moment waits for the end of its lease.
func (c *consumer) Close(ctx context.Context) error {
	if err := c.gate.Close(ctx, c.shutdown); err != nil {
		return wire.Errorf(err, "close the consumer of group %q", c.cfg.Group)
	}
	return nil
}

func (c *consumer) shutdown() error {
	// 1. Answers that come from here on go straight back, and the timer ends.
	c.state.Lock()
	c.state.closed = true
	c.disarmHold()
	c.state.Unlock()
	// 2. Calls under way have been told by the gate's life.
	c.gate.Wait()
	// 3. What came before is given back, and that is waited for: the next member shall find it.
	c.state.Lock()
	arrived, spare := c.state.takeAll()
	c.state.Unlock()
	if handles := c.allHandles(arrived, spare); len(handles) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
		errs := make([]error, len(handles))
		c.giveBack(ctx, handles, errs)
		cancel()
		c.logNotReturned(errs)
	}
	// 4. The last one out closes the connections.
	c.leaveCluster()
	return nil
}

func (c *consumer) logNotReturned(errs []error) {
	failed, first := 0, error(nil)
	for _, err := range errs {
		if err != nil {
			failed++
			first = err
		}
	}
	if failed > 0 {
		c.driver.log.Info("Messages could not be given back when the consumer closed; they come again when their leases end",
			"group", c.cfg.Group, "messages", failed, "reason", first.Error())
	}
}
