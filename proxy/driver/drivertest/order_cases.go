// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

var orderedSendCases = []testCase{
	{name: "equal sharding keys go to the queue that the Java proxy would choose, in their order", run: caseShards},
	{name: "after a failed message the later ones of its sharding key are not stored", run: caseBehind},
	{name: "calls side by side keep the order of their own keys", run: caseShardsSideBySide},
}

// keyed is a message with a sharding key, whose body is n of its key.
func keyed(topic, key string, n int) *driver.Message {
	m := message(topic)
	m.ShardingKey, m.Body = key, fmt.Appendf(nil, "%s/%d", key, n)
	return m
}

const shardQueues = 5

// caseShards mixes what drivers send in different requests: large bodies that are compressed, messages without a key, many keys.
func caseShards(k *kit) {
	topic, group := k.h.NewTopic(k, shardQueues), k.h.NewGroup(k)
	p, c := k.producer(topic), k.consumer(group, topic)
	var all []*driver.Message
	for n := range 12 {
		for i, key := range []string{"order-1", "order-2", "order-42", "user:1234567890", "日本語", "😀", "a b"} {
			m := keyed(topic, key, n)
			if (n+i)%3 == 0 {
				m.Body = append(m.Body, strings.Repeat(" ", 10_000)...)
			}
			all = append(all, m)
		}
		all = append(all, message(topic))
	}
	last := map[string]int64{}
	for chunk := range slices.Chunk(all, 20) {
		for i, r := range p.Send(k.within(30*time.Second), topic, chunk) {
			key := chunk[i].ShardingKey
			if r.Err != nil {
				k.Fatalf("message of key %q: %v", key, r.Err)
			}
			if key == "" {
				continue
			}
			if want := driver.Shard(key, shardQueues); r.Queue != want {
				k.Errorf("key %q was stored in queue %d, want %d", key, r.Queue, want)
			}
			if before, seen := last[key]; seen && r.Offset <= before {
				k.Errorf("key %q: offset %d comes after %d", key, r.Offset, before)
			}
			last[key] = r.Offset
		}
	}
	places := map[string][]int64{}
	for _, r := range k.consume(c, len(all)) {
		if r.ShardingKey != "" {
			places[r.ShardingKey] = append(places[r.ShardingKey], r.Offset)
		}
		if _, shown := r.Properties[driver.PropertyShardingKey]; shown {
			k.Errorf("message %s shows its sharding key as a property", r.ID)
		}
	}
	for key := range last {
		if n := len(places[key]); n != 12 {
			k.Errorf("%d of 12 messages of key %q came with it", n, key)
		}
	}
}

func caseBehind(k *kit) {
	topic, group := k.h.NewTopic(k, 2), k.h.NewGroup(k)
	p, c := k.producer(topic), k.consumer(group, topic)
	bad, later := keyed(topic, "a", 2), keyed(topic, "d", 1)
	bad.Body = nil
	later.When = driver.When{Delay: ahead}
	all := []*driver.Message{keyed(topic, "a", 1), bad, keyed(topic, "b", 1), keyed(topic, "a", 3), message(topic), later, keyed(topic, "d", 2), keyed(topic, "a", 4)}
	want := []driver.Reason{"", driver.InvalidMessage, "", driver.EarlierFailed, "", driver.InvalidMessage, driver.EarlierFailed, driver.EarlierFailed}
	for i, r := range p.Send(k.within(30*time.Second), topic, all) {
		if (r.Err == nil) != (want[i] == "") || r.Err != nil && driver.ReasonOf(r.Err) != want[i] {
			k.Errorf("message %d of key %q: %v, want reason %q", i, all[i].ShardingKey, r.Err, want[i])
		}
	}
	k.wantSame([]*driver.Message{all[0], all[2], all[4]}, k.consume(c, 3))
	k.sendBatch(p, all[3], all[7]) // sent again, they are stored
	k.wantSame([]*driver.Message{all[3], all[7]}, k.consume(c, 2))
}

