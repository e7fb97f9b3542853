// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
)

// pop asks the broker of the first queue once. What is not set in r: any queue, 32 messages, lent for a minute.
func (s *site) pop(t *testing.T, r PopRequest) *Popped {
	t.Helper()
	if r.Invisible == 0 {
		r.Invisible = time.Minute
	}
	if r.Max == 0 {
		r.Max = 32
	}
	if r.Queue == 0 {
		r.Queue = -1
	}
	got := newEnded()
	s.Go(s.queues[0].Address, r.Command(), r.Poll+10*time.Second, got.done)
	end := got.once(t)
	must(t, "pop", end.err)
	if end.answer.Code == CodePollTimeout {
		return &Popped{}
	}
	if end.answer.Code != CodeSuccess {
		t.Fatalf("pop: code %d: %s", end.answer.Code, end.answer.Remark)
	}
	popped, err := DecodePop(end.answer, s.queues[0].Broker)
	must(t, "decode the pop", err)
	return popped
}

// ackAll acknowledges everything with one request.
func (s *site) ackAll(t *testing.T, group string, p *Popped) {
	t.Helper()
	var acks []Ack
	for _, m := range p.Messages {
		acks = append(acks, Ack{s.topic, m.Handle})
	}
	_, err := s.Invoke(t.Context(), s.queues[0].Address, BatchAckCommand(group, s.queues[0].Broker, acks))
	must(t, "batch ack", err)
}

// popSite is a topic on the real broker and a group of its own.
func popSite(t *testing.T, queues int) (*site, string) {
	t.Helper()
	cluster := shared.Cluster(t)
	noLeaks(t)
	return newSite(t, cluster, queues), "group_" + uuid.NewString()[:13]
}

// popUntil pops until n messages have come, each ask polling for a while.
func (s *site) popUntil(t *testing.T, n int, r PopRequest) []PoppedMessage {
	t.Helper()
	r.Poll = 2 * time.Second
	var all []PoppedMessage
	for limit := time.Now().Add(30 * time.Second); len(all) < n; {
		if time.Now().After(limit) {
			t.Fatalf("%d messages of %d came", len(all), n)
		}
		all = append(all, s.pop(t, r).Messages...)
	}
	return all
}

// waiting is how many messages the broker still has for group, its retry topic's included.
func (s *site) waiting(t *testing.T, group string) int64 {
	t.Helper()
	stats, err := s.ConsumeStats(t.Context(), s.queues[0].Address, group)
	must(t, "consume stats", err)
	var n int64
	for _, q := range stats {
		n += q.Max - q.Committed
	}
	return n
}

func (s *site) change(t *testing.T, c InvisibleChange) PopHandle {
	t.Helper()
	answer, err := s.Invoke(t.Context(), s.queues[0].Address, ChangeCommand(c))
	must(t, "change the invisible time", err)
	h, err := DecodeChange(answer, c.Handle)
	must(t, "decode the change", err)
	return h
}

func TestPoppedMessagesComeOnceAndAcksEndThem(t *testing.T) {
	s, group := popSite(t, 2)
	for _, q := range s.queues {
		s.store(t, q, 5)
	}
	r := PopRequest{Group: group, Topic: s.topic, Earliest: true, Invisible: 3 * time.Second}
	first := s.popUntil(t, 10, r)
	for i, m := range first {
		if m.Topic != s.topic || string(m.Body) != "body" || m.Properties["UNIQ_KEY"] == "" || m.Reconsumed != 0 || m.Handle.Offset != m.Offset || m.Handle.Queue != m.Queue {
			t.Errorf("message %d: %+v", i, m)
		}
		if lent := time.Until(m.Handle.Expires()); lent > 3*time.Second || lent < 0 {
			t.Errorf("message %d is lent for %v", i, lent)
		}
	}
	// One alone, seven together; two stay.
	_, err := s.Invoke(t.Context(), s.queues[0].Address, AckCommand(group, Ack{s.topic, first[0].Handle}))
	must(t, "ack", err)
	s.ackAll(t, group, &Popped{Messages: first[1:8]})
	want := map[string]bool{first[8].Properties["UNIQ_KEY"]: true, first[9].Properties["UNIQ_KEY"]: true}
	again := s.popUntil(t, 2, r)
	for _, m := range again {
		// They come from the retry topic, under their own topic's name, with a handle of their own.
		if id := m.Properties["UNIQ_KEY"]; !want[id] || m.Reconsumed != 1 || m.Handle.Kind != RetryV1 || m.Topic != s.topic || m.Properties[propertyPopCheck] == "" {
			t.Errorf("came again: %+v", m)
		}
		delete(want, m.Properties["UNIQ_KEY"])
	}
	s.ackAll(t, group, &Popped{Messages: again[:1]})
	if len(again) > 1 {
		_, err = s.Invoke(t.Context(), s.queues[0].Address, AckCommand(group, Ack{s.topic, again[1].Handle})) // names the retry topic
		must(t, "ack from the retry topic", err)
	}
	// Whatever was not acknowledged would be back within the lease and 3 s.
	r.Poll = 7 * time.Second
	if late := s.pop(t, r); len(late.Messages) != 0 {
		t.Errorf("came after its ack: %+v", late.Messages)
	}
	if n := s.waiting(t, group); n != 0 {
		t.Errorf("%d messages wait", n)
	}
}

