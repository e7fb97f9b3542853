// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestStrictJSON(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"JSON that is right already", `{"a":[1,2,{"b":"c"}],"d":-1.5e3}`, `{"a":[1,2,{"b":"c"}],"d":-1.5e3}`},
		{"bare numbers as keys", `{0:"h:1", 12 :"h:2",-1:3}`, `{"0":"h:1", "12" :"h:2","-1":3}`},
		{"numbers in an array stay numbers", `[1,2,[3,4]]`, `[1,2,[3,4]]`},
		{"an object as a key", `{{"q":0,"t":"a\"}b"}:{"x":1}}`, `{"{\"q\":0,\"t\":\"a\\\"}b\"}":{"x":1}}`},
		{"brackets and commas in strings", `{"a":"{0:1,2:3}","b":","}`, `{"a":"{0:1,2:3}","b":","}`},
		{"a string that does not end", `{"a`, `{"a`},
		{"a lone backslash at the end", `{"a\`, `{"a\`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := strictJSON([]byte(c.in))
			if err != nil || string(got) != c.want {
				t.Errorf("got %s, %v\nwant %s", got, err, c.want)
			}
		})
	}
}

func TestStrictJSONRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"nesting without end":           strings.Repeat("[", maxJSONDepth+1),
		"an object key that never ends": `{{"a":1`,
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := strictJSON([]byte(in)); err == nil {
				t.Errorf("got %s without an error", got)
			}
		})
	}
}

// routeBody is what name servers before 4.9.4, and later ones for older clients, write.
const routeBody = `{"brokerDatas":[{"brokerAddrs":{0:"10.0.0.1:10911",1:"10.0.0.2:10911"},"brokerName":"b","cluster":"c"},` +
	`{"brokerAddrs":{1:"10.0.0.3:10911"},"brokerName":"a","cluster":"c"}],"filterServerTable":{},` +
	`"queueDatas":[{"brokerName":"b","perm":6,"readQueueNums":2,"topicSysFlag":0,"writeQueueNums":1},{"brokerName":"a","perm":6,"readQueueNums":4,"writeQueueNums":4}]}`

func TestRouteListsQueuesOfMastersOnly(t *testing.T) {
	r, err := decodeRoute([]byte(routeBody))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(r.Readable("T")), "[{T b 10.0.0.1:10911 0} {T b 10.0.0.1:10911 1}]"; got != want {
		t.Errorf("readable %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(r.Writable("T")), "[{T b 10.0.0.1:10911 0}]"; got != want {
		t.Errorf("writable %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(r.Addresses()), "[10.0.0.1:10911 10.0.0.2:10911 10.0.0.3:10911]"; got != want {
		t.Errorf("addresses %s, want %s", got, want)
	}
}

func TestRouteRefusesQueueCountsThatExhaustMemory(t *testing.T) {
	for name, body := range map[string]string{
		"two billion queues": `{"queueDatas":[{"brokerName":"b","readQueueNums":2147483647}]}`,
		"a negative count":   `{"queueDatas":[{"brokerName":"b","writeQueueNums":-1}]}`,
		"many large brokers": `{"queueDatas":[` + strings.Repeat(`{"readQueueNums":65536},`, 4) + `{"readQueueNums":1}]}`,
		"no JSON at all":     `<html>`,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := decodeRoute([]byte(body)); !errors.Is(err, ErrFrame) {
				t.Errorf("got %v, want ErrFrame", err)
			}
		})
	}
}

func FuzzRoute(f *testing.F) {
	f.Add([]byte(routeBody))
	f.Add([]byte(`{"queueDatas":[],"brokerDatas":null}`))
	f.Add([]byte(`{{"a":1}:2,0:{1:2}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		if r, err := decodeRoute(in); err == nil {
			r.Readable("T")
			r.Writable("T")
		}
		// What is strict already must keep its meaning.
		if json.Valid(in) && len(in) < 1<<16 {
			if out, err := strictJSON(in); err == nil && !json.Valid(out) {
				t.Fatalf("valid JSON %q became invalid %q", in, out)
			}
		}
	})
}

func TestConsumeStatsReadsObjectsAsKeys(t *testing.T) {
	body := `{"consumeTps":0.0,"offsetTable":{{"brokerName":"b","queueId":2,"topic":"T"}:{"brokerOffset":10,"consumerOffset":4,"lastTimestamp":1700000000000,"pullOffset":0}}}`
	got, err := decodeConsumeStats([]byte(body))
	if err != nil || len(got) != 1 {
		t.Fatalf("got %v, %v", got, err)
	}
	if q := got[0]; q.Topic != "T" || q.Broker != "b" || q.Queue != 2 || q.Max != 10 || q.Committed != 4 || q.LastTime.UnixMilli() != 1700000000000 {
		t.Errorf("got %+v", q)
	}
}

// The lists come from RocketMQ's own MessageQueueView (proxy 5.5.0), asked for this route in jshell.
func TestShardedListsTheQueuesOfTheJavaProxy(t *testing.T) {
	r := Route{}
	for _, b := range []struct {
		name                    string
		read, write, permission int
		id                      string
	}{
		{"broker-b", 4, 3, 6, "0"}, {"broker-a", 2, 2, 6, "0"}, {"broker-10", 1, 2, 6, "0"}, {"Broker-c", 3, 2, 6, "0"}, {"readonly", 4, 4, 4, "0"},
		{"nomaster", 4, 4, 6, "1"}, {"writeonly", 0, 1, 2, "0"}, {"inherit", 1, 1, 7, "0"},
	} {
		r.Queues = append(r.Queues, QueueData{Broker: b.name, ReadQueues: b.read, WriteQueues: b.write, Permission: b.permission})
		r.Brokers = append(r.Brokers, BrokerData{Name: b.name, Addresses: map[string]string{b.id: "127.0.0.1:1"}})
	}
	all := "Broker-c:0 Broker-c:1 broker-10:0 broker-10:1 broker-a:0 broker-a:1 broker-b:0 broker-b:1 broker-b:2 inherit:0 writeonly:0"
	for conf, want := range map[string]string{
		"": all, " ": all,
		"broker-b:3;broker-a:1":              "broker-a:0 broker-b:0 broker-b:1 broker-b:2",
		"nomaster:2;broker-a:2;readonly:2":   "broker-a:0 broker-a:1 readonly:0 readonly:1",
		"broker-a:1;;broker-b;broker-10:x;:": "broker-a:0",
		"broker-a:-1":                        "",
	} {
		r.OrderConf = conf
		var got []string
		for _, q := range r.Sharded("t") {
			got = append(got, fmt.Sprintf("%s:%d", q.Broker, q.ID))
		}
		if text := strings.Join(got, " "); text != want {
			t.Errorf("with %q: %s\nwant %s", conf, text, want)
		}
	}
}
