// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
)

// half stores a half message of the site's topic.
func (s *site) half(t *testing.T, group, id string, born time.Time) Half {
	t.Helper()
	q := s.queues[0]
	stored, err := s.Send(t.Context(), q.Address, Outgoing{
		ProducerGroup: group, Topic: s.topic, Queue: q.ID, Body: []byte("body of " + id), BornTime: born, SysFlag: SysPrepared,
		Text: HalfMessage(group) + EncodeProperties(map[string]string{"UNIQ_KEY": id, "color": "red"}),
	})
	must(t, "store the half message", err)
	at, err := stored.CommitLogOffset()
	must(t, "read its place", err)
	return Half{Topic: s.topic, Broker: q.Broker, ID: id, Born: born.UnixMilli(), Offset: stored.Offset, CommitLog: at}
}

// copies asks the index until it has want, or has had time to.
func (s *site) copies(t *testing.T, h Half, want int) {
	t.Helper()
	must(t, "dispatch", s.cluster.AwaitDispatch(t.Context()))
	n, err := s.Copies(t.Context(), s.queues[0].Address, h.Topic, h.ID, h.Born)
	if err != nil || n != want {
		t.Errorf("the index has %d copies of %s, want %d: %v", n, h.ID, want, err)
	}
}

// TestTransactionsOnARealBroker holds the facts of 5.5.0 that the driver's transactions stand on. The cluster is its own: after a transaction a broker keeps
// a core busy.
func TestTransactionsOnARealBroker(t *testing.T) {
	checks := make(chan TransactionCheck, 100)
	cluster := rocketmq.StartForTest(t, rocketmq.Options{ACL: true, ExtraBrokerConf: map[string]string{
		"transactionTimeOut": "1000", "transactionCheckInterval": "2000", "transactionCheckMax": "3",
	}})
	noLeaks(t)
	s := newSite(t, cluster, 1)
	connection := connectionTo(cluster.NameServers()...)
	connection.Credentials = credentialsOf(cluster.Administrator())
	s.Client = New(connection, Options{OnRequest: func(_ string, cmd *Command) *Command {
		if IsTransactionCheck(cmd) {
			check, err := DecodeTransactionCheck(cmd)
			if err != nil {
				t.Errorf("a check: %v", err)
			}
			checks <- check
		}
		return nil
	}})
	t.Cleanup(s.Close)
	address, group := s.queues[0].Address, "group_"+uuid.NewString()[:13]
	end := func(h Half, commit bool) {
		t.Helper()
		must(t, "end", s.EndTransaction(t.Context(), address, group, h, commit))
	}
	now := time.Now()

	// 1. Nothing is delivered before a commit, one by a commit, and one more by each further commit: the trap.
	twice := s.half(t, group, uuid.NewString(), now)
	s.copies(t, twice, 0)
	end(twice, true)
	s.copies(t, twice, 1)
	end(twice, true)
	s.copies(t, twice, 2)
	end(twice, false)
	s.copies(t, twice, 2)

	// 2. A rollback can be repeated, and a commit after it delivers all the same.
	back := s.half(t, group, uuid.NewString(), now)
	end(back, false)
	end(back, false)
	s.copies(t, back, 0)

	// 3. Messages under one id are told apart by when they were born, and what was simply sent in the same millisecond by its flag.
	again := s.half(t, group, twice.ID, now.Add(time.Millisecond))
	s.copies(t, again, 0)
	_, err := s.Send(t.Context(), address, Outgoing{
		ProducerGroup: group, Topic: s.topic, Queue: s.queues[0].ID, Broker: s.queues[0].Broker, Body: []byte("plain"), BornTime: now.Add(time.Millisecond),
		Properties: map[string]string{"UNIQ_KEY": again.ID},
	})
	must(t, "send beside it", err)
	s.copies(t, again, 0)
	end(again, false)

	// 4. What is no place of a half message is an error.
	for what, h := range map[string]Half{
		"of another group":      {Topic: s.topic, Broker: back.Broker, ID: back.ID, Offset: back.Offset, CommitLog: back.CommitLog},
		"with a wrong offset":   {Topic: s.topic, Broker: back.Broker, ID: back.ID, Offset: back.Offset + 1, CommitLog: back.CommitLog},
		"that is not there yet": {Topic: s.topic, Broker: back.Broker, ID: back.ID, Offset: back.Offset, CommitLog: 1 << 40},
	} {
		who := group
		if what == "of another group" {
			who = "stranger"
		}
		err := s.EndTransaction(t.Context(), address, who, h, true)
		if code, _ := CodeOf(err); code != CodeSystemError || IsHalfGone(err) != strings.Contains(what, "not there") {
			t.Errorf("commit of a half message %s: %v", what, err)
		}
	}

	// 5. Checks come to who named the group, each with a new place; answered at any of them the message is delivered, and asked for again.
	open := s.half(t, group, uuid.NewString(), now)
	must(t, "heartbeat", s.HeartBeat(t.Context(), address, Heartbeat{ClientID: "me", Producers: []ProducerMember{{Group: group}}}))
	first := s.nextCheck(t, checks, open)
	if first.Times != 1 || first.Group != group || first.Offset == open.Offset || string(first.Message.Body) != "body of "+open.ID || first.Message.Properties["color"] != "red" {
		t.Errorf("the first check is %+v", first)
	}
	end(open, true)
	s.copies(t, open, 1)
	second := s.nextCheck(t, checks, open)
	if second.Times != 2 {
		t.Errorf("the second check says that it is number %d", second.Times)
	}
	end(second.Half, false)
	s.copies(t, open, 1)

	// 6. Who has left the group is asked no more.
	must(t, "unregister", s.UnregisterProducer(t.Context(), address, "me", group))
	late := s.half(t, group, uuid.NewString(), now)
	select {
	case check := <-checks:
		if check.ID == late.ID {
			t.Error("a check came to who has left")
		}
	case <-time.After(5 * time.Second):
	}
	end(late, false)
}