func TestAChangedLeaseIsGovernedByItsNewHandle(t *testing.T) {
	s, group := popSite(t, 1)
	s.store(t, s.queues[0], 4)
	r := PopRequest{Group: group, Topic: s.topic, Earliest: true, Invisible: 20 * time.Second}
	m := s.popUntil(t, 4, r)
	back := func(i int, suspend bool) PopHandle {
		return s.change(t, InvisibleChange{Group: group, Topic: s.topic, Handle: m[i].Handle, Suspend: suspend})
	}
	counted, uncounted := back(0, false), back(1, true)
	if counted == m[0].Handle || counted.Start != m[0].Offset || uncounted.Offset != m[1].Offset {
		t.Errorf("new handles %v and %v", counted, uncounted)
	}
	longer := s.change(t, InvisibleChange{Group: group, Topic: s.topic, Handle: m[2].Handle, Invisible: time.Minute})
	if more := longer.Expires().Sub(m[2].Handle.Expires()); more < 30*time.Second {
		t.Errorf("the longer lease ends %v later", more)
	}
	s.ackAll(t, group, &Popped{Messages: []PoppedMessage{{Handle: longer}, m[3]}})
	reconsumed := map[string]int{}
	for _, again := range s.popUntil(t, 2, r) {
		reconsumed[again.Properties["UNIQ_KEY"]] = again.Reconsumed
	}
	if got := reconsumed[m[0].Properties["UNIQ_KEY"]]; got != 1 {
		t.Errorf("the one given back has %d deliveries before, want 1", got)
	}
	if got, came := reconsumed[m[1].Properties["UNIQ_KEY"]]; !came || got != 0 {
		t.Errorf("the one given back uncounted has %d deliveries before (%v), want 0", got, came)
	}
}

func TestLongPollsWakeAndEnd(t *testing.T) {
	s, group := popSite(t, 1)
	r := PopRequest{Group: group, Topic: s.topic, Queue: -1, Max: 1, Invisible: time.Minute, Poll: 5 * time.Second, Earliest: true}
	woken, empty := newEnded(), newEnded()
	began := time.Now()
	s.Go(s.queues[0].Address, r.Command(), 20*time.Second, woken.done)
	s.store(t, s.queues[0], 1)
	if end := woken.once(t); end.err != nil || end.answer.Code != CodeSuccess || time.Since(began) > 4*time.Second {
		t.Errorf("the poll with a message: %+v after %v", end, time.Since(began))
	}
	r.Poll, began = 2*time.Second, time.Now()
	s.Go(s.queues[0].Address, r.Command(), 20*time.Second, empty.done)
	if end := empty.once(t); end.err != nil || end.answer.Code != CodePollTimeout || time.Since(began) < 1500*time.Millisecond {
		t.Errorf("the poll without: %+v after %v", end, time.Since(began))
	}
}

