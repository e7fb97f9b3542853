// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/clientgo"
)

func classicDriver(t *testing.T) driver.Driver {
	t.Helper()
	d, err := clientgo.New(logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestAGroupWithClassicMembersIsRefusedAndOneThatGetsThemSaysSo(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	t.Parallel()
	topic, group := h.NewTopic(t, 2), h.NewGroup(t)
	c := h.openConsumer(t, h.consumerConfig(group, topic))
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	push, err := classicDriver(t).OpenConsumer(within(t, 30*time.Second), h.consumerConfig(group, topic))
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.driver.OpenConsumer(within(t, 20*time.Second), h.consumerConfig(group, topic))
	wantReason(t, "OpenConsumer", err, driver.GroupHasClassicMembers)
	wantReason(t, "ProbeConsumer", h.driver.ProbeConsumer(within(t, 20*time.Second), h.consumerConfig(group, topic)), driver.GroupHasClassicMembers)
	look := func() error {
		c.state.Lock()
		c.state.checkedMembers, c.state.looked = time.Time{}, time.Time{}
		c.state.Unlock()
		receiveNone(t, c, 300*time.Millisecond, "the topic is empty")
		return c.Err()
	}
	eventually(t, 10*time.Second, func() error {
		if err := look(); driver.ReasonOf(err) != driver.GroupHasClassicMembers {
			return driver.Errorf(driver.Unavailable, "", "Err is %v", err)
		}
		return nil
	})
	mustClose(t, push)
	eventually(t, 10*time.Second, look)
	mustClose(t, h.openConsumer(t, h.consumerConfig(group, topic)))
}

// TestASwitchFromTheLibraryLosesNothing: what it has sent back waits in a retry topic that pops do not read by themselves.
func TestASwitchFromTheLibraryLosesNothing(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	t.Parallel()
	topic, group := h.NewTopic(t, 2), h.NewGroup(t)
	p := h.openProducer(t, h.producerConfig(topic))
	old, err := classicDriver(t).OpenConsumer(within(t, 30*time.Second), h.consumerConfig(group, topic))
	if err != nil {
		t.Fatal(err)
	}
	sent := idsOfResults(send(t, p, topic, 12))
	rs := receive(t, old, 12, time.Minute)
	// In the order of their queues, which is not always that of their arrival: the library goes on behind what it has acknowledged without a gap.
	slices.SortFunc(rs, func(a, b *driver.Received) int { return cmp.Compare(a.Offset, b.Offset) })
	acknowledge(t, old, rs[:4]...)
	for _, r := range rs[:4] {
		delete(sent, r.ID)
	}
	nacked := map[string]bool{}
	for _, r := range rs[4:8] {
		if _, err := old.Nack(within(t, 10*time.Second), r.Handle, time.Second); err != nil {
			t.Fatal(err)
		}
		nacked[r.ID] = true
	}
	mustClose(t, old) // gives the last four back
	c := h.openConsumer(t, h.consumerConfig(group, topic))
	var got []*driver.Received
	for deadline := time.Now().Add(2 * classicEvery); len(got) < len(sent) && time.Now().Before(deadline); {
		more, err := c.Fetch(within(t, time.Second), fetchOf(32, 2*time.Second))
		if err != nil && driver.ReasonOf(err) != driver.Timeout {
			t.Fatal(err)
		}
		for _, r := range more {
			if r.Topic != topic || nacked[r.ID] && r.Attempt != 2 {
				t.Errorf("message %s of topic %q has attempt %d", r.ID, r.Topic, r.Attempt)
			}
		}
		got = append(got, more...)
		if len(got) == 1 {
			continue // its lease ends: also such a message must come again
		}
		acknowledge(t, c, more...)
	}
	same(t, sent, got)
}

// TestALeaseOfAClassicRetryEndsAsWell, and its handle acknowledges, extends and gives back as others do.
func TestALeaseOfAClassicRetryEndsAsWell(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	t.Parallel()
	topic, group := h.NewTopic(t, 1), h.NewGroup(t)
	p := h.openProducer(t, h.producerConfig(topic))
	old, err := classicDriver(t).OpenConsumer(within(t, 30*time.Second), h.consumerConfig(group, topic))
	if err != nil {
		t.Fatal(err)
	}
	send(t, p, topic, 1)
	if _, err := old.Nack(within(t, 10*time.Second), receive(t, old, 1, time.Minute)[0].Handle, 0); err != nil {
		t.Fatal(err)
	}
	mustClose(t, old)
	time.Sleep(2 * time.Second) // the library's shortest delay is over
	c := h.openConsumer(t, h.consumerConfig(group, topic))
	hurry := func() { // rather than wait for the next look
		c.state.Lock()
		defer c.state.Unlock()
		for _, p := range c.state.pairs {
			if !p.due.IsZero() {
				p.due = time.Now()
			}
		}
	}
	again := func(lease time.Duration) *driver.Received {
		t.Helper()
		var r *driver.Received
		eventually(t, 15*time.Second, func() error {
			hurry()
			rs, err := c.Fetch(within(t, 300*time.Millisecond), fetchOf(1, lease))
			if err == nil {
				r = rs[0]
			}
			return err
		})
		return r
	}
	r := again(time.Second)
	if r.Attempt != 2 {
		t.Errorf("attempt %d after one nack", r.Attempt)
	}
	if r = again(time.Minute); r.Attempt != 3 {
		t.Errorf("attempt %d after a nack and a lease that ended", r.Attempt)
	}
	if err := c.GiveBack(t.Context(), []driver.Handle{r.Handle})[0]; err != nil {
		t.Fatal(err)
	}
	if r = again(time.Minute); r.Attempt != 4 || r.Topic != topic {
		t.Errorf("attempt %d of topic %q after a give-back", r.Attempt, r.Topic)
	}
	if r.Handle, _, err = c.Extend(t.Context(), r.Handle, 2*time.Second); err != nil {
		t.Fatal(err)
	}
	acknowledge(t, c, r)
	for range 7 {
		hurry()
		receiveNone(t, c, time.Second, "it is acknowledged")
	}
}

// TestALeaseOfAClassicRetryThatEndsDoesNotStopTheBrokersRedelivery: after a plain pop of that topic it does, on one revive queue of eight.
func TestALeaseOfAClassicRetryThatEndsDoesNotStopTheBrokersRedelivery(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	t.Parallel()
	topic, group := h.NewTopic(t, 1), h.NewGroup(t)
	p := h.openProducer(t, h.producerConfig(topic))
	old, err := classicDriver(t).OpenConsumer(within(t, 30*time.Second), h.consumerConfig(group, topic))
	if err != nil {
		t.Fatal(err)
	}
	send(t, p, topic, 1)
	if _, err := old.Nack(within(t, 10*time.Second), receive(t, old, 1, time.Minute)[0].Handle, 0); err != nil {
		t.Fatal(err)
	}
	mustClose(t, old)
	time.Sleep(2 * time.Second) // the library's shortest delay is over
	c := h.openConsumer(t, h.consumerConfig(group, topic))
	r := receive(t, c, 1, time.Second)[0]
	time.Sleep(time.Until(r.Deadline) + 4*time.Second)
	mustClose(t, c)
	const n = 32 // pops take the revive queues in turn
	other := h.openConsumer(t, h.consumerConfig(h.NewGroup(t), topic))
	send(t, p, topic, n-1)
	for range n {
		if _, err := other.Nack(t.Context(), receive(t, other, 1, time.Minute)[0].Handle, 0); err != nil {
			t.Fatal(err)
		}
	}
	again := receive(t, other, n, time.Minute)
	acknowledge(t, other, again...)
}

func TestARetryTopicIsNoSubscription(t *testing.T) {
	d := New(logr.Discard())
	cfg := driver.ConsumerConfig{
		Connection: driver.Connection{NameServers: []string{"127.0.0.1:1"}, AllowAddress: func(string) error { return nil }},
		Group:      "g", Subscriptions: []driver.Subscription{{Topic: "%RETRY%g"}}, StartFrom: driver.Earliest,
	}
	_, err := d.OpenConsumer(t.Context(), cfg)
	wantReason(t, "OpenConsumer", err, driver.Invalid)
	wantReason(t, "ProbeConsumer", d.ProbeConsumer(t.Context(), cfg), driver.Invalid)
}

func TestAQueueThatIsAddedLaterIsReadFromItsBeginning(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	for name, reopen := range map[string]bool{"while the consumer runs": false, "while it is closed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			topic, group := h.NewTopic(t, 2), h.NewGroup(t)
			p := h.openProducer(t, h.producerConfig(topic))
			for range 4 {
				send(t, p, topic, 1) // older than the group
			}
			h.Settle(t)
			cfg := h.consumerConfig(group, topic)
			cfg.StartFrom = driver.Latest
			c := h.openConsumer(t, cfg)
			if reopen {
				mustClose(t, c)
			}
			if err := h.cluster.CreateTopic(t.Context(), topic, 6, nil); err != nil {
				t.Fatal(err)
			}
			q := (&harness{cluster: h.cluster, driver: New(logr.Discard()), user: h.user}).openProducer(t, h.producerConfig(topic)) // with the new route
			sent := map[string]bool{}
			for range 24 {
				for id := range idsOfResults(send(t, q, topic, 1)) {
					sent[id] = true
				}
			}
			if reopen {
				c = h.openConsumer(t, cfg)
			}
			got := receive(t, c, len(sent), time.Minute)
			same(t, sent, got)
			acknowledge(t, c, got...)
			queues := map[int]bool{}
			for _, r := range got {
				queues[r.Queue] = true
			}
			if len(queues) != 6 {
				t.Errorf("messages came from %d of 6 queues", len(queues))
			}
		})
	}
}

