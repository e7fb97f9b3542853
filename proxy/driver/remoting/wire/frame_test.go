// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"maps"
	"strings"
	"testing"
	"testing/iotest"
)

// frameOf builds a frame from its parts, right or wrong.
func frameOf(length, word uint32, rest string) []byte {
	b := binary.BigEndian.AppendUint32(nil, length)
	b = binary.BigEndian.AppendUint32(b, word)
	return append(b, rest...)
}

func TestAppendFrame(t *testing.T) {
	for _, c := range []struct {
		name string
		in   Command
		want string
	}{
		{
			"a request with one field and a body",
			Command{Code: 105, Version: 413, Opaque: 7, Fields: map[string]string{"topic": "T"}, Body: []byte("hi")},
			"0000005b" + "00000055" + hex.EncodeToString([]byte(`{"code":105,"language":"GO","version":413,"opaque":7,"flag":0,"extFields":{"topic":"T"}}`)) + hex.EncodeToString([]byte("hi")),
		},
		{
			"quotes, controls and UTF-8 in a field",
			Command{Code: 1, Fields: map[string]string{"p": "a\x01b\x02\"\\ü"}},
			"0000006b" + "00000067" + hex.EncodeToString([]byte(`{"code":1,"language":"GO","version":0,"opaque":0,"flag":0,"extFields":{"p":"a\u0001b\u0002\"\\ü"}}`)),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := AppendFrame(nil, &c.in)
			if err != nil {
				t.Fatal(err)
			}
			// The lengths are computed once more, so that a golden frame that was typed wrong cannot pass.
			header := strings.Index(string(got), "}}") + 2 - 8
			if want := binary.BigEndian.Uint32(got[4:]); int(want) != header {
				t.Errorf("header length %d, the header has %d bytes", want, header)
			}
			if int(binary.BigEndian.Uint32(got)) != len(got)-4 {
				t.Errorf("frame length %d, the frame has %d bytes after it", binary.BigEndian.Uint32(got), len(got)-4)
			}
			if text := hex.EncodeToString(got); text[16:] != c.want[16:] {
				t.Errorf("got  %s\nwant %s", text, c.want)
			}
		})
	}
}

func TestAppendFrameRefusesWhatNoPeerTakes(t *testing.T) {
	for name, c := range map[string]Command{
		"a body above the frame limit":    {Body: make([]byte, MaxFrameBytes)},
		"a header above the header limit": {Fields: map[string]string{"a": strings.Repeat("x", MaxHeaderBytes)}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := AppendFrame(nil, &c); !errors.Is(err, ErrFrame) {
				t.Errorf("got %v, want ErrFrame", err)
			}
		})
	}
}