// nextCheck waits for a check of h.
func (s *site) nextCheck(t *testing.T, checks <-chan TransactionCheck, h Half) TransactionCheck {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		select {
		case check := <-checks:
			if check.ID == h.ID && check.Born == h.Born && check.Checked {
				return check
			}
			// Of one that was ended: brokers write down only every 3 s what was (transactionOpBatchInterval), and ask until they have.
		case <-limit:
			t.Fatalf("no check of %s came", h.ID)
		}
	}
}

// TestLocksOnARealBroker: brokers lend locks of any name; where there is ACL, to users with the right Sub on the space, which counts as a group.
func TestLocksOnARealBroker(t *testing.T) {
	cluster := shared.Cluster(t)
	noLeaks(t)
	s := newSite(t, cluster, 1)
	q, space := s.queues[0], "space_"+uuid.NewString()[:13]
	name := "publisher_" + s.topic
	who, err := cluster.CreateUser(t.Context(), name)
	must(t, "create the user", err)
	must(t, "grant", cluster.Grant(t.Context(), name, rocketmq.Rights{Publish: []string{s.topic}}))
	publisher := s.as(t, credentialsOf(who))
	_, err = publisher.Lock(t.Context(), q.Address, space, "me", Lock{Topic: s.topic, Name: "a"})
	if code, _ := CodeOf(err); code != CodeNoPermission {
		t.Errorf("a lock without a right: %v", err)
	}
	_, err = publisher.Copies(t.Context(), q.Address, s.topic, "x", 0)
	if code, _ := CodeOf(err); code != CodeNoPermission {
		t.Errorf("a look-up without a right: %v", err)
	}
	must(t, "revoke", cluster.Revoke(t.Context(), name))
	must(t, "grant", cluster.Grant(t.Context(), name, rocketmq.Rights{Publish: []string{s.topic}, Subscribe: []string{s.topic}, Groups: []string{space}}))
	if n, err := publisher.Copies(t.Context(), q.Address, s.topic, "x", 0); err != nil || n != 0 {
		t.Errorf("a look-up with the right: %d, %v", n, err)
	}
	both := []Lock{{Topic: s.topic, Name: "a"}, {Topic: s.topic, Name: "b"}}
	lock := func(c *Client, holder, name string, want bool) {
		t.Helper()
		if got, err := c.Lock(t.Context(), q.Address, space, holder, Lock{Topic: s.topic, Name: name}); err != nil || got != want {
			t.Errorf("lock %s for %s: %v, %v, want %v", name, holder, got, err, want)
		}
	}
	lock(publisher, "me", "a", true)
	lock(publisher, "me", "a", true)
	lock(publisher, "me", "b", true)
	lock(s.Client, "you", "a", false)
	must(t, "unlock what others hold", s.Unlock(t.Context(), q.Address, space, "you", both))
	lock(s.Client, "you", "a", false)
	must(t, "unlock", publisher.Unlock(t.Context(), q.Address, space, "me", both))
	lock(s.Client, "you", "a", true)
	lock(s.Client, "you", "b", true)
	must(t, "unlock", s.Unlock(t.Context(), q.Address, space, "you", both))

	// It names and leaves the producer group that is called like the space.
	must(t, "heartbeat", publisher.HeartBeat(t.Context(), q.Address, Heartbeat{ClientID: "me", Producers: []ProducerMember{{Group: space}}}))
	must(t, "leave the producer group", publisher.UnregisterProducer(t.Context(), q.Address, "me", space))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := publisher.Lock(ended, q.Address, space, "me", Lock{Topic: s.topic, Name: "a"}); !errors.Is(err, context.Canceled) {
		t.Errorf("a lock whose context has ended: %v", err)
	}
}