func TestABrokerWithWhichOnlyLongPollsWaitIsPinged(t *testing.T) {
	s, group := popSite(t, 1)
	r := PopRequest{Group: group, Topic: s.topic, Queue: -1, Max: 1, Invisible: time.Minute, Poll: 14 * time.Second}
	end := newEnded()
	s.Go(s.queues[0].Address, r.Command(), 25*time.Second, end.done)
	l := s.link(s.queues[0].Address)
	r2 := end.once(t)
	if r2.err != nil || r2.answer.Code != CodePollTimeout {
		t.Errorf("the poll: %+v", r2)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == nil || l.conn.pinged.IsZero() {
		t.Error("the connection is over, or was not asked")
	}
}

func TestPopsFilterByTagAndSQL(t *testing.T) {
	s, _ := popSite(t, 1)
	for i, tag := range []string{"a", "b", "c", "a"} {
		_, err := s.Send(t.Context(), s.queues[0].Address, Outgoing{ProducerGroup: "p", Topic: s.topic, Body: []byte(tag), BornTime: time.Now(),
			Properties: map[string]string{"UNIQ_KEY": uuid.NewString(), "TAGS": tag, "n": strconv.Itoa(i)}})
		must(t, "send", err)
	}
	for name, c := range map[string]struct {
		filter Subscription
		want   string
	}{
		"everything": {NewSubscription(s.topic, "*", ""), "abca"},
		"two tags":   {NewSubscription(s.topic, "a || c", ""), "aca"},
		"SQL":        {NewSubscription(s.topic, "", "n between 1 and 2"), "bc"},
	} {
		got := ""
		for _, m := range s.popUntil(t, len(c.want), PopRequest{Group: "group_" + uuid.NewString()[:13], Topic: s.topic, Earliest: true, Filter: c.filter}) {
			got += string(m.Body)
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	bad := PopRequest{Group: "group_" + uuid.NewString()[:13], Topic: s.topic, Queue: -1, Max: 1, Invisible: time.Minute, Filter: NewSubscription(s.topic, "", "n >")}
	_, err := s.Invoke(t.Context(), s.queues[0].Address, bad.Command())
	if code, _ := CodeOf(err); code != CodeSubscriptionBadParse {
		t.Errorf("a filter that does not parse: %v", err)
	}
}

// TestANotificationMakesTheGroupAndTakesNothing: where brokers create groups by themselves, it makes the group like a pop does, without a lease and
// without a heartbeat.
func TestANotificationMakesTheGroupAndTakesNothing(t *testing.T) {
	s, group := popSite(t, 1)
	address := s.queues[0].Address
	ask := func(poll time.Duration) bool {
		answer, err := s.Invoke(t.Context(), address, NotificationCommand(PopRequest{Group: group, Topic: s.topic, Queue: -1, Poll: poll}))
		must(t, "notification", err)
		has, err := DecodeNotification(answer)
		must(t, "decode the notification", err)
		return has
	}
	position := func() error {
		return s.SetConsumerOffset(t.Context(), s.queues[0], group, 0)
	}
	if code, _ := CodeOf(position()); code != CodeGroupNotExist {
		t.Errorf("the group exists before: code %d", code)
	}
	if ask(0) {
		t.Error("an empty topic has a message")
	}
	must(t, "set the position of the group that the notification made", position())
	s.store(t, s.queues[0], 1)
	// A moment passes between storing a message and finding it.
	if !ask(3*time.Second) || !ask(0) {
		t.Error("the message is not seen, or was taken")
	}
	if got := s.popUntil(t, 1, PopRequest{Group: group, Topic: s.topic}); len(got) != 1 || got[0].Reconsumed != 0 {
		t.Errorf("popped %+v", got)
	}
	if members, err := s.Members(t.Context(), address, group); err != nil || len(members) != 0 {
		t.Errorf("members %v, %v", members, err)
	}
}

func TestOrderedPopsHoldTheQueueUntilAllIsAcknowledged(t *testing.T) {
	s, group := popSite(t, 1)
	s.store(t, s.queues[0], 3)
	r := PopRequest{Group: group, Topic: s.topic, Queue: -1, Max: 2, Earliest: true, Order: true, AttemptID: "one", Invisible: 4 * time.Second}
	first := s.popUntil(t, 2, r)
	if !first[0].Handle.Ordered() || first[0].Offset != 0 || first[1].Offset != 1 {
		t.Fatalf("got %+v", first)
	}
	other := r
	other.AttemptID = "two"
	if got := s.pop(t, other); len(got.Messages) != 0 {
		t.Errorf("the queue was not held: %+v", got.Messages)
	}
	again := s.popUntil(t, 2, other) // after the lease
	if again[0].Offset != 0 || again[0].Reconsumed != 1 || again[1].Reconsumed != 1 {
		t.Errorf("the second delivery: %+v", again)
	}
	s.ackAll(t, group, &Popped{Messages: again})
	if rest := s.popUntil(t, 1, other); rest[0].Offset != 2 || rest[0].Reconsumed != 0 {
		t.Errorf("the rest: %+v", rest)
	}
}

func TestABatchIsStoredInOrderWithItsOwnTagsAndIDs(t *testing.T) {
	s, group := popSite(t, 1)
	b := Batch{ProducerGroup: "p", Topic: s.topic, Queue: 0, BornTime: time.Now()}
	for i := range 100 {
		b.Messages = append(b.Messages, BatchMessage{Body: []byte(strconv.Itoa(i)), Properties: map[string]string{"UNIQ_KEY": uuid.NewString(), "TAGS": "t" + strconv.Itoa(i%2)}})
	}
	stored, err := s.SendBatch(t.Context(), s.queues[0].Address, b)
	if err != nil || len(stored) != 100 {
		t.Fatalf("%d stored, %v", len(stored), err)
	}
	got := s.popUntil(t, 50, PopRequest{Group: group, Topic: s.topic, Earliest: true, Filter: NewSubscription(s.topic, "t1", "")})
	for i, m := range got {
		n := 2*i + 1
		if string(m.Body) != strconv.Itoa(n) || m.Offset != stored[n].Offset || m.OffsetID != stored[n].OffsetID || m.Properties["UNIQ_KEY"] != b.Messages[n].Properties["UNIQ_KEY"] {
			t.Fatalf("message %d: %+v, stored as %+v", i, m, stored[n])
		}
	}
	s.ackAll(t, group, &Popped{Messages: got})
}

func TestCompressedMessagesComePlain(t *testing.T) {
	s, group := popSite(t, 1)
	plain := bytes.Repeat([]byte("compress me "), 1000)
	packed, flag := Compress(plain)
	_, err := s.Send(t.Context(), s.queues[0].Address, Outgoing{ProducerGroup: "p", Topic: s.topic, Body: packed, SysFlag: flag, BornTime: time.Now(),
		Properties: map[string]string{"UNIQ_KEY": uuid.NewString()}})
	must(t, "send", err)
	if got := s.popUntil(t, 1, PopRequest{Group: group, Topic: s.topic, Earliest: true}); !bytes.Equal(got[0].Body, plain) {
		t.Errorf("%d bytes, want %d", len(got[0].Body), len(plain))
	}
}