// TestAConsumerWithTheRightToSubscribeOnlyCanDoEverything: asking for offsets, members and statistics needs other rights.
func TestAConsumerWithTheRightToSubscribeOnlyCanDoEverything(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	t.Parallel()
	topic, group := h.NewTopic(t, 2), h.NewGroup(t)
	p := h.openProducer(t, h.producerConfig(topic))
	send(t, p, topic, 4)
	h.Settle(t)
	cfg := h.consumerConfig(group, topic)
	cfg.Connection.Credentials = h.newUser(t, "all_"+topic, rocketmq.Rights{Subscribe: []string{topic}, Groups: []string{group}})
	cfg.StartFrom = driver.Latest
	c := h.openConsumer(t, cfg)
	sent := idsOfResults(send(t, p, topic, 5))
	rs := receive(t, c, 5, time.Minute)
	same(t, sent, rs)
	acknowledge(t, c, rs[0])
	if _, err := c.Nack(t.Context(), rs[1].Handle, 0); err != nil {
		t.Errorf("nack: %v", err)
	}
	if err := c.DeadLetter(t.Context(), rs[2], "test"); err != nil {
		t.Errorf("dead letter: %v", err)
	}
	handle, _, err := c.Extend(t.Context(), rs[3].Handle, time.Minute)
	if err != nil {
		t.Errorf("extend: %v", err)
	}
	rs[3].Handle = handle
	again := receive(t, c, 1, time.Minute)[0]
	if again.ID != rs[1].ID || again.Attempt != 2 {
		t.Errorf("message %s came, attempt %d; want %s, attempt 2", again.ID, again.Attempt, rs[1].ID)
	}
	acknowledge(t, c, again, rs[3], rs[4])
	if lags, err := c.Lag(t.Context()); err != nil || lags[0].Waiting != 0 {
		t.Errorf("lag: %v, %v", lags, err)
	}
	if err := c.Err(); err != nil {
		t.Error(err)
	}
}

