// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func TestStoredMessagesAreReadInEveryLayout(t *testing.T) {
	at := time.UnixMilli(1795409694166)
	for _, c := range []struct {
		name    string
		sysFlag int
		v2      bool
		id      string
	}{
		{"IPv4 hosts, short topic length", 0, false, "7F00000100002A9F00000000000003E7"},
		{"IPv6 hosts", sysBornHostV6 | sysStoreHostV6, false, "20010DB800000000000000000000000100002A9F00000000000003E7"},
		{"an IPv6 sender, a long topic length", sysBornHostV6, true, "7F00000100002A9F00000000000003E7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := StoredMessage{Topic: "T", Queue: 3, Offset: 12, CommitLogOffset: 999, SysFlag: c.sysFlag, Born: at, Stored: at.Add(time.Second),
				Reconsumed: 2, Properties: map[string]string{"UNIQ_KEY": "id", "TAGS": "ü"}, Body: []byte("body"), OffsetID: c.id}
			data := appendStored(nil, want, want.Body, c.v2)
			data = appendStored(data, StoredMessage{Topic: "U"}, nil, c.v2)
			all, err := DecodeMessages(data)
			if err != nil || len(all) != 2 || all[1].Topic != "U" {
				t.Fatalf("got %+v, %v", all, err)
			}
			got := all[0]
			if !maps.Equal(got.Properties, want.Properties) || !bytes.Equal(got.Body, want.Body) {
				t.Errorf("got %+v", got)
			}
			got.Properties, want.Properties, got.Body, want.Body = nil, nil, nil, nil
			if got.Topic != want.Topic || got.Queue != want.Queue || got.Offset != want.Offset || got.CommitLogOffset != want.CommitLogOffset ||
				got.SysFlag != want.SysFlag || !got.Born.Equal(want.Born) || !got.Stored.Equal(want.Stored) || got.Reconsumed != want.Reconsumed || got.OffsetID != want.OffsetID {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestEveryCompressionIsUnpacked(t *testing.T) {
	plain := bytes.Repeat([]byte("compress me "), 1000)
	var viaLZ4, viaZstd bytes.Buffer
	l := lz4.NewWriter(&viaLZ4)
	_, errWrite := l.Write(plain)
	z, err := zstd.NewWriter(&viaZstd)
	if err != nil {
		t.Fatal(err)
	}
	_, errZ := z.Write(plain)
	if err := errors.Join(errWrite, l.Close(), errZ, z.Close()); err != nil {
		t.Fatal(err)
	}
	viaZlib, flag := Compress(plain)
	for _, c := range []struct {
		name string
		raw  []byte
		flag int
	}{
		{"zlib, as we pack", viaZlib, flag}, {"zlib, as producers before 5.0 say", viaZlib, sysCompressed},
		{"lz4", viaLZ4.Bytes(), sysCompressed | sysCompressionLZ4}, {"zstd", viaZstd.Bytes(), sysCompressed | sysCompressionZst},
	} {
		all, err := DecodeMessages(appendStored(nil, StoredMessage{Topic: "T", SysFlag: c.flag}, c.raw, false))
		if err != nil || !bytes.Equal(all[0].Body, plain) || all[0].Undecoded() {
			t.Errorf("%s: %v, %d bytes", c.name, err, len(all[0].Body))
		}
	}
	if packed, flag := Compress([]byte("short")); flag != 0 || string(packed) != "short" {
		t.Errorf("what does not get smaller was packed: %q, %x", packed, flag)
	}
}

func TestABodyThatCannotBeUnpackedSpoilsNoOther(t *testing.T) {
	bomb, _ := Compress(make([]byte, MaxFrameBytes+1))
	for name, c := range map[string]struct {
		raw  []byte
		flag int
	}{
		"rubbish as zlib":       {[]byte("rubbish"), sysCompressed},
		"rubbish as lz4":        {[]byte("rubbish"), sysCompressed | sysCompressionLZ4},
		"rubbish as zstd":       {[]byte("rubbish"), sysCompressed | sysCompressionZst},
		"an unknown type":       {[]byte("rubbish"), sysCompressed | 7<<8},
		"more than the limit":   {bomb, sysCompressed},
		"zlib that is cut off":  {bomb[:len(bomb)/2], sysCompressed},
		"nothing that is a lie": {nil, sysCompressed},
	} {
		data := appendStored(nil, StoredMessage{Topic: "T", SysFlag: c.flag}, c.raw, false)
		data = appendStored(data, StoredMessage{Topic: "T"}, []byte("good"), false)
		all, err := DecodeMessages(data)
		if err != nil || len(all) != 2 || !all[0].Undecoded() || !bytes.Equal(all[0].Body, c.raw) || string(all[1].Body) != "good" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOneAnswerCannotUnpackToEverything(t *testing.T) {
	zeros, flag := Compress(make([]byte, MaxFrameBytes))
	var data []byte
	for range maxInflatedAnswer/MaxFrameBytes + 1 {
		data = appendStored(data, StoredMessage{Topic: "T", SysFlag: flag}, zeros, false)
	}
	all, err := DecodeMessages(data)
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		if over := i == len(all)-1; all[i].Undecoded() != over {
			t.Errorf("message %d of %d: undecoded %v", i, len(all), all[i].Undecoded())
		}
	}
}

func TestMessagesThatMakeNoSenseAreErrors(t *testing.T) {
	good := appendStored(nil, StoredMessage{Topic: "T", Properties: map[string]string{"a": "b"}}, []byte("body"), false)
	spoil := func(at int, with string) []byte {
		return append(append(bytes.Clone(good[:at]), with...), good[at+len(with):]...)
	}
	for name, data := range map[string][]byte{
		"three bytes":                      good[:3],
		"a size of nothing":                {0, 0, 0, 0},
		"a size beyond the answer":         spoil(0, "\x7f\xff\xff\xff"),
		"a negative size":                  spoil(0, "\xff\xff\xff\xff"),
		"another magic number":             spoil(4, "\x00\x00\x00\x00"),
		"a body longer than the message":   spoil(84, "\x7f\xff\xff\xff"),
		"a topic longer than the message":  spoil(92, "\x7f"),
		"properties longer than they are":  spoil(94, "\x7f\xff"),
		"a message without its last bytes": append([]byte{0, 0, 0, 60}, good[4:60]...),
	} {
		if all, err := DecodeMessages(data); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %+v, %v", name, all, err)
		}
	}
	if all, err := DecodeMessages(nil); err != nil || len(all) != 0 {
		t.Errorf("nothing: %+v, %v", all, err)
	}
}

func TestPropertiesWithoutNameOrValueAreSkipped(t *testing.T) {
	got := DecodeProperties("a\x01b\x02\x01c\x02d\x01\x02e\x02\x02f\x01g\x01h")
	if want := map[string]string{"a": "b", "f": "g\x01h"}; !maps.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestBatchesAreEncodedInOrder(t *testing.T) {
	in := []BatchMessage{
		{Properties: map[string]string{"a": "1", "b": "2"}, Body: []byte("x")}, {}, {Properties: map[string]string{"c": "3"}, Body: []byte("yy")},
	}
	body, err := appendBatch(nil, in)
	if err != nil {
		t.Fatal(err)
	}
	out := decodeBatchBody(body)
	if len(out) != len(in) {
		t.Fatalf("%d messages, want %d", len(out), len(in))
	}
	for i := range in {
		if !bytes.Equal(in[i].Body, out[i].Body) || !maps.Equal(in[i].Properties, out[i].Properties) {
			t.Errorf("message %d: %v became %v", i, in[i], out[i])
		}
	}
	if _, err := appendBatch(nil, []BatchMessage{{Properties: map[string]string{"a": strings.Repeat("x", MaxPropertiesBytes)}}}); driver.ReasonOf(err) != driver.InvalidMessage {
		t.Errorf("properties above the limit: %v", err)
	}
	if _, err := appendBatch(nil, []BatchMessage{{Body: make([]byte, MaxFrameBytes)}}); !errors.Is(err, ErrFrame) {
		t.Errorf("a batch above the limit: %v", err)
	}
}

func TestABatchAnswerTellsEachPlace(t *testing.T) {
	answer := &Command{Fields: map[string]string{"queueId": "2", "queueOffset": "10", "msgId": "A,B,C"}}
	got, err := decodeBatchAnswer(answer, 3)
	if err != nil || len(got) != 3 || got[0] != (Stored{Queue: 2, Offset: 10, OffsetID: "A"}) || got[2] != (Stored{Queue: 2, Offset: 12, OffsetID: "C"}) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := decodeBatchAnswer(answer, 2); !errors.Is(err, ErrFrame) {
		t.Errorf("an answer with too many ids: %v", err)
	}
}

func TestTheTextOfAMessagesPropertiesHoldsAllOfThem(t *testing.T) {
	for _, m := range []driver.Message{
		{ID: "only an id"},
		{ID: "i", Tag: "t", Keys: []string{"k1", "k2"}, Properties: map[string]string{"b": "2", "a": "1", "c": "größe"}},
	} {
		want := map[string]string{driver.PropertyID: m.ID}
		maps.Copy(want, m.Properties)
		if m.Tag != "" {
			want[driver.PropertyTag], want[driver.PropertyKeys] = m.Tag, "k1 k2"
		}
		if got := DecodeProperties(MessageProperties(&m)); !maps.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		body, err := appendBatch(nil, []BatchMessage{{Text: MessageProperties(&m), Body: []byte("x")}})
		if err != nil {
			t.Fatal(err)
		}
		if out := decodeBatchBody(body); len(out) != 1 || !maps.Equal(out[0].Properties, want) || len(body) != (BatchMessage{Text: MessageProperties(&m), Body: []byte("x")}).Bytes() {
			t.Errorf("in a batch: %+v", out)
		}
	}
}
