// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
)

const (
	orderedPath = "/v1alpha1/namespaces/" + appNamespace + "/consumers/orders-in-order"
	orderedKey  = "order-4711"
)

// showOrder sends what happens to one order, in order, and receives it so: when one of it fails, it and what is behind it come again, and nothing overtakes it.
func (d *demo) showOrder(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	events := []string{"created", "paid", "shipped"}
	messages := make([]string, len(events))
	for i, event := range events {
		messages[i] = fmt.Sprintf(`{"topic":"orders","sharding_key":%q,"text":%q}`, orderedKey, event)
	}
	if _, err := d.post(ctx, producerPath+":send", `{"messages":[`+strings.Join(messages, ",")+`]}`, http.StatusOK); err != nil {
		return err
	}
	first, err := d.pullKeyed(ctx)
	if err != nil {
		return err
	}
	text := first.GetMessage().GetText()
	fmt.Printf("    received %s attempt %d\n", text, first.GetDeliveryAttempt())
	if text != events[0] {
		return fmt.Errorf("%s came first", text)
	}
	if _, err := d.post(ctx, orderedPath+":nack", fmt.Sprintf(`{"nacks":[{"ack_token":%q,"delay":"1s","reason":"the stock is locked"}]}`, first.GetAckToken()), http.StatusOK); err != nil {
		return err
	}
	var came []string
	for len(came) < len(events) {
		delivery, err := d.pullKeyed(ctx)
		if err != nil {
			return err
		}
		fmt.Printf("    received %s attempt %d\n", delivery.GetMessage().GetText(), delivery.GetDeliveryAttempt())
		came = append(came, delivery.GetMessage().GetText())
		if err := d.ack(ctx, delivery.GetAckToken()); err != nil {
			return err
		}
	}
	if !slices.Equal(came, events) {
		return fmt.Errorf("they came as %q", came)
	}
	return nil
}

// pullKeyed pulls one message with the key. The Consumer begins at the earliest message, so what the other steps have sent comes too; it is acknowledged,
// and not shown.
func (d *demo) pullKeyed(ctx context.Context) (*proxyv1alpha1.Delivery, error) {
	for {
		answer, err := d.postQuietly(ctx, orderedPath+":pull", `{"max_messages":1,"wait":"20s"}`, http.StatusOK)
		if err != nil {
			return nil, err
		}
		var pulled proxyv1alpha1.PullResponse
		if err := protojson.Unmarshal(answer, &pulled); err != nil {
			return nil, err
		}
		for _, delivery := range pulled.GetDeliveries() {
			if delivery.GetMessage().GetShardingKey() == orderedKey {
				return delivery, nil
			}
			if err := d.ack(ctx, delivery.GetAckToken()); err != nil {
				return nil, err
			}
		}
	}
}

func (d *demo) ack(ctx context.Context, token string) error {
	answer, err := d.postQuietly(ctx, orderedPath+":ack", fmt.Sprintf(`{"ack_tokens":[%q]}`, token), http.StatusOK)
	if err != nil {
		return err
	}
	var acked proxyv1alpha1.AckResponse
	if err := protojson.Unmarshal(answer, &acked); err != nil {
		return err
	}
	if outcome := acked.GetResults()[0].GetOutcome(); outcome != proxyv1alpha1.TokenResult_OK {
		return fmt.Errorf("ack: %s %s", outcome, acked.GetResults()[0].GetDetail())
	}
	return nil
}
