// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/checks"
)

// checkMessage is a check as streams carry it. Clients of any kind may be in the group, so that its texts need not be UTF-8.
func checkMessage(c *checks.Check) *pb.TransactionCheck {
	return &pb.TransactionCheck{
		Transaction: c.Transaction, CheckTimes: int32(c.Times), BornTime: timestamppb.New(c.BornTime),
		Message: &pb.ReceivedMessage{
			Topic: validText(c.Topic), Body: c.Body, Id: validText(c.ID), Tag: validText(c.Tag), Keys: validTexts(c.Keys),
			Properties: validProperties(c.Properties),
		},
	}
}

// CheckJSON is a check as it is posted: the fields of TransactionCheck with the Producer's name before them, and text for a body that is UTF-8, as HTTP
// readers get deliveries.
func CheckJSON(c *checks.Check, namespace, producer string) ([]byte, error) {
	m := checkMessage(c)
	if utf8.Valid(m.Message.Body) {
		readable(m.Message)
	}
	text, err := toJSON.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("write the check of message %q: %w", c.ID, err)
	}
	head, err := json.Marshal(map[string]string{"namespace": namespace, "producer": producer})
	if err != nil {
		return nil, fmt.Errorf("write the check of message %q: %w", c.ID, err)
	}
	// {"namespace":..} and {"transaction":..} become one object; neither is empty.
	return append(append(head[:len(head)-1], ','), text[1:]...), nil
}