func caseShardsSideBySide(k *kit) {
	const callers, rounds = 16, 20
	topic, group := k.h.NewTopic(k, 3), k.h.NewGroup(k)
	p, c := k.producer(topic), k.consumer(group, topic)
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for n := range rounds {
				for _, r := range p.Send(k.within(30*time.Second), topic, []*driver.Message{keyed(topic, fmt.Sprint(caller), 2*n), keyed(topic, fmt.Sprint(caller), 2*n+1)}) {
					if r.Err != nil {
						k.Errorf("caller %d: %v", caller, r.Err)
					}
				}
			}
		})
	}
	wg.Wait()
	byKey := map[string][]*driver.Received{}
	for _, r := range k.consume(c, 2*callers*rounds) {
		byKey[r.ShardingKey] = append(byKey[r.ShardingKey], r)
	}
	for key, rs := range byKey {
		slices.SortFunc(rs, func(a, b *driver.Received) int { return int(a.Offset - b.Offset) })
		for n, r := range rs {
			if want := fmt.Sprintf("%s/%d", key, n); string(r.Body) != want || r.Queue != rs[0].Queue {
				k.Fatalf("message %d of key %q is %q in queue %d, want %q in queue %d", n, key, r.Body, r.Queue, want, rs[0].Queue)
			}
		}
	}
}

var orderedCases = []testCase{
	{name: "an ordered consumer is refused where the driver has no order", run: caseNoOrder},
	{name: "an ordered batch holds its queue back for all members until it is acknowledged", run: caseOrderedBatch},
	{name: "one queue that is held back does not hold the others back", run: caseOrderedQueues},
	{name: "an ordered batch whose lease ends comes again from its first unacknowledged message on", run: caseOrderedExpiry},
	{name: "an ordered batch that is nacked comes again in order after the delay", run: caseOrderedNack},
	{name: "an extended ordered batch holds its queue back for longer", run: caseOrderedExtend},
	{name: "an ordered batch that is given back comes again at once, to anyone", run: caseOrderedGiveBack},
	{name: "a dead letter frees its ordered queue", run: caseOrderedDeadLetter},
	{name: "members that ack, forget and nack see each queue in order", run: caseOrderedWalk},
	{name: "an ordered queue keeps its order through a restart of the broker", alone: true, long: true, run: caseOrderedRestart},
}

func (k *kit) ordered(group, topic string) driver.Consumer {
	k.Helper()
	if !k.caps.Ordered {
		k.Skip("this driver does not deliver in order")
	}
	cfg := k.consumerConfig(group, driver.Earliest, driver.Subscription{Topic: topic})
	cfg.Ordered = true
	return k.consumerOf(cfg)
}

func caseNoOrder(k *kit) {
	if k.caps.Ordered {
		k.Skip("this driver delivers in order")
	}
	cfg := k.consumerConfig(k.h.NewGroup(k), driver.Earliest, driver.Subscription{Topic: k.h.NewTopic(k, 1)})
	cfg.Ordered = true
	_, err := k.d.OpenConsumer(k.within(k.facts.Open), cfg)
	for _, err := range []error{err, k.d.ProbeConsumer(k.within(k.facts.Open), cfg)} {
		var detailed *driver.Error
		if !errors.As(err, &detailed) || detailed.Reason != driver.Unsupported || detailed.Field != "order" {
			k.Errorf("got %v, want Unsupported about order", err)
		}
	}
}

// line puts n messages into the only queue of a new topic, and opens an ordered member on it. It returns when a Fetch finds all of them: a broker answers a
// send before it shows the message, and what is shown later is held back behind the batch that came without it.
func (k *kit) line(n int) (topic, group string, c driver.Consumer, sent []*driver.Message) {
	k.Helper()
	topic, group = k.h.NewTopic(k, 1), k.h.NewGroup(k)
	c = k.ordered(group, topic)
	for i := range n {
		sent = append(sent, keyed(topic, "k", i))
	}
	k.sendBatch(k.producer(topic), sent...)
	k.h.Settle(k)
	return topic, group, c, sent
}

// wantLine demands that got is these messages in order and one batch, and each of that attempt; 0 = of any.
func (k *kit) wantLine(got []*driver.Received, sent []*driver.Message, attempt int) {
	k.Helper()
	if len(got) != len(sent) {
		k.Fatalf("%d messages, want %d", len(got), len(sent))
	}
	for i, r := range got {
		if r.ID != sent[i].ID {
			k.Fatalf("place %d has %q, want %q", i, r.Body, sent[i].Body)
		}
		if r.Batch == 0 || r.Batch != got[0].Batch {
			k.Fatalf("place %d is of batch %d, the first of %d", i, r.Batch, got[0].Batch)
		}
		if attempt > 0 {
			k.wantAttempt(r, attempt)
		}
	}
}

