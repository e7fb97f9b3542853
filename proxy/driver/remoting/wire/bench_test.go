// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bufio"
	"bytes"
	"net"
	"strconv"
	"testing"
	"time"
)

// What an answer to a send and the header of a pop's answer look like (5.5.0).
const (
	sendAnswerHeader = `{"code":0,"extFields":{"queueId":"3","TRACE_ON":"true","MSG_REGION":"DefaultRegion","msgId":"7F00000100002A9F00000000000003E7","queueOffset":"1234567"},` +
		`"flag":1,"language":"JAVA","opaque":1,"serializeTypeCurrentRPC":"JSON","version":513}`
	popAnswerHeader = `{"code":0,"extFields":{"popTime":"1795409694166","invisibleTime":"60000","reviveQid":"3","restNum":"1000","startOffsetInfo":"0 1 100",` +
		`"msgOffsetInfo":"0 1 100,101,102,103,104,105,106,107,108,109,110,111,112,113,114,115,116,117,118,119,120,121,122,123,124,125,126,127,128,129,130,131"},` +
		`"flag":1,"language":"JAVA","opaque":1,"remark":"FOUND","serializeTypeCurrentRPC":"JSON","version":513}`
)

func benchMessage() Outgoing {
	return Outgoing{
		ProducerGroup: "default_orders", Topic: "orders", Queue: 3, Broker: "broker-a", BornTime: time.UnixMilli(1795409694166), Body: make([]byte, 1024),
		Properties: map[string]string{"UNIQ_KEY": "7F0000010000000000000000000003E7", "TAGS": "created", "KEYS": "order-17"},
	}
}

func benchPopBody(n int) []byte {
	var body []byte
	at := time.UnixMilli(1795409694166)
	for i := range n {
		body = appendStored(body, StoredMessage{Topic: "orders", Queue: 1, Offset: int64(100 + i), Born: at, Stored: at, Properties: benchMessage().Properties}, make([]byte, 1024), false)
	}
	return body
}

func BenchmarkEncodeSend(b *testing.B) {
	b.ReportAllocs()
	m := benchMessage()
	client := New(connectionTo(), Options{})
	for b.Loop() {
		x, err := client.newCall(m.command(), time.Time{}, nil)
		if err != nil {
			b.Fatal(err)
		}
		freeFrame(x.frame)
	}
}

func BenchmarkEncodeBatch32(b *testing.B) {
	b.ReportAllocs()
	m := benchMessage()
	batch := Batch{ProducerGroup: m.ProducerGroup, Topic: m.Topic, Queue: m.Queue, BornTime: m.BornTime}
	for range 32 {
		batch.Messages = append(batch.Messages, BatchMessage{Properties: m.Properties, Body: m.Body})
	}
	client := New(connectionTo(), Options{})
	buffer := newFrame()
	for b.Loop() {
		cmd, err := batch.command(buffer)
		if err != nil {
			b.Fatal(err)
		}
		x, err := client.newCall(cmd, time.Time{}, nil)
		if err != nil {
			b.Fatal(err)
		}
		freeFrame(x.frame)
	}
}

func BenchmarkReadSendAnswer(b *testing.B) {
	b.ReportAllocs()
	frame := frameOf(uint32(4+len(sendAnswerHeader)), uint32(len(sendAnswerHeader)), sendAnswerHeader)
	in := bytes.NewReader(frame)
	r := bufio.NewReader(in)
	for b.Loop() {
		in.Reset(frame)
		r.Reset(in)
		cmd, err := ReadFrame(r)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := decodeStored(cmd); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadPop32(b *testing.B) {
	b.ReportAllocs()
	body := benchPopBody(32)
	frame := frameOf(uint32(4+len(popAnswerHeader)+len(body)), uint32(len(popAnswerHeader)), popAnswerHeader+string(body))
	in := bytes.NewReader(frame)
	r := bufio.NewReaderSize(in, 64<<10)
	for b.Loop() {
		in.Reset(frame)
		r.Reset(in)
		cmd, err := ReadFrame(r)
		if err != nil {
			b.Fatal(err)
		}
		if p, err := DecodePop(cmd, "broker-a"); err != nil || len(p.Messages) != 32 {
			b.Fatal(err)
		}
		cmd.Free()
	}
}

func BenchmarkBatchAck32(b *testing.B) {
	b.ReportAllocs()
	acks := make([]Ack, 32)
	for i := range acks {
		acks[i] = Ack{"orders", PopHandle{Start: 100, PopTime: 1795409694166, Invisible: 60000, ReviveQueue: 3, Broker: "broker-a", Queue: 1, Offset: int64(100 + i)}}
	}
	client := New(connectionTo(), Options{})
	for b.Loop() {
		x, err := client.newCall(BatchAckCommand("default_orders", "broker-a", acks), time.Time{}, nil)
		if err != nil {
			b.Fatal(err)
		}
		freeFrame(x.frame)
	}
}

func BenchmarkPopHandle(b *testing.B) {
	b.ReportAllocs()
	h := PopHandle{Start: 100, PopTime: 1795409694166, Invisible: 60000, ReviveQueue: 3, Broker: "broker-a", Queue: 1, Offset: 117}
	for b.Loop() {
		if back, err := ParsePopHandle(h.String()); err != nil || back != h {
			b.Fatal(err)
		}
	}
}

// BenchmarkInvoke64 is 64 callers of one connection to a peer in this process, whose own work is in the figure.
func BenchmarkInvoke64(b *testing.B) {
	b.ReportAllocs()
	p := benchPeer(b)
	client := New(connectionTo(p), Options{ReadBufferBytes: 64 << 10})
	defer client.Close()
	m := benchMessage()
	b.SetParallelism(32) // times GOMAXPROCS of 2
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := client.Send(b.Context(), p, m); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// benchPeer answers sends with little work of its own: it copies a prepared answer and the request's number.
func benchPeer(b *testing.B) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	go func() {
		socket, err := l.Accept()
		if err != nil {
			return
		}
		defer socket.Close()
		r, w := bufio.NewReaderSize(socket, 256<<10), bufio.NewWriterSize(socket, 256<<10)
		head, tail := `{"code":0,"extFields":{"queueId":"3","msgId":"7F00000100002A9F00000000000003E7","queueOffset":"1234567"},"flag":1,"language":"JAVA","opaque":`, `,"version":513}`
		var answer []byte
		for {
			prefix, err := r.Peek(256)
			if err != nil {
				return
			}
			length := int(prefix[0])<<24 | int(prefix[1])<<16 | int(prefix[2])<<8 | int(prefix[3])
			at := bytes.Index(prefix, []byte(`"opaque":`)) + len(`"opaque":`)
			end := at + bytes.IndexByte(prefix[at:], ',')
			n := len(head) + end - at + len(tail)
			answer = append(answer[:0], 0, 0, byte((n+4)>>8), byte(n+4), 0, 0, byte(n>>8), byte(n))
			answer = append(append(append(answer, head...), prefix[at:end]...), tail...)
			if _, err := r.Discard(4 + length); err != nil {
				return
			}
			_, err = w.Write(answer)
			if r.Buffered() == 0 && err == nil {
				err = w.Flush()
			}
			if err != nil {
				return
			}
		}
	}()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
}