func TestReadFrameReadsWhatServersWrite(t *testing.T) {
	java := `{"code":0,"extFields":{"offset":"12","x":null},"flag":1,"language":"JAVA","opaque":3,"remark":null,"serializeTypeCurrentRPC":"JSON","version":513}`
	// code 17, JAVA, 513, opaque 9, flag 1, remark "no", one field a=b
	compact := "\x00\x11\x00\x02\x01\x00\x00\x00\x09\x00\x00\x00\x01\x00\x00\x00\x02no\x00\x00\x00\x08\x00\x01a\x00\x00\x00\x01b"
	for _, c := range []struct {
		name string
		in   []byte
		want Command
	}{
		{"a JSON answer with nulls and fields we do not know", frameOf(uint32(4+len(java)+4), uint32(len(java)), java+"body"),
			Command{Version: 513, Opaque: 3, Flag: 1, Fields: map[string]string{"offset": "12", "x": ""}, Body: []byte("body")}},
		{"a compact answer", frameOf(uint32(4+len(compact)), 1<<24|uint32(len(compact)), compact),
			Command{Code: 17, Version: 513, Opaque: 9, Flag: 1, Remark: "no", Fields: map[string]string{"a": "b"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			// One byte at a time: a frame never comes in one piece.
			got, err := ReadFrame(bufio.NewReader(iotest.OneByteReader(bytes.NewReader(c.in))))
			if err != nil {
				t.Fatal(err)
			}
			if got.Code != c.want.Code || got.Version != c.want.Version || got.Opaque != c.want.Opaque || got.Flag != c.want.Flag ||
				got.Remark != c.want.Remark || !maps.Equal(got.Fields, c.want.Fields) || !bytes.Equal(got.Body, c.want.Body) {
				t.Errorf("got  %+v\nwant %+v", *got, c.want)
			}
			if !got.IsResponse() {
				t.Error("an answer was read as a request")
			}
		})
	}
}

func TestReadFrameRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
		want error
	}{
		{"nothing", nil, io.EOF},
		{"half a prefix", []byte{0, 0, 0}, io.ErrUnexpectedEOF},
		{"a frame that ends early", frameOf(100, 10, "{"), io.ErrUnexpectedEOF},
		{"a length of two gigabytes before anything is allocated", frameOf(0x7fffffff, 10, ""), ErrFrame},
		{"a length that reads as negative in Java", frameOf(0xffffffff, 10, ""), ErrFrame},
		{"a length too short for its own second word", frameOf(3, 0, ""), ErrFrame},
		{"a header longer than its frame", frameOf(10, 7, "{}0000"), ErrFrame},
		{"a header above the limit", frameOf(MaxFrameBytes, MaxHeaderBytes+1, ""), ErrFrame},
		{"a serialisation type that does not exist", frameOf(6, 7<<24|2, "{}"), ErrFrame},
		{"a header that is not JSON", frameOf(6, 2, "no"), ErrFrame},
		{"an answer of a web server", []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), ErrFrame},
		{"a compact header cut short", frameOf(9, 1<<24|5, "\x00\x01\x00\x00\x00"), ErrFrame},
		{"a compact header whose remark is longer than all", frameOf(4+17, 1<<24|17, "\x00\x11\x00\x02\x01\x00\x00\x00\x09\x00\x00\x00\x01\xff\xff\xff\xff"), ErrFrame},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ReadFrame(bufio.NewReader(bytes.NewReader(c.in)))
			if !errors.Is(err, c.want) {
				t.Errorf("got %+v, %v, want error %v", got, err, c.want)
			}
		})
	}
}

func FuzzReadFrame(f *testing.F) {
	whole, err := AppendFrame(nil, &Command{Code: 105, Opaque: 1, Fields: map[string]string{"topic": "T"}, Body: []byte("b")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(frameOf(6, 2, "{}"))
	f.Add(frameOf(0x7fffffff, 10, ""))
	f.Add(frameOf(4+8, 1<<24|8, "\x00\x11\x00\x02\x01\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		c, err := ReadFrame(bufio.NewReader(bytes.NewReader(in)))
		if err != nil {
			return
		}
		// What was read can be written and read again with the same meaning.
		again, err := AppendFrame(nil, c)
		if err != nil {
			t.Skip("the rewritten header is above the limit")
		}
		d, err := ReadFrame(bufio.NewReader(bytes.NewReader(again)))
		if err != nil {
			t.Fatalf("read again: %v", err)
		}
		if d.Code != c.Code || d.Opaque != c.Opaque || !bytes.Equal(d.Body, c.Body) || len(d.Fields) > len(c.Fields) {
			t.Fatalf("%+v became %+v", c, d)
		}
	})
}

func FuzzCompactHeader(f *testing.F) {
	f.Add([]byte("\x00\x11\x00\x02\x01\x00\x00\x00\x09\x00\x00\x00\x01\x00\x00\x00\x02no\x00\x00\x00\x08\x00\x01a\x00\x00\x00\x01b"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if c, err := decodeCompactHeader(in); err == nil && len(c.Remark) > len(in) {
			t.Fatalf("remark of %d bytes from %d", len(c.Remark), len(in))
		}
	})
}