func TestRightsThatAreMissingAreFoundWhenAConsumerOpens(t *testing.T) {
	h := newHarness(t, shared.Cluster(t))
	t.Parallel()
	topic, group := h.NewTopic(t, 2), h.NewGroup(t)
	for name, credentials := range map[string]driver.Credentials{
		"may publish":         h.newUser(t, "publisher2_"+topic, rocketmq.Rights{Publish: []string{topic}}),
		"may read topic only": h.newUser(t, "topiconly_"+topic, rocketmq.Rights{Subscribe: []string{topic}}),
		"may nothing":         h.newUser(t, "nobody2_"+topic, rocketmq.Rights{}),
		"is anonymous":        {},
	} {
		cfg := h.consumerConfig(group, topic)
		cfg.Connection.Credentials = credentials
		_, err := h.driver.OpenConsumer(within(t, 20*time.Second), cfg)
		wantReason(t, "OpenConsumer of a user that "+name, err, driver.Unauthorized)
		wantReason(t, "ProbeConsumer of a user that "+name, h.driver.ProbeConsumer(within(t, 20*time.Second), cfg), driver.Unauthorized)
	}
}

func TestWhereBrokersDoNotCreateGroups(t *testing.T) {
	cluster := rocketmq.StartForTest(t, rocketmq.Options{ACL: true, ExtraBrokerConf: map[string]string{"autoCreateSubscriptionGroup": "false"}})
	h := newHarness(t, cluster)
	topic := h.NewTopic(t, 2)
	send(t, h.openProducer(t, h.producerConfig(topic)), topic, 1)

	// It is created by those who may; whoever may not is told what to do (TestAGroupThatMayNotBeCreatedIsExplained).
	c := h.openConsumer(t, h.consumerConfig(h.NewGroup(t), topic))
	acknowledge(t, c, receive(t, c, 1, time.Minute)...)

	// One that is deleted while it is in use is made again, by those who may.
	group := h.NewGroup(t)
	c = h.openConsumer(t, h.consumerConfig(group, topic))
	if err := cluster.DeleteGroup(t.Context(), group); err != nil {
		t.Fatal(err)
	}
	acknowledge(t, c, receive(t, c, 1, time.Minute)...)
}
