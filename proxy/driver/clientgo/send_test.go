// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	liberrors "github.com/apache/rocketmq-client-go/v2/errors"
	"github.com/apache/rocketmq-client-go/v2/primitive"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/gate"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

func TestSendErrorsGetTheirReason(t *testing.T) {
	for _, c := range []struct {
		err  error
		want driver.Reason
	}{
		{errors.New("CODE: 1, DESC: java.lang.NullPointerException"), driver.Unavailable},
		{errors.New("CODE: 2, DESC: [TIMEOUT_CLEAN_QUEUE]broker busy"), driver.Throttled},
		{errors.New("CODE: 10, DESC: x"), driver.NotReplicated},
		{errors.New("CODE: 13, DESC: the message is illegal"), driver.InvalidMessage},
		{errors.New("CODE: 14, DESC: service not available"), driver.Unavailable},
		{errors.New("CODE: 16, DESC: no permission"), driver.Unauthorized},
		{errors.New("CODE: 17, DESC: topic not exist"), driver.TopicNotFound},
		{errors.New("CODE: 29, DESC: request queueId[8] is illegal"), driver.Unavailable},
		{errors.New("CODE: 999, DESC: from the future"), driver.Unavailable},
		{liberrors.ErrRequestTimeout, driver.Timeout},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), driver.Timeout},
		{errors.New("dial tcp 127.0.0.1:1: connect: connection refused"), driver.Unavailable},
		{driver.Errorf(driver.Closed, "", "closed"), driver.Closed},
	} {
		if got := driver.ReasonOf(sendError(c.err)); got != c.want {
			t.Errorf("%v: reason %s, want %s", c.err, got, c.want)
		}
	}
}

func TestOnlySendOKIsStored(t *testing.T) {
	p := &producer{gate: gate.New()}
	judge := func(status primitive.SendStatus) error {
		return p.judge(answer{result: &primitive.SendResult{Status: status}}).err
	}
	for status, want := range map[primitive.SendStatus]driver.Reason{
		primitive.SendFlushDiskTimeout: driver.NotReplicated, primitive.SendFlushSlaveTimeout: driver.NotReplicated,
		primitive.SendSlaveNotAvailable: driver.NotReplicated, primitive.SendUnknownError: driver.Unavailable,
	} {
		wantReason(t, fmt.Sprintf("status %d", status), judge(status), want)
	}
	if err := judge(primitive.SendOK); err != nil {
		t.Errorf("SendOK: %v", err)
	}
}

func TestRequestsKeepToTheLimits(t *testing.T) {
	entries := func(sizes ...int) []entry {
		all := make([]entry, len(sizes))
		for i, n := range sizes {
			all[i] = entry{message: &driver.Message{Body: make([]byte, n)}, result: &driver.SendResult{}}
		}
		return all
	}
	for _, c := range []struct {
		name          string
		compressAbove int
		sizes         []int
		want          []int
	}{
		{"small ones go together", 0, []int{1, 2, 3}, []int{3}},
		{"bytes cut a batch", 0, []int{batchBytes / 2, batchBytes / 2, 1}, []int{2, 1}},
		{"a message above the limit goes alone", 0, []int{1, 2 * batchBytes, 1}, []int{1, 1, 1}},
		{"what is compressed goes alone, the others together", 100, []int{1, 101, 2, 100}, []int{1, 3}},
		{"the count cuts a batch", 0, make([]int, batchMessages+1), []int{batchMessages, 1}},
		{"nothing", 0, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &producer{cfg: driver.ProducerConfig{CompressAbove: c.compressAbove}}
			var got []int
			for _, r := range p.requests(entries(c.sizes...)) {
				got = append(got, len(r))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("requests of %v messages, want %v", got, c.want)
			}
		})
	}
}

func TestTheSelectorTakesTurnsAndAvoidsABroker(t *testing.T) {
	var queues []*primitive.MessageQueue
	for _, broker := range []string{"a", "a", "b"} {
		queues = append(queues, &primitive.MessageQueue{BrokerName: broker, QueueId: len(queues)})
	}
	s := &selector{}
	seen := map[int]int{}
	for range 30 {
		m := &primitive.Message{Queue: newChoice("", nil)}
		q := s.Select(m, queues, "")
		seen[q.QueueId]++
		if m.Queue.BrokerName != q.BrokerName {
			t.Fatalf("the choice says %q, the queue is on %q", m.Queue.BrokerName, q.BrokerName)
		}
	}
	if seen[0] != 10 || seen[1] != 10 || seen[2] != 10 {
		t.Errorf("turns %v", seen)
	}
	for range 30 {
		if q := s.Select(&primitive.Message{Queue: newChoice("a", nil)}, queues, ""); q.BrokerName != "b" {
			t.Fatalf("broker %q was not avoided", q.BrokerName)
		}
		if q := s.Select(&primitive.Message{Queue: newChoice("a", nil)}, queues[:2], ""); q == nil || q.BrokerName != "a" {
			t.Fatalf("with only one broker there is no choice, got %v", q)
		}
	}
	for range 3 {
		m := &primitive.Message{Topic: "t", Queue: newChoice("a", &wire.Queue{Broker: "a", ID: 7})}
		if q := s.Select(m, queues, ""); q.Topic != "t" || q.BrokerName != "a" || q.QueueId != 7 {
			t.Fatalf("a message with its queue went to %v", q)
		}
	}
	if q := s.Select(&primitive.Message{}, nil, ""); q != nil {
		t.Errorf("got %v of no queues", q)
	}
}
