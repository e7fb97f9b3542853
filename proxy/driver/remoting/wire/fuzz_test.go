// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"encoding/json"
	"maps"
	"strings"
	"testing"
)

// More seeds than the ones here are in testdata/fuzz; plain `go test` runs them all, hack/fuzz.sh looks for new ones.

// FuzzHeader: what the quick parser takes means the same to encoding/json, and nothing panics.
func FuzzHeader(f *testing.F) {
	for _, seed := range []string{
		sendAnswerHeader, popAnswerHeader, `{"code":0}`, `{"code":-1,"extFields":null,"remark":null}`, `{"extFields":{"a":"b"},"extFields":{"a":null,"c":""}}`,
		`{"opaque":2147483648}`, `{"opaque":-2147483648,"flag":01}`, `{"remark":"a","remark":null}`, `{"Code":7,"code":8}`, `{"extFields":{}}`, `{"code":0,}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		quick := parseHeader(in)
		if quick == nil {
			return
		}
		var h jsonHeader
		if err := json.Unmarshal(in, &h); err != nil {
			t.Fatalf("%q is taken, but: %v", in, err)
		}
		if quick.Code != h.Code || quick.Version != h.Version || quick.Opaque != h.Opaque || quick.Flag != h.Flag || quick.Remark != h.Remark || !maps.Equal(quick.Fields, h.ExtFields) {
			t.Fatalf("%q: %+v, encoding/json says %+v", in, quick, h)
		}
	})
}

// FuzzMessages: nothing panics, and what is read is within what came.
func FuzzMessages(f *testing.F) {
	packed, flag := Compress(bytes.Repeat([]byte("ab"), 500))
	f.Add(benchPopBody(2))
	f.Add(appendStored(nil, StoredMessage{Topic: "T", SysFlag: flag}, packed, true))
	f.Add(appendStored(nil, StoredMessage{Topic: "T", SysFlag: sysBornHostV6 | sysStoreHostV6}, nil, false))
	f.Add(appendStored(nil, StoredMessage{SysFlag: sysCompressed | sysCompressionLZ4}, []byte("rubbish"), false))
	f.Add(appendStored(nil, StoredMessage{SysFlag: sysCompressed | sysCompressionZst}, []byte("rubbish"), false))
	f.Fuzz(func(t *testing.T, in []byte) {
		all, err := DecodeMessages(in)
		if err != nil {
			return
		}
		if len(all) > len(in)/leastMessage {
			t.Fatalf("%d messages from %d bytes", len(all), len(in))
		}
		for i := range all {
			if m := &all[i]; m.SysFlag&sysCompressed != 0 && len(m.Body) > len(in) || len(m.Topic) > len(in) {
				t.Fatalf("message %d has %d bytes of body, %d of topic, from %d", i, len(m.Body), len(m.Topic), len(in))
			}
		}
	})
}

// FuzzPopAnswer: handles that come out can be written, read, gathered and sent.
func FuzzPopAnswer(f *testing.F) {
	body := benchPopBody(1)
	f.Add("1795409694166", "60000", "3", "0 1 100", "0 qo1%100 3;0 1 1", body)
	f.Add("1", "2", "999", "0 1 0;1 0 5;2 0 7", "", body)
	f.Add("", "-1", "x", ";;; ", "0 0", []byte{})
	f.Add("9223372036854775807", "9223372036854775807", "3", "0 1 -9223372036854775808", "", body)
	f.Fuzz(func(t *testing.T, popTime, invisible, revive, starts, counts string, in []byte) {
		fields := map[string]string{"popTime": popTime, "invisibleTime": invisible, "reviveQid": revive, "restNum": "0", "startOffsetInfo": starts, "orderCountInfo": counts}
		popped, err := DecodePop(&Command{Fields: fields, Body: in}, "broker-a")
		if err != nil {
			return
		}
		var acks []Ack
		for _, m := range popped.Messages {
			back, err := ParsePopHandle(m.Handle.String())
			if err != nil || back != m.Handle {
				t.Fatalf("handle %q became %+v, %v", m.Handle, back, err)
			}
			acks = append(acks, Ack{m.Topic, m.Handle})
		}
		checkBatchAck(t, acks)
	})
}

// FuzzPopHandle: what parses is written as it was read, but for leading zeros and signs, and can be acknowledged.
func FuzzPopHandle(f *testing.F) {
	for _, seed := range []string{"5 1795409694166 4000 3 0 broker-a 1 6", "0 0 0 0 2 b 0 0", "+5 1 1 1 1 b 1 0005", "5 1 1 1 1 1", "1 2 3 4 0  6 7"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		h, err := ParsePopHandle(text)
		if err != nil {
			return
		}
		if back, err := ParsePopHandle(h.String()); err != nil || back != h {
			t.Fatalf("%q: %+v became %+v, %v", text, h, back, err)
		}
		checkBatchAck(t, []Ack{{"T", h}})
	})
}

// checkBatchAck wants the body of a batch ack to be JSON that names as many messages as there are.
func checkBatchAck(t *testing.T, acks []Ack) {
	t.Helper()
	var body struct {
		Acks []struct {
			Bits []byte `json:"b"`
		} `json:"acks"`
	}
	if err := json.Unmarshal(BatchAckCommand("g", "broker-a", acks).Body, &body); err != nil {
		t.Fatalf("batch ack: %v", err)
	}
	distinct := make(map[Ack]bool)
	for _, a := range acks {
		a.Handle.Broker = "" // one request is for one broker
		distinct[a] = true
	}
	named := 0
	for _, part := range body.Acks {
		for _, b := range part.Bits {
			for ; b != 0; b &= b - 1 {
				named++
			}
		}
	}
	if named != len(distinct) {
		t.Fatalf("%d messages are named, want %d", named, len(distinct))
	}
}

// FuzzBatch: what the encoder writes is read back by the tests' own reader. Production has no decoder of batches: it sends them, and brokers store their
// messages one by one.
func FuzzBatch(f *testing.F) {
	f.Add([]byte("body"), "name", "value", []byte{})
	f.Add([]byte{0, 0, 0, 1}, "", "", []byte("x"))
	f.Add([]byte{}, "UNIQ_KEY", "ü", []byte{0xff})
	f.Fuzz(func(t *testing.T, body []byte, name, value string, second []byte) {
		in := []BatchMessage{{Body: body, Properties: map[string]string{name: value}}, {Body: second}}
		data, err := appendBatch(nil, in)
		if err != nil {
			return
		}
		out := decodeBatchBody(data)
		if len(out) != 2 || !bytes.Equal(out[0].Body, body) || !bytes.Equal(out[1].Body, second) {
			t.Fatalf("%q became %q", in, out)
		}
		if clean := name != "" && value != "" && !strings.ContainsAny(name+value, nameEnd+valueEnd); clean && out[0].Properties[name] != value {
			t.Fatalf("property %q: %q became %q", name, value, out[0].Properties[name])
		}
	})
}
