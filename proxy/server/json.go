// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"unicode/utf8"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
)

// jsonMarshaler is the JSON of our HTTP calls: field names as in the .proto, unknown fields refused, one line for each answer.
type jsonMarshaler struct{}

var (
	toJSON   = protojson.MarshalOptions{UseProtoNames: true}
	fromJSON = protojson.UnmarshalOptions{}
)

// ContentType of answers.
func (jsonMarshaler) ContentType(any) string { return "application/json" }

// Marshal writes v. A Pull without messages, or a list without dead letters, says so with an empty list, which scripts can walk over.
func (jsonMarshaler) Marshal(v any) ([]byte, error) {
	message, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("cannot write a %T as JSON", v)
	}
	if pull, ok := v.(*pb.PullResponse); ok && len(pull.Deliveries) == 0 {
		return []byte(`{"deliveries":[]}` + "\n"), nil
	}
	text, err := toJSON.Marshal(message)
	if list, ok := v.(*pb.ListDeadLettersResponse); ok && err == nil && len(list.Letters) == 0 {
		text = append([]byte(`{"letters":[],`), text[1:]...) // left is always there
	}
	return append(text, '\n'), err
}

// Unmarshal reads into v.
func (jsonMarshaler) Unmarshal(data []byte, v any) error {
	message, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("cannot read JSON into a %T", v)
	}
	return fromJSON.Unmarshal(data, message)
}

// NewDecoder reads one value.
func (m jsonMarshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		return m.Unmarshal(data, v)
	})
}

// NewEncoder writes one value.
func (m jsonMarshaler) NewEncoder(w io.Writer) runtime.Encoder {
	return runtime.EncoderFunc(func(v any) error {
		text, err := m.Marshal(v)
		if err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	})
}

var (
	jsonPosition = regexp.MustCompile(`\(line \d+:\d+\): `)
	unknownField = regexp.MustCompile(`unknown field "([^"]*)"`)
)

// describeJSONError makes an error of the gateway's decoder one of ours; positions are left out, because they count in the body as prepareJSON
// made it.
func describeJSONError(err error) error {
	st := status.Convert(err)
	if st.Code() != codes.InvalidArgument || len(st.Details()) > 0 {
		return err
	}
	text := jsonPosition.ReplaceAllString(plainProtoError(errors.New(st.Message())), "")
	field := ""
	if found := unknownField.FindStringSubmatch(text); found != nil {
		field = found[1]
	}
	return failure(codes.InvalidArgument, reasonInvalid, field, "the body does not fit this call: "+text)
}

// prepareJSON checks that body is one JSON object, and in a call that writes messages moves each message's json, byte for byte as it was typed, into text. A JSON
// value that went through protobuf would come out as another one: numbers become doubles (12345678901234567890 loses digits, 1e400 is refused),
// and order and blanks are lost.
func prepareJSON(body *[]byte, writes bool) error {
	if !utf8.Valid(*body) {
		return failure(codes.InvalidArgument, reasonInvalid, "", "the body is not UTF-8; send bytes as base64 in the field body")
	}
	top, err := parseObject(*body)
	if err != nil {
		return failure(codes.InvalidArgument, reasonInvalid, "", "the body is not a JSON object: "+err.Error())
	}
	if !writes || !bytes.Contains(*body, []byte("json")) {
		return nil
	}
	for i := range top {
		switch top[i].name {
		case "messages":
			top[i].value, err = prepareMessages(top[i].value)
		case "message":
			top[i].value, err = prepareMessage("message", top[i].value)
		}
		if err != nil {
			return err
		}
	}
	*body = writeObject(top)
	return nil
}

func prepareMessages(list json.RawMessage) (json.RawMessage, error) {
	var messages []json.RawMessage
	if json.Unmarshal(list, &messages) != nil {
		return list, nil //nolint:nilerr // It is not a list; the decoder says so, with the field.
	}
	for i, raw := range messages {
		prepared, err := prepareMessage(messageField(i, ""), raw)
		if err != nil {
			return nil, err
		}
		messages[i] = prepared
	}
	return writeList(messages), nil
}

// prepareMessage is where json becomes text. path names the message in the request.
func prepareMessage(path string, raw json.RawMessage) (json.RawMessage, error) {
	fields, err := parseObject(raw)
	if err != nil {
		return raw, nil //nolint:nilerr // It is not an object; the decoder says so.
	}
	found, contents := -1, 0
	for j := range fields {
		switch fields[j].name {
		case "json":
			found = j
			contents++
		case "text", "body":
			contents++
		}
	}
	switch {
	case contents > 1:
		return nil, invalid(path, "it has more than one of body, text and json")
	case found < 0:
		return raw, nil
	}
	fields[found].name = "text"
	fields[found].value = quote(string(fields[found].value))
	return writeObject(fields), nil
}

// member is one name and its value as typed. Unlike a map, a list of them keeps order and repetitions.
type member struct {
	name  string
	value json.RawMessage
}

// parseObject takes data apart into its members; data must be one object and nothing else.
func parseObject(data []byte) ([]member, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	if token, err := decoder.Token(); err != nil {
		return nil, jsonProblem(err, decoder)
	} else if token != json.Delim('{') {
		return nil, errors.New(`it does not begin with "{"`)
	}
	var out []member
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, jsonProblem(err, decoder)
		}
		text, ok := name.(string)
		if !ok {
			return nil, fmt.Errorf("a name is expected at byte %d", decoder.InputOffset())
		}
		m := member{name: text}
		if err := decoder.Decode(&m.value); err != nil {
			return nil, jsonProblem(err, decoder)
		}
		out = append(out, m)
	}
	if _, err := decoder.Token(); err != nil {
		return nil, jsonProblem(err, decoder)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("something follows the object at byte %d", decoder.InputOffset())
	}
	return out, nil
}

func jsonProblem(err error, decoder *json.Decoder) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it ends too early")
	}
	return fmt.Errorf("%w near byte %d", err, decoder.InputOffset())
}

func writeObject(members []member) []byte {
	var out bytes.Buffer
	out.WriteByte('{')
	for i, m := range members {
		if i > 0 {
			out.WriteByte(',')
		}
		out.Write(quote(m.name))
		out.WriteByte(':')
		out.Write(m.value)
	}
	out.WriteByte('}')
	return out.Bytes()
}

func writeList(values []json.RawMessage) []byte {
	out := []byte{'['}
	for i, v := range values {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, v...)
	}
	return append(out, ']')
}

// quote writes text as a JSON string.
func quote(text string) []byte {
	out, err := json.Marshal(text)
	if err != nil {
		return []byte(`""`) // It cannot happen for a string.
	}
	return out
}
