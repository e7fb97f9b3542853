// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

const (
	codeUnregister = 35
	codeCheck      = 39
)

// push sends a request to everybody who is connected, one-way.
func (s *fakeServer) push(cmd *wire.Command) {
	s.t.Helper()
	cmd.Flag, cmd.Version = 2, 513
	frame, err := wire.AppendFrame(nil, cmd)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for socket := range s.sockets {
		if _, err := socket.Write(frame); err != nil {
			s.t.Logf("push: %v", err) // one that has ended
		}
	}
}

// members follows which producer groups were named last and which were taken back.
type members struct {
	mu          sync.Mutex
	named, left []string
	beats       int
}

func (m *members) follow(h *fakeHalves) {
	plain := h.handle
	h.broker.fakeServer.mu.Lock()
	defer h.broker.fakeServer.mu.Unlock()
	h.broker.fakeServer.answer = func(cmd *wire.Command) *wire.Command {
		m.mu.Lock()
		defer m.mu.Unlock()
		switch cmd.Code {
		case codeHeartbeat:
			var beat wire.Heartbeat
			if err := json.Unmarshal(cmd.Body, &beat); err == nil && len(beat.Producers) > 0 {
				m.named = nil
				for _, p := range beat.Producers {
					m.named = append(m.named, p.Group)
				}
				m.beats++
			}
		case codeUnregister:
			m.left = append(m.left, cmd.Fields["producerGroup"])
		}
		return plain(cmd)
	}
}

func (m *members) want(t *testing.T, what string, holds func(m *members) bool) {
	t.Helper()
	eventually(t, 5*time.Second, func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if !holds(m) {
			return fmt.Errorf("%s: named %q %d times, left %q", what, m.named, m.beats, m.left)
		}
		return nil
	})
}

// checkOf is a check of the message by its key, at a place.
func checkOf(topic, group, id string, born int64, place int) *wire.Command {
	body := appendMessage(nil, topic, 0, fakeMessage{id: id, born: born, more: "PGROUP\x01" + group + "\x02TRANSACTION_CHECK_TIMES\x012\x02a\x01b\x02"})
	return &wire.Command{Code: codeCheck, Body: body, Fields: map[string]string{
		"bname": "a", "tranStateTableOffset": strconv.Itoa(place), "commitLogOffset": strconv.Itoa(place),
	}}
}

func TestAGroupIsNamedWhileSomebodyWatchesAndChecksComeThen(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a")
	f.everywhere("ns%t", 1)
	f.driver.periods.tick, f.driver.periods.beat = 10*time.Millisecond, 20*time.Millisecond
	h, m := newFakeHalves(t, "a", f), &members{}
	m.follow(h)
	cfg := f.config("t")
	cfg.Transactions, cfg.Connection.Namespace = true, "ns"
	p := f.producer(cfg)
	message := messages("t", 1)[0]
	begun, err := p.Begin(within(t, 5*time.Second), message)
	if err != nil {
		t.Fatal(err)
	}
	half, err := parseHalf(begun.Handle)
	if err != nil {
		t.Fatal(err)
	}
	// Nobody watches: the group is not named, and a check is nobody's.
	h.broker.push(checkOf("ns%t", "ns%producers", message.ID, half.Born, 0))
	if _, err := p.cluster.wire.Copies(t.Context(), h.broker.address(), "ns%t", "x", 0); err != nil { // its answer comes after the check
		t.Fatal(err)
	}
	if m.want(t, "before", func(m *members) bool { return m.beats == 0 }); h.broker.asked(codeUnregister) != 0 {
		t.Error("it left a group that it was not in")
	}
	checks := make(chan driver.Check, 10)
	watch := func() func() {
		return p.WatchChecks(func(c driver.Check) bool {
			checks <- c
			return true
		})
	}
	stopFirst, stopSecond := watch(), watch()
	m.want(t, "while it is watched", func(m *members) bool { return m.beats > 2 && slices.Equal(m.named, []string{"ns%producers"}) })
	h.broker.push(checkOf("ns%t", "ns%producers", message.ID, half.Born, 0))
	check := <-checks
	if check.ID != message.ID || check.Topic != "t" || check.Times != 2 || check.Properties["a"] != "b" || len(check.Properties) != 1 || check.BornTime.UnixMilli() != half.Born {
		t.Errorf("the check is %+v", check)
	}
	if err := p.End(within(t, 5*time.Second), check.Handle, driver.Commit); err != nil {
		t.Errorf("commit: %v", err)
	}
	// What is in its topic is not asked for, and the asking ends; questions that make no sense are nobody's.
	_, before, _ := h.seen()
	for _, q := range []*wire.Command{
		checkOf("ns%t", "ns%producers", message.ID, half.Born, 0), checkOf("ns%t", "somebody", "x", 1, 0), {Code: codeCheck, Body: []byte("rubbish")},
	} {
		h.broker.push(q)
	}
	eventually(t, 5*time.Second, func() error {
		if _, ends, _ := h.seen(); ends != before+1 {
			return errors.New("the check of what was committed was not settled")
		}
		return nil
	})
	h.with(func() {
		if last := h.ended[len(h.ended)-1]; last[:2] != "12" {
			t.Errorf("it was settled by %s", last)
		}
		if h.copies[h.halves[0]] != 1 {
			t.Errorf("%d copies", h.copies[h.halves[0]])
		}
	})
	stopFirst()
	stopFirst()
	if m.want(t, "with one left", func(m *members) bool { return len(m.left) == 0 }); len(checks) > 0 {
		t.Errorf("%d more checks came", len(checks))
	}
	stopSecond()
	m.want(t, "when nobody watches", func(m *members) bool { return slices.Equal(m.left, []string{"ns%producers"}) })
}
