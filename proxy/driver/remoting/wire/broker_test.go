// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"maps"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// site is a client of a real broker and a topic of its own there.
type site struct {
	*Client
	cluster *rocketmq.Cluster
	topic   string
	queues  []Queue
}

func credentialsOf(c rocketmq.Credentials) driver.Credentials {
	return driver.Credentials{AccessKey: c.AccessKey, SecretKey: c.SecretKey}
}

func newSite(t *testing.T, c *rocketmq.Cluster, queues int) *site {
	t.Helper()
	s := &site{cluster: c, topic: "topic_" + uuid.NewString()[:13]}
	if err := c.CreateTopic(t.Context(), s.topic, queues, nil); err != nil {
		t.Fatal(err)
	}
	s.Client = s.as(t, credentialsOf(c.Administrator()))
	route, err := s.Route(t.Context(), s.topic)
	if err != nil {
		t.Fatal(err)
	}
	if s.queues = route.Readable(s.topic); len(s.queues) != queues {
		t.Fatalf("%d queues, want %d", len(s.queues), queues)
	}
	return s
}

// as is a client of another user.
func (s *site) as(t *testing.T, who driver.Credentials) *Client {
	t.Helper()
	connection := connectionTo(s.cluster.NameServers()...)
	connection.Credentials = who
	return newClient(t, connection)
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func (s *site) store(t *testing.T, q Queue, n int) {
	t.Helper()
	for range n {
		_, err := s.Send(t.Context(), q.Address, Outgoing{
			ProducerGroup: "p", Topic: s.topic, Queue: q.ID, Body: []byte("body"), BornTime: time.Now(), Properties: map[string]string{"UNIQ_KEY": uuid.NewString()},
		})
		must(t, "send", err)
	}
}

// offsets walks through everything that a classic group needs of a broker.
func offsets(t *testing.T, s *site) {
	q, group := s.queues[0], "group_"+uuid.NewString()[:13]
	must(t, "make the retry topic", s.MaySend(t.Context(), q.Address, group, RetryTopic(group)))
	must(t, "create the group", s.CreateGroup(t.Context(), q.Address, group))
	s.store(t, q, 5)
	must(t, "dispatch", s.cluster.AwaitDispatch(t.Context()))
	oldest, next, err := s.Bounds(t.Context(), q, group)
	if err != nil || oldest != 0 || next != 5 {
		t.Fatalf("bounds %d to %d, %v", oldest, next, err)
	}
	oldest, next, err = s.boundsByPull(t.Context(), q, group)
	if err != nil || oldest != 0 || next != 5 {
		t.Errorf("bounds by a pull: %d to %d, %v", oldest, next, err)
	}
	if at, err := s.ConsumerOffset(t.Context(), q, group); err != nil || at.Known && !at.Doubtful {
		t.Errorf("position of a new group: %+v, %v", at, err)
	}
	must(t, "set the position", s.SetConsumerOffset(t.Context(), q, group, 3))
	if at, err := s.ConsumerOffset(t.Context(), q, group); err != nil || !at.Known || at.Offset != 3 {
		t.Errorf("position after it was set: %+v, %v", at, err)
	}
	if at, err := s.SearchOffset(t.Context(), q, time.Now().Add(-time.Hour)); err != nil || at != 0 {
		t.Errorf("offset of an hour ago: %d, %v", at, err)
	}
	stats, err := s.ConsumeStats(t.Context(), q.Address, group)
	must(t, "consume stats", err)
	for _, st := range stats {
		if st.Topic == s.topic && st.Queue == q.ID && (st.Max != 5 || st.Committed != 3) {
			t.Errorf("stats %+v", st)
		}
	}
}

func TestOffsetsOnARealBroker(t *testing.T) {
	cluster := shared.Cluster(t)
	noLeaks(t)
	offsets(t, newSite(t, cluster, 2))
}

func TestMembersAndFiltersOnARealBroker(t *testing.T) {
	cluster := shared.Cluster(t)
	noLeaks(t)
	s := newSite(t, cluster, 1)
	address, group := s.queues[0].Address, "group_"+uuid.NewString()[:13]
	beat := Heartbeat{ClientID: "me", Consumers: []ConsumerMember{NewPushMember(group, []Subscription{NewSubscription(s.topic, "a || b", "")})}}
	if ids, err := s.Members(t.Context(), address, group); err != nil || len(ids) != 0 {
		t.Errorf("members before: %v, %v", ids, err)
	}
	must(t, "heartbeat", s.HeartBeat(t.Context(), address, beat))
	if ids, err := s.Members(t.Context(), address, group); err != nil || len(ids) != 1 || ids[0] != "me" {
		t.Errorf("members: %v, %v", ids, err)
	}
	if g, err := s.GroupConnections(t.Context(), address, group); err != nil || len(g.Connections) != 1 || g.ConsumeType != "CONSUME_PASSIVELY" {
		t.Errorf("connections: %+v, %v", g, err)
	}
	must(t, "unregister", s.Unregister(t.Context(), address, "me", group))
	if g, err := s.GroupConnections(t.Context(), address, group); err != nil || len(g.Connections) != 0 {
		t.Errorf("connections after leaving: %+v, %v", g, err)
	}
	must(t, "a good filter", s.CheckClientConfig(t.Context(), address, "me", group, NewSubscription(s.topic, "", "a > 3")))
	err := s.CheckClientConfig(t.Context(), address, "me", group, NewSubscription(s.topic, "", "a >"))
	if code, _ := CodeOf(err); code != CodeSubscriptionBadParse {
		t.Errorf("a bad filter: %v", err)
	}
	info, err := s.ClusterInfo(t.Context())
	if err != nil || len(info.Brokers) != 1 {
		t.Errorf("cluster info %+v, %v", info, err)
	}
}

// TestWhatWhichRightAllows holds the facts of 5.5.0's ACL that the drivers' proofs stand on.
func TestWhatWhichRightAllows(t *testing.T) {
	cluster := shared.Cluster(t)
	noLeaks(t)
	s := newSite(t, cluster, 1)
	q, group := s.queues[0], "group_"+uuid.NewString()[:13]
	must(t, "create the group", s.CreateGroup(t.Context(), q.Address, group))
	asks := map[string]func(*Client) error{
		"may send": func(c *Client) error { return c.MaySend(t.Context(), q.Address, "p", s.topic) },
		"check config": func(c *Client) error {
			return c.CheckClientConfig(t.Context(), q.Address, "me", group, NewSubscription(s.topic, "a", ""))
		},
		"empty heartbeat": func(c *Client) error { return c.HeartBeat(t.Context(), q.Address, Heartbeat{ClientID: "me"}) },
		"position":        func(c *Client) error { _, err := c.ConsumerOffset(t.Context(), q, group); return err },
		"set position":    func(c *Client) error { return c.SetConsumerOffset(t.Context(), q, group, 0) },
		"move":            func(c *Client) error { return c.ResetOffset(t.Context(), q, group, 0) },
		"max offset":      func(c *Client) error { _, err := c.MaxOffset(t.Context(), q); return err },
		"bounds":          func(c *Client) error { _, _, err := c.Bounds(t.Context(), q, group); return err },
		"retry topic":     func(c *Client) error { return c.MaySend(t.Context(), q.Address, group, RetryTopic(group)) },
		"route":           func(c *Client) error { _, err := c.Route(t.Context(), s.topic); return err },
	}
	for user, c := range map[string]struct {
		rights  rocketmq.Rights
		secret  string
		allowed []string
	}{
		"publisher":  {rocketmq.Rights{Publish: []string{s.topic}}, "", []string{"may send", "check config", "empty heartbeat", "route"}},
		"subscriber": {rocketmq.Rights{Subscribe: []string{s.topic}, Groups: []string{group}}, "", []string{"check config", "empty heartbeat", "position", "set position", "bounds", "retry topic", "route"}},
		"nobody":     {rocketmq.Rights{}, "", []string{"check config", "empty heartbeat", "route"}},
		"impostor":   {rocketmq.Rights{Publish: []string{s.topic}}, "wrong", []string{"route"}},
	} {
		t.Run(user, func(t *testing.T) {
			name := user + "_" + s.topic
			who, err := cluster.CreateUser(t.Context(), name)
			must(t, "create the user", err)
			if len(c.rights.Publish)+len(c.rights.Groups) > 0 {
				must(t, "grant", cluster.Grant(t.Context(), name, c.rights))
			}
			if c.secret != "" {
				who.SecretKey = c.secret
			}
			client := s.as(t, credentialsOf(who))
			allowed := map[string]bool{}
			for _, a := range c.allowed {
				allowed[a] = true
			}
			for what := range maps.Keys(asks) {
				err := asks[what](client)
				code, _ := CodeOf(err)
				if allowed[what] && err != nil || !allowed[what] && code != CodeNoPermission {
					t.Errorf("%s: %v, allowed: %v", what, err, allowed[what])
				}
			}
		})
	}
}

func TestMaySendStoresNothingAndFindsMissingTopics(t *testing.T) {
	cluster := shared.Cluster(t)
	noLeaks(t)
	s := newSite(t, cluster, 1)
	q := s.queues[0]
	must(t, "may send", s.MaySend(t.Context(), q.Address, "p", s.topic))
	if next, err := s.MaxOffset(t.Context(), q); err != nil || next != 0 {
		t.Errorf("the question stored something: next offset %d, %v", next, err)
	}
	if code, _ := CodeOf(s.MaySend(t.Context(), q.Address, "p", s.topic+"_unknown")); code != CodeTopicNotExist {
		t.Errorf("an unknown topic: code %d", code)
	}
}

func TestRetriesUsedUpGoToTheDeadLetterTopic(t *testing.T) {
	cluster := shared.Cluster(t)
	noLeaks(t)
	s := newSite(t, cluster, 1)
	q, group := s.queues[0], "group_"+uuid.NewString()[:13]
	must(t, "create the group", s.CreateGroup(t.Context(), q.Address, group))
	_, err := s.Send(t.Context(), q.Address, Outgoing{
		ProducerGroup: group, Topic: RetryTopic(group), Body: []byte("x"), BornTime: time.Now(), Reconsumed: 17, MaxReconsume: 16,
		Properties: map[string]string{"UNIQ_KEY": "id"},
	})
	must(t, "send", err)
	for limit := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if route, err := s.Route(t.Context(), DeadLetterTopic(group)); err == nil {
			letters := route.Writable(DeadLetterTopic(group))
			must(t, "dispatch", s.cluster.AwaitDispatch(t.Context()))
			if next, err := s.MaxOffset(t.Context(), letters[0]); err != nil || next != 1 {
				t.Errorf("the dead-letter topic has %d messages, %v", next, err)
			}
			return
		}
		if time.Now().After(limit) {
			t.Fatal("the dead-letter topic was not made")
		}
	}
}