// fetchOnce is one Fetch.
func (k *kit) fetchOnce(c driver.Consumer, n int, lease, limit time.Duration) []*driver.Received {
	k.Helper()
	got, err := c.Fetch(k.within(limit), driver.FetchRequest{MaxMessages: n, MaxBytes: math.MaxInt32, Lease: lease})
	if err != nil {
		k.Fatalf("Fetch: %v", err)
	}
	return got
}

func caseOrderedBatch(k *kit) {
	topic, group, first, sent := k.line(7)
	second := k.ordered(group, topic)
	got := k.fetchOnce(first, 4, longLease, k.facts.Open+k.facts.Late)
	k.wantLine(got, sent[:4], 1)
	k.fetchNone(second, k.facts.Quiet, "the queue is held back")
	k.fetchNone(first, k.facts.Quiet, "the queue is held back for who has it, too")
	k.ack(first, got[:3]...)
	k.fetchNone(second, k.facts.Quiet, "one is not acknowledged")
	answer := k.fetching(second)
	k.ack(first, got[3])
	next := <-answer
	if next.err != nil {
		k.Fatal(next.err)
	}
	// Of any attempt: what a poll brought that the members' earlier calls have left at the broker may have been given back.
	k.wantLine(next.messages, sent[4:5], 0)
	k.ack(first, next.messages...) // any member may acknowledge
	rest := k.fetchOnce(first, 10, longLease, k.facts.Open+k.facts.Late)
	k.wantLine(rest, sent[5:], 0)
	if rest[0].Batch == got[0].Batch {
		k.Errorf("two batches have the number %d", got[0].Batch)
	}
	k.ack(first, rest...)
	k.fetchNone(first, k.facts.Quiet, "everything is acknowledged")
}

func caseOrderedQueues(k *kit) {
	topic, group := k.h.NewTopic(k, 4), k.h.NewGroup(k)
	c := k.ordered(group, topic)
	p := k.producer(topic)
	byQueue := map[int][]*driver.Message{}
	for i := 0; len(byQueue) < 2; i++ {
		key := fmt.Sprint("key-", i)
		if queue := driver.Shard(key, 4); queue < 2 && byQueue[queue] == nil {
			byQueue[queue] = []*driver.Message{keyed(topic, key, 0), keyed(topic, key, 1), keyed(topic, key, 2)}
		}
	}
	k.sendBatch(p, byQueue[0]...)
	k.h.Settle(k)
	held := k.fetchOnce(c, 1, longLease, k.facts.Open+k.facts.Late)
	k.wantLine(held, byQueue[0][:1], 1)
	k.sendBatch(p, byQueue[1]...)
	k.h.Settle(k) // all of them are shown, as in line
	other := k.fetchOnce(c, 10, longLease, k.facts.Open+k.facts.Late)
	k.wantLine(other, byQueue[1], 1)
	k.ack(c, other...)
	k.fetchNone(c, k.facts.Quiet, "the first queue is held back")
	k.ack(c, held...)
	rest := k.fetchOnce(c, 10, longLease, k.facts.Open+k.facts.Late)
	k.wantLine(rest, byQueue[0][1:], 1)
	k.ack(c, rest...)
}

func caseOrderedExpiry(k *kit) {
	_, _, c, sent := k.line(4)
	got := k.fetchOnce(c, 3, k.facts.Lease, k.facts.Open+k.facts.Late)
	k.wantLine(got, sent[:3], 1)
	k.ack(c, got[0])
	for attempt := 2; attempt <= 3; attempt++ {
		due := got[len(got)-1].Deadline
		got = k.fetchOnce(c, 2, k.facts.Lease, time.Until(due)+k.facts.Late+time.Second)
		k.wantBetween("the end of the lease", due)
		k.wantLine(got, sent[1:3], attempt)
	}
	k.ack(c, got...)
	last := k.fetchOnce(c, 3, longLease, k.facts.Open+k.facts.Late)
	k.wantLine(last, sent[3:], 1)
	k.ack(c, last...)
	k.fetchNone(c, k.facts.Quiet, "everything is acknowledged")
}