// aCheck is a broker's question, as it is sent.
func aCheck(fields map[string]string, properties map[string]string) *Command {
	all := map[string]string{"bname": "broker-a", "tranStateTableOffset": "7", "commitLogOffset": "4711"}
	for name, value := range fields {
		all[name] = value
	}
	set := map[string]string{"UNIQ_KEY": "id", "PGROUP": "producers", "TRANSACTION_CHECK_TIMES": "3"}
	for name, value := range properties {
		set[name] = value
	}
	return &Command{Code: reqCheckTransaction, Flag: flagOneWay, Fields: all, Body: appendStored(nil, StoredMessage{Topic: "t", Properties: set}, []byte("body"), false)}
}

func TestWhatIsNoCheckIsRefused(t *testing.T) {
	check, err := DecodeTransactionCheck(aCheck(nil, nil))
	if err != nil || check.ID != "id" || check.Group != "producers" || check.Topic != "t" || check.Times != 3 || check.Offset != 7 || check.CommitLog != 4711 || !check.Checked {
		t.Errorf("a good one: %+v, %v", check, err)
	}
	if check, err = DecodeTransactionCheck(aCheck(nil, map[string]string{"TRANSACTION_CHECK_TIMES": "often"})); err != nil || check.Times != 1 {
		t.Errorf("one that does not say how often: %+v, %v", check, err)
	}
	two := aCheck(nil, nil)
	two.Body = append(two.Body, two.Body...)
	for name, cmd := range map[string]*Command{
		"without a body":       {Code: reqCheckTransaction},
		"with rubbish":         {Code: reqCheckTransaction, Body: []byte("rubbish")},
		"with two messages":    two,
		"without an offset":    aCheck(map[string]string{"tranStateTableOffset": ""}, nil),
		"with a text as place": aCheck(map[string]string{"commitLogOffset": "far"}, nil),
		"without an id":        aCheck(nil, map[string]string{"UNIQ_KEY": ""}),
		"without a group":      aCheck(nil, map[string]string{"PGROUP": ""}),
	} {
		if check, err := DecodeTransactionCheck(cmd); err == nil {
			t.Errorf("one %s is taken for %+v", name, check)
		}
	}
	for _, id := range []string{"", "0", "7F00000100002A9F00000000000000zz"} {
		if at, err := (Stored{OffsetID: id}).CommitLogOffset(); err == nil {
			t.Errorf("%q is taken for place %d", id, at)
		}
	}
	if at, err := (Stored{OffsetID: "7F00000100002A9F0000000000001267"}).CommitLogOffset(); err != nil || at != 4711 {
		t.Errorf("place %d, %v", at, err)
	}
}

func FuzzTransactionCheck(f *testing.F) {
	f.Add(aCheck(nil, nil).Body, "7", "4711")
	f.Add([]byte{}, "", "")
	f.Fuzz(func(t *testing.T, body []byte, offset, at string) {
		cmd := &Command{Code: reqCheckTransaction, Body: body, Fields: map[string]string{"tranStateTableOffset": offset, "commitLogOffset": at}}
		if check, err := DecodeTransactionCheck(cmd); err == nil && (check.ID == "" || check.Group == "" || check.Topic == "" || check.Times < 1) {
			t.Errorf("taken for %+v", check)
		}
	})
}
