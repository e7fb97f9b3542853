// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"
)

func TestPopRequestsSayOnlyWhatIsAsked(t *testing.T) {
	for _, c := range []struct {
		name string
		in   PopRequest
		want map[string]string
	}{
		{
			"any queue, from the newest on, no filter",
			PopRequest{Group: "g", Topic: "T", Queue: -1, Max: 32, Invisible: time.Minute, Poll: 15 * time.Second, Filter: NewSubscription("T", "*", "")},
			map[string]string{"consumerGroup": "g", "topic": "T", "queueId": "-1", "maxMsgNums": "32", "invisibleTime": "60000", "pollTime": "15000", "bornTime": "0", "initMode": "1"},
		},
		{
			"one queue, from the oldest on, tags, in order",
			PopRequest{Group: "g", Topic: "T", Queue: 3, Max: 1, Invisible: time.Second, Earliest: true, Filter: NewSubscription("T", "a || b", ""), Order: true, AttemptID: "x", Broker: "b-a"},
			map[string]string{"consumerGroup": "g", "topic": "T", "queueId": "3", "maxMsgNums": "1", "invisibleTime": "1000", "pollTime": "0", "bornTime": "0", "initMode": "0",
				"expType": "TAG", "exp": "a || b", "order": "true", "attemptId": "x", "bname": "b-a"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.in.Command(); got.Code != 200050 || !maps.Equal(got.Fields, c.want) {
				t.Errorf("got  %d %v\nwant %v", got.Code, got.Fields, c.want)
			}
		})
	}
}

// popFields is the answer that remoting.md section 3a shows.
func popFields() map[string]string {
	return map[string]string{
		"popTime": "1795409694166", "invisibleTime": "4000", "reviveQid": "3", "restNum": "7",
		"startOffsetInfo": "0 1 5;0 0 2;1 0 9", "msgOffsetInfo": "0 1 5,6;0 0 2;1 0 9",
	}
}

func TestPoppedMessagesGetTheirHandles(t *testing.T) {
	at := time.UnixMilli(1795409694000)
	body := appendStored(nil, StoredMessage{Topic: "T", Queue: 1, Offset: 6, Born: at, Stored: at}, []byte("a"), false)
	body = appendStored(body, StoredMessage{Topic: "T", Queue: 0, Offset: 2, Born: at, Stored: at}, []byte("b"), false)
	retried := map[string]string{propertyPopCheck: "9 1795409694166 4000 3 1 broker-a 0 9"}
	body = appendStored(body, StoredMessage{Topic: "T", Queue: 0, Offset: 9, Reconsumed: 2, Born: at, Stored: at, Properties: retried}, []byte("c"), false)
	got, err := DecodePop(&Command{Fields: popFields(), Body: body}, "broker-a")
	if err != nil || len(got.Messages) != 3 || got.At.UnixMilli() != 1795409694166 || got.Invisible != 4*time.Second || got.Rest != 7 {
		t.Fatalf("got %+v, %v", got, err)
	}
	for i, want := range []string{"5 1795409694166 4000 3 0 broker-a 1 6", "2 1795409694166 4000 3 0 broker-a 0 2", "9 1795409694166 4000 3 1 broker-a 0 9"} {
		if h := got.Messages[i].Handle; h.String() != want {
			t.Errorf("message %d: handle %q, want %q", i, h, want)
		}
	}
	if m := got.Messages[2]; m.Reconsumed != 2 || string(m.Body) != "c" || !m.Handle.Expires().Equal(got.At.Add(4*time.Second)) {
		t.Errorf("got %+v", m)
	}
}