func caseOrderedNack(k *kit) {
	_, _, c, sent := k.line(4)
	got := k.fetchOnce(c, 3, longLease, k.facts.Open+k.facts.Late)
	k.ack(c, got[0])
	var due time.Time
	for _, r := range got[1:] {
		effective, err := c.Nack(k.within(k.facts.Open), r.Handle, k.facts.Nack)
		if err != nil || effective < k.facts.Nack {
			k.Fatalf("nack with %v: %v, %v", k.facts.Nack, effective, err)
		}
		due = time.Now().Add(effective)
	}
	again := k.fetchOnce(c, 2, longLease, k.facts.Nack+k.facts.Late+time.Second)
	k.wantBetween("the delay of the nack", due)
	k.wantLine(again, sent[1:3], 2)
	k.ack(c, again...)
	last := k.fetchOnce(c, 3, longLease, k.facts.Open+k.facts.Late)
	k.wantLine(last, sent[3:], 1)
	k.ack(c, last...)
}

func caseOrderedExtend(k *kit) {
	_, _, c, sent := k.line(3)
	got := k.fetchOnce(c, 2, k.facts.Lease, k.facts.Open+k.facts.Late)
	ends := got[1].Deadline
	lease := 2*k.facts.Lease + 2*k.facts.Late
	var deadline time.Time
	for _, r := range got {
		h, until, err := c.Extend(k.within(k.facts.Open), r.Handle, lease)
		if err != nil {
			k.Fatalf("extend: %v", err)
		}
		r.Handle, deadline = h, until
	}
	if off := time.Until(deadline) - lease; off > k.facts.Late || off < -k.facts.Late {
		k.Fatalf("a lease of %v ends in %v", lease, time.Until(deadline))
	}
	k.fetchNone(c, time.Until(ends)+k.facts.Late, "the lease is extended")
	k.ack(c, got[0])
	k.fetchNone(c, k.facts.Quiet, "the other one's lease is extended")
	again := k.fetchOnce(c, 1, longLease, time.Until(deadline)+k.facts.Late+time.Second)
	k.wantBetween("the end of the extended lease", deadline)
	k.wantLine(again, sent[1:2], 2)
	h, _, err := c.Extend(k.within(k.facts.Open), again[0].Handle, 2*longLease)
	if err != nil {
		k.Fatal(err)
	}
	k.noErrors("Ack with the new handle", c.Ack(k.within(k.facts.Open), []driver.Handle{h}), 1)
	last := k.fetchOnce(c, 3, longLease, k.facts.Open+k.facts.Late)
	k.wantLine(last, sent[2:], 1)
	k.ack(c, last...)
}

func caseOrderedGiveBack(k *kit) {
	topic, group, c, sent := k.line(3)
	second := k.ordered(group, topic)
	got := k.fetchOnce(c, 3, longLease, k.facts.Open+k.facts.Late)
	k.wantLine(got, sent, 1)
	k.noErrors("GiveBack", c.GiveBack(k.within(k.facts.Open), handles(got)), 3)
	back := time.Now()
	got = k.fetchOnce(second, 3, longLease, k.facts.Late+time.Second)
	k.wantBetween("what was given back", back)
	k.wantLine(got, sent, 0) // who has not given it back itself may count it
	k.noErrors("GiveBack", second.GiveBack(k.within(k.facts.Open), handles(got)), 3)
	again := k.fetchOnce(second, 3, longLease, k.facts.Late+time.Second)
	k.wantLine(again, sent, got[0].Attempt)
	k.ack(second, again...)
}

func caseOrderedDeadLetter(k *kit) {
	topic, group, c, sent := k.line(3)
	got := k.fetchOnce(c, 1, longLease, k.facts.Open+k.facts.Late)
	if err := c.DeadLetter(k.within(k.facts.Open), got[0], "poison"); err != nil {
		k.Fatal(err)
	}
	rest := k.fetchOnce(c, 3, longLease, k.facts.Open+k.facts.Late)
	k.wantLine(rest, sent[1:], 1)
	k.ack(c, rest...)
	letters := k.consumer(k.h.NewGroup(k), driver.DeadLetterTopic(group))
	letter := k.fetch(letters, 1, longLease)[0]
	if letter.ID != sent[0].ID || letter.ShardingKey != "k" || letter.Properties[driver.PropertyDeadLetterTopic] != topic {
		k.Errorf("the dead letter is %+v", letter.Message)
	}
	k.ack(letters, letter)
}

// lineLedger knows, per queue, what may be delivered.
type lineLedger struct {
	*kit
	mu      sync.Mutex
	acked   map[int]map[int64]bool
	seen    map[string]bool
	batches map[lineBatch]map[int64]bool
}

// lineBatch is a batch of a member.
type lineBatch struct {
	member driver.Consumer
	number uint64
	queue  int
}

