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

const transactionalPath = "/v1alpha1/namespaces/" + appNamespace + "/producers/payments"

// showTransactions begins two transactions, of which nobody gets anything; then one is committed and comes, the other is rolled back and does not.
func (d *demo) showTransactions(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	paid, err := d.begin(ctx, "payment-1")
	if err != nil {
		return err
	}
	refused, err := d.begin(ctx, "payment-2")
	if err != nil {
		return err
	}
	if err := d.nothingComes(ctx, "1s", "before its transaction was ended"); err != nil {
		return err
	}
	for _, end := range []struct{ transaction, decision string }{{paid, "COMMIT"}, {refused, "ROLLBACK"}} {
		if _, err := d.post(ctx, transactionalPath+":endTransaction", fmt.Sprintf(`{"transaction":%q,"decision":%q}`, end.transaction, end.decision), http.StatusOK); err != nil {
			return err
		}
	}
	if err := d.receiveStream(ctx, map[string]bool{"payment-1": true}); err != nil {
		return err
	}
	return d.nothingComes(ctx, "2s", "of a transaction that was rolled back")
}

// begin answers the transaction of a message with this id.
func (d *demo) begin(ctx context.Context, id string) (string, error) {
	answer, err := d.post(ctx, transactionalPath+":beginTransaction", fmt.Sprintf(`{"message":{"topic":"payments","id":%q,"text":"paid"}}`, id), http.StatusOK)
	if err != nil {
		return "", err
	}
	var begun proxyv1alpha1.BeginTransactionResponse
	if err := protojson.Unmarshal(answer, &begun); err != nil {
		return "", err
	}
	return begun.GetTransaction(), nil
}

// nothingComes pulls for so long and fails when something comes.
func (d *demo) nothingComes(ctx context.Context, wait, what string) error {
	answer, err := d.post(ctx, consumerPath+":pull", fmt.Sprintf(`{"wait":%q}`, wait), http.StatusOK)
	if err != nil {
		return err
	}
	var pulled proxyv1alpha1.PullResponse
	if err := protojson.Unmarshal(answer, &pulled); err != nil {
		return err
	}
	if len(pulled.GetDeliveries()) != 0 {
		return fmt.Errorf("something came %s: %s", what, answer)
	}
	return nil
}