func TestAHandleThatASenderForgedIsNotUsed(t *testing.T) {
	forged := map[string]string{propertyPopCheck: "1 1 1 1 0 broker-b 1 1"}
	body := appendStored(nil, StoredMessage{Topic: "T", Queue: 1, Offset: 6, Properties: forged}, []byte("a"), false)
	got, err := DecodePop(&Command{Fields: popFields(), Body: body}, "broker-a")
	if err != nil || got.Messages[0].Handle.String() != "5 1795409694166 4000 3 0 broker-a 1 6" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestOrderedPopsTellTheCountInTheAnswer(t *testing.T) {
	fields := popFields()
	fields["orderCountInfo"] = "0 qo1%6 3;0 1 1;0 0 2;rubbish;0 0 x"
	body := appendStored(nil, StoredMessage{Topic: "T", Queue: 1, Offset: 5}, nil, false)
	body = appendStored(body, StoredMessage{Topic: "T", Queue: 1, Offset: 6}, nil, false)
	got, err := DecodePop(&Command{Fields: fields, Body: body}, "broker-a")
	if err != nil || got.Messages[0].Reconsumed != 1 || got.Messages[1].Reconsumed != 3 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestPopAnswersThatMakeNoSenseAreErrors(t *testing.T) {
	good := appendStored(nil, StoredMessage{Topic: "T", Queue: 1, Offset: 6}, nil, false)
	for name, spoil := range map[string]func(c *Command){
		"no pop time":                         func(c *Command) { delete(c.Fields, "popTime") },
		"an invisible time that is no number": func(c *Command) { c.Fields["invisibleTime"] = "soon" },
		"start offsets of another form":       func(c *Command) { c.Fields["startOffsetInfo"] = "0 1" },
		"a queue that it does not name":       func(c *Command) { c.Fields["startOffsetInfo"] = "0 0 1" },
		"a start after the message":           func(c *Command) { c.Fields["startOffsetInfo"] = "0 1 7" },
		"a start far before it":               func(c *Command) { c.Fields["startOffsetInfo"] = "0 1 -2000000" },
		"a time in millions of years":         func(c *Command) { c.Fields["popTime"] = "9223372036854775807" },
		"half a message":                      func(c *Command) { c.Body = good[:20] },
	} {
		t.Run(name, func(t *testing.T) {
			answer := &Command{Fields: popFields(), Body: good}
			spoil(answer)
			if got, err := DecodePop(answer, "b"); !errors.Is(err, ErrFrame) {
				t.Errorf("got %+v, %v, want ErrFrame", got, err)
			}
		})
	}
}

func TestPopHandlesAreReadBackAsTheyWereWritten(t *testing.T) {
	h := PopHandle{Start: 5, PopTime: 1795409694166, Invisible: 4000, ReviveQueue: orderedRevive, Kind: RetryV2, Broker: "broker-a", Queue: 1, Offset: 6}
	if got, err := ParsePopHandle(h.String()); err != nil || got != h || !got.Ordered() {
		t.Errorf("got %+v, %v", got, err)
	}
	for name, text := range map[string]string{
		"nothing":                       "",
		"seven fields":                  "5 1795409694166 4000 3 0 b 1",
		"nine fields":                   "5 1795409694166 4000 3 0 b 1 6 7",
		"two blanks":                    "5  1795409694166 4000 3 0 b 1 6",
		"no number":                     "x 1795409694166 4000 3 0 b 1 6",
		"a negative number":             "5 1795409694166 -4000 3 0 b 1 6",
		"a kind that does not exist":    "5 1795409694166 4000 3 3 b 1 6",
		"a message before its start":    "7 1795409694166 4000 3 0 b 1 6",
		"one too far behind":            "0 1795409694166 4000 3 0 b 1 99999999999",
		"a time that overflows":         "5 9223372036854775807 9223372036854775807 3 0 b 1 6",
		"a queue of another planet":     "5 1795409694166 4000 3 0 b 4294967296 6",
		"a number of more than 64 bits": "5 99999999999999999999 4000 3 0 b 1 6",
	} {
		if got, err := ParsePopHandle(text); !errors.Is(err, ErrFrame) || got != (PopHandle{}) {
			t.Errorf("%s: got %+v, %v, want ErrFrame", name, got, err)
		}
	}
}

func TestRetryTopicsOfAGroup(t *testing.T) {
	for kind, want := range map[RetryKind]string{Normal: "T", RetryV1: "%RETRY%g_T", RetryV2: "%RETRY%g+T"} {
		if got := kind.Topic("g", "T"); got != want || kindOfTopic(got) != kind {
			t.Errorf("kind %d: %q is of kind %d, want %q", kind, got, kindOfTopic(got), want)
		}
	}
}

func handle(t *testing.T, text string) PopHandle {
	t.Helper()
	h, err := ParsePopHandle(text)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestBatchAcksGatherThePopsOfAQueue(t *testing.T) {
	got := BatchAckCommand("g", "b-a", []Ack{
		{"T", handle(t, "5 100 4000 3 0 b-a 1 5")},
		{"T", handle(t, "5 100 4000 3 0 b-a 1 7")},
		{"T", handle(t, "0 100 4000 3 1 b-a 0 0")},
		{"T", handle(t, "5 100 4000 3 0 b-a 1 14")},
		{"U", handle(t, "5 100 4000 3 0 b-a 1 5")},
	})
	want := `{"brokerName":"b-a","acks":[` +
		`{"c":"g","t":"T","r":"0","so":5,"q":1,"rq":3,"pt":100,"it":4000,"b":"BQI="},` + // bits 0, 2, 9
		`{"c":"g","t":"T","r":"1","so":0,"q":0,"rq":3,"pt":100,"it":4000,"b":"AQ=="},` +
		`{"c":"g","t":"U","r":"0","so":5,"q":1,"rq":3,"pt":100,"it":4000,"b":"AQ=="}]}`
	if got.Code != 200151 || string(got.Body) != want {
		t.Errorf("got  %s\nwant %s", got.Body, want)
	}
}

func TestSingleAcksAndChangesNameTheRealTopic(t *testing.T) {
	h := handle(t, "0 100 4000 3 1 b-a 0 2")
	want := map[string]string{"consumerGroup": "g", "topic": "%RETRY%g_T", "queueId": "0", "extraInfo": h.String(), "offset": "2", "bname": "b-a"}
	if got := AckCommand("g", Ack{"T", h}); got.Code != 200051 || !maps.Equal(got.Fields, want) {
		t.Errorf("ack: %d %v", got.Code, got.Fields)
	}
	want["invisibleTime"], want["suspend"] = "1500", "true"
	got := ChangeCommand(InvisibleChange{Group: "g", Topic: "T", Handle: h, Invisible: 1500 * time.Millisecond, Suspend: true})
	if got.Code != 200053 || !maps.Equal(got.Fields, want) {
		t.Errorf("change: %d %v", got.Code, got.Fields)
	}
}

func TestAChangeGivesANewHandle(t *testing.T) {
	answer := &Command{Fields: map[string]string{"popTime": "900", "invisibleTime": "50", "reviveQid": "1"}}
	got, err := DecodeChange(answer, handle(t, "5 100 4000 3 0 b-a 1 6"))
	if err != nil || got.String() != "6 900 50 1 0 b-a 1 6" {
		t.Errorf("got %q, %v", got, err)
	}
	answer.Fields["reviveQid"] = "999"
	if got, err = DecodeChange(answer, handle(t, "5 100 4000 999 0 b-a 1 6")); err != nil || got.String() != "5 900 50 999 0 b-a 1 6" {
		t.Errorf("ordered: got %q, %v", got, err)
	}
	for _, name := range []string{"popTime", "invisibleTime", "reviveQid"} {
		spoilt := &Command{Fields: maps.Clone(answer.Fields)}
		spoilt.Fields[name] = "x"
		if got, err := DecodeChange(spoilt, handle(t, "5 100 4000 3 0 b-a 1 6")); !errors.Is(err, ErrFrame) || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v, %v", name, got, err)
		}
	}
}

func TestNotificationsSayWhetherThereIsAMessage(t *testing.T) {
	cmd := NotificationCommand(PopRequest{Group: "g", Topic: "T", Queue: -1, Poll: time.Second})
	if _, has := cmd.Fields["maxMsgNums"]; cmd.Code != 200054 || has || cmd.Fields["pollTime"] != "1000" {
		t.Errorf("request %d %v", cmd.Code, cmd.Fields)
	}
	for text, want := range map[string]bool{"true": true, "false": false} {
		if got, err := DecodeNotification(&Command{Fields: map[string]string{"hasMsg": text}}); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	if _, err := DecodeNotification(&Command{}); !errors.Is(err, ErrFrame) {
		t.Errorf("no field: %v", err)
	}
}