func (k *kit) lineLedger() *lineLedger {
	return &lineLedger{kit: k, acked: map[int]map[int64]bool{}, seen: map[string]bool{}, batches: map[lineBatch]map[int64]bool{}}
}

// take looks at what a Fetch brought: whatever lies before a message in its queue is acknowledged, or came in front of it in its batch.
func (l *lineLedger) take(c driver.Consumer, got []*driver.Received) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range got {
		at := lineBatch{c, r.Batch, r.Queue}
		if l.batches[at] == nil {
			l.batches[at] = map[int64]bool{}
		}
		for offset := range r.Offset {
			if !l.acked[r.Queue][offset] && !l.batches[at][offset] {
				l.Errorf("queue %d: offset %d came while %d is not acknowledged", r.Queue, r.Offset, offset)
			}
		}
		l.batches[at][r.Offset] = true
	}
}

func (l *lineLedger) done(rs ...*driver.Received) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range rs {
		if l.acked[r.Queue] == nil {
			l.acked[r.Queue] = map[int64]bool{}
		}
		l.acked[r.Queue][r.Offset] = true
		l.seen[r.ID] = true
	}
}

func (l *lineLedger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.seen)
}

func caseOrderedWalk(k *kit) {
	const keys, each, members = 12, 25, 3
	topic, group := k.h.NewTopic(k, 4), k.h.NewGroup(k)
	l := k.lineLedger()
	p := k.producer(topic)
	for n := range each {
		var round []*driver.Message
		for key := range keys {
			round = append(round, keyed(topic, fmt.Sprint("key-", key), n))
		}
		k.sendBatch(p, round...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for member := range members {
		c := k.ordered(group, topic)
		wg.Go(func() { l.member(ctx, cancel, c, rand.New(rand.NewPCG(7, uint64(member))), keys*each) })
	}
	wg.Wait()
	if n := l.count(); n != keys*each {
		k.Errorf("%d of %d messages were acknowledged", n, keys*each)
	}
}

// member receives until all are acknowledged. It acknowledges nearly everything, in order; now and then it stops in the middle of what it got, and forgets or
// nacks the rest.
func (l *lineLedger) member(ctx context.Context, end func(), c driver.Consumer, rnd *rand.Rand, all int) {
	forgets := 2
	for ctx.Err() == nil {
		got, err := c.Fetch(ctx, driver.FetchRequest{MaxMessages: 1 + rnd.IntN(20), MaxBytes: math.MaxInt32, Lease: l.facts.Lease})
		if err != nil {
			return // the end
		}
		l.take(c, got)
		n := len(got)
		trouble := rnd.IntN(6)
		if trouble < 2 {
			n = rnd.IntN(len(got))
		}
		// The ledger first: what is acknowledged may free the next before the answer is here.
		l.done(got[:n]...)
		for i, err := range c.Ack(ctx, handles(got[:n])) {
			if err != nil && ctx.Err() == nil {
				l.Errorf("ack of %q: %v", got[i].Body, err)
			}
		}
		if l.count() == all {
			end()
			return
		}
		if trouble == 1 && forgets > 0 {
			forgets--
			continue
		}
		for _, r := range got[n:] {
			if _, err := c.Nack(ctx, r.Handle, 0); err != nil && ctx.Err() == nil {
				l.Errorf("nack of %q: %v", r.Body, err)
			}
		}
	}
}

func caseOrderedRestart(k *kit) {
	if k.facts.RestartBroker == nil {
		k.Skip("this broker is not restarted")
	}
	_, _, c, sent := k.line(8)
	lease := k.facts.Lease + 20*time.Second
	got := k.fetchOnce(c, 4, lease, k.facts.Open+k.facts.Late)
	k.ack(c, got[:2]...)
	k.facts.RestartBroker(k.T)
	l := k.lineLedger()
	// It may have forgotten the acknowledgements, and that anything was lent.
	l.done(got[:2]...)
	l.seen = map[string]bool{sent[0].ID: true, sent[1].ID: true}
	for end := time.Now().Add(2 * lease); l.count() < len(sent); {
		if time.Now().After(end) {
			k.Fatalf("%d of %d messages came", l.count(), len(sent))
		}
		again, err := c.Fetch(k.within(time.Second), driver.FetchRequest{MaxMessages: 3, MaxBytes: math.MaxInt32, Lease: lease})
		if err != nil {
			continue
		}
		l.take(c, again)
		l.done(again...)
		k.ack(c, again...)
	}
}
