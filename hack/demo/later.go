// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
)

// showLater sends two messages for later: one comes when its time has come, the other is recalled and does not come.
func (d *demo) showLater(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	const delay = 2 * time.Second
	began := time.Now()
	answer, err := d.post(ctx, producerPath+":send", `{"messages":[{"topic":"orders","id":"reminder-1","text":"pay order 1","tag":"created","delay":"2s"},{"topic":"orders","id":"reminder-2","text":"pay order 2","tag":"created","delay":"3s"}]}`, http.StatusOK)
	if err != nil {
		return err
	}
	var sent proxyv1alpha1.SendResponse
	if err := protojson.Unmarshal(answer, &sent); err != nil {
		return err
	}
	recalled := sent.GetResults()[1].GetRecallHandle()
	if recalled == "" {
		return fmt.Errorf("reminder-2 got no recall handle: %s", answer)
	}
	if _, err := d.post(ctx, producerPath+":recall", fmt.Sprintf(`{"recall_handle":%q}`, recalled), http.StatusOK); err != nil {
		return err
	}
	if err := d.receiveStream(ctx, map[string]bool{"reminder-1": true}); err != nil {
		return err
	}
	took := time.Since(began)
	fmt.Printf("    reminder-1 came after %.1f s\n", took.Seconds())
	if took < delay-100*time.Millisecond { // brokers count from when they stored it, by their own clock
		return fmt.Errorf("it was delivered too early")
	}
	if err := d.nothingComes(ctx, "4s", "after the recall"); err != nil {
		return err
	}
	fmt.Println("    reminder-2 did not come")
	return nil
}
