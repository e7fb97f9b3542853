// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// maxIDBytes is the protocol's limit for a message's id.
const maxIDBytes = 128

// message turns what a caller wrote into what a driver sends, or says what is wrong with it. The error's field is relative to the message.
func (s *Server) message(m *pb.Message, producer *registry.ProducerSpec) (*driver.Message, *pb.SendError) {
	topic, problem := chooseTopic(m.GetTopic(), producer.Config.Topics)
	if problem != nil {
		return nil, problem
	}
	body, problem := content(m)
	if problem != nil {
		return nil, problem
	}
	out := &driver.Message{ID: m.GetId(), Topic: topic, Tag: m.GetTag(), Keys: m.GetKeys(), Properties: m.GetProperties(), Body: body, ShardingKey: m.GetShardingKey()}
	if out.ID == "" {
		out.ID = s.ids.id()
	} else if problem := checkID(out.ID); problem != nil {
		return nil, problem
	}
	if problem := when(m, out); problem != nil {
		return nil, problem
	}
	if err := driver.ValidateMessage(out, 0); err != nil {
		return nil, sendError(err)
	}
	if size, limit := out.Bytes(), producer.MaxMessageBytes; limit > 0 && size > int64(limit) {
		return nil, refuse(reasonTooLarge, "body", "the message has %d bytes (body, properties, keys, sharding key, tag and id together); the Producer's maxMessageBytes is %d",
			size, limit)
	}
	return out, nil
}

func refuse(reason, field, format string, args ...any) *pb.SendError {
	return &pb.SendError{Code: int32(codes.InvalidArgument), Reason: reason, Field: field, Message: fmt.Sprintf(format, args...)}
}

// chooseTopic takes the Producer's only topic for a message that names none, and refuses topics that the Producer does not have.
func chooseTopic(topic string, allowed []string) (string, *pb.SendError) {
	switch {
	case topic == "" && len(allowed) == 1:
		return allowed[0], nil
	case topic == "":
		return "", refuse(reasonTopicMissing, "topic", "the message names no topic and the Producer has %d: name one of %s", len(allowed),
			strings.Join(allowed, ", "))
	case !slices.Contains(allowed, topic):
		return "", refuse(reasonTopicForbidden, "topic", "%q is not a topic of this Producer; it has %s", topic, strings.Join(allowed, ", "))
	default:
		return topic, nil
	}
}

// content is the body in bytes.
func content(m *pb.Message) ([]byte, *pb.SendError) {
	switch c := m.GetContent().(type) {
	case *pb.Message_Body:
		return c.Body, nil
	case *pb.Message_Text:
		return []byte(c.Text), nil
	case *pb.Message_Json:
		typed, err := protojson.Marshal(c.Json)
		if err != nil {
			return nil, refuse(string(driver.InvalidMessage), "json", "the value is not JSON: %s", plainProtoError(err))
		}
		var compact bytes.Buffer // protojson puts blanks at random; the same value has to make the same bytes
		if err := json.Compact(&compact, typed); err != nil {
			return nil, refuse(string(driver.InvalidMessage), "json", "the value is not JSON: %s", err)
		}
		return compact.Bytes(), nil
	default:
		return nil, nil // ValidateMessage says that the body is empty.
	}
}

// when reads the message's time.
func when(m *pb.Message, out *driver.Message) *pb.SendError {
	switch w := m.GetWhen().(type) {
	case *pb.Message_DeliverAt:
		if err := w.DeliverAt.CheckValid(); err != nil {
			return refuse(string(driver.InvalidMessage), "deliver_at", "it is not a time: %s", plainProtoError(err))
		}
		out.When.At = w.DeliverAt.AsTime()
	case *pb.Message_Delay:
		if err := w.Delay.CheckValid(); err != nil {
			return refuse(string(driver.InvalidMessage), "delay", "it is not a duration: %s", plainProtoError(err))
		}
		out.When.Delay = w.Delay.AsDuration()
	}
	out.When.Round = m.GetRoundDelay()
	return nil
}

func checkID(id string) *pb.SendError {
	if len(id) > maxIDBytes {
		return refuse(string(driver.InvalidMessage), "id", "the id has %d bytes; it may have %d", len(id), maxIDBytes)
	}
	for _, c := range []byte(id) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9') && !strings.ContainsRune("-_.:/+=", rune(c)) {
			return refuse(string(driver.InvalidMessage), "id", `%q has a character that an id may not have: use letters, digits and -_.:/+=`, id)
		}
	}
	return nil
}

// plainProtoError takes the prefix and its random blank off an error of protobuf.
func plainProtoError(err error) string {
	text := strings.TrimPrefix(err.Error(), "proto:")
	return strings.TrimLeft(text, " \u00a0")
}
