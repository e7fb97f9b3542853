// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
)

const (
	producerPath = "/v1alpha1/namespaces/" + appNamespace + "/producers/orders"
	consumerPath = "/v1alpha1/namespaces/" + appNamespace + "/consumers/orders-mailer"
)

// sendHTTPReceiveGRPC is the main job: three orders out by HTTP, back by a stream, acknowledged on the stream.
func (d *demo) sendHTTPReceiveGRPC(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	answer, err := d.post(ctx, producerPath+":send", `{"messages":[{"topic":"orders","json":{"order":1,"total":9.90},"tag":"created"},{"topic":"orders","text":"order 2","tag":"created"},{"topic":"orders","text":"order 3","tag":"created","keys":["customer-7"]}]}`, http.StatusOK)
	if err != nil {
		return err
	}
	var sent struct {
		Results []struct {
			MessageID string `json:"message_id"`
		} `json:"results"`
	}
	if err := json.Unmarshal(answer, &sent); err != nil {
		return err
	}
	waiting := map[string]bool{}
	for _, r := range sent.Results {
		if r.MessageID == "" {
			return fmt.Errorf("a message was not stored: %s", answer)
		}
		waiting[r.MessageID] = true
	}
	return d.receiveStream(ctx, waiting)
}

// receiveStream reads until every id in waiting came and its ack was confirmed.
func (d *demo) receiveStream(ctx context.Context, waiting map[string]bool) error {
	connection, err := d.operator.Dial(d.appToken)
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	stream, err := proxyv1alpha1.NewConsumerServiceClient(connection).Receive(ctx)
	if err != nil {
		return err
	}
	open := &proxyv1alpha1.ReceiveRequest{Namespace: appNamespace, Consumer: "orders-mailer", MaxOutstandingMessages: 10, ClientId: "demo"}
	if err := stream.Send(open); err != nil {
		return err
	}
	for acked := 0; acked < len(waiting); {
		frame, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		tokens := make([]string, 0, len(frame.GetDeliveries()))
		for _, delivery := range frame.GetDeliveries() {
			m := delivery.GetMessage()
			if !waiting[m.GetId()] {
				return fmt.Errorf("message %s was not sent here", m.GetId())
			}
			fmt.Printf("    received %s attempt %d: %s\n", m.GetId(), delivery.GetDeliveryAttempt(), m.GetBody())
			tokens = append(tokens, delivery.GetAckToken())
		}
		if len(tokens) > 0 {
			if err := stream.Send(&proxyv1alpha1.ReceiveRequest{Acks: tokens}); err != nil {
				return err
			}
		}
		for _, result := range frame.GetResults() {
			if result.GetOutcome() != proxyv1alpha1.TokenResult_OK {
				return fmt.Errorf("ack: %s %s", result.GetOutcome(), result.GetDetail())
			}
			acked++
		}
	}
	fmt.Printf("    %d acknowledged\n", len(waiting))
	return stream.CloseSend()
}

func (d *demo) sendGRPCPullHTTP(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	connection, err := d.operator.Dial(d.appToken)
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	answer, err := proxyv1alpha1.NewProducerServiceClient(connection).Send(ctx, &proxyv1alpha1.SendRequest{
		Namespace: appNamespace, Producer: "orders",
		Messages: []*proxyv1alpha1.Message{{Topic: "orders", Id: "order-4", Content: &proxyv1alpha1.Message_Text{Text: "order 4"}, Tag: "created"}},
	})
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	fmt.Printf("    gRPC Send answered %s\n", answer.GetResults()[0].GetMessageId())
	for {
		pulled, err := d.post(ctx, consumerPath+":pull", `{"max_messages":10,"wait":"20s"}`, http.StatusOK)
		if err != nil {
			return err
		}
		var got struct {
			Deliveries []struct {
				AckToken string `json:"ack_token"`
			} `json:"deliveries"`
		}
		if err := json.Unmarshal(pulled, &got); err != nil {
			return err
		}
		if len(got.Deliveries) == 0 {
			continue // nothing yet: ctx bounds how often
		}
		acked, err := d.post(ctx, consumerPath+":ack", fmt.Sprintf(`{"ack_tokens":[%q]}`, got.Deliveries[0].AckToken), http.StatusOK)
		if err != nil {
			return err
		}
		if !bytes.Contains(acked, []byte(`"OK"`)) {
			return fmt.Errorf("ack answered %s", acked)
		}
		return nil
	}
}

// showRefusals shows three mistakes that users make, each with the answer that says what to do.
func (d *demo) showRefusals(ctx context.Context) error {
	for _, refused := range []struct {
		path, body string
		code       int
	}{
		{producerPath + ":send", `{"messages":[{"tpoic":"orders","text":"a"}]}`, http.StatusBadRequest},
		{producerPath + ":send", `{"messages":[{"topic":"not-declared","text":"a"}]}`, http.StatusBadRequest},
		{strings.Replace(producerPath, "orders", "invoices", 1) + ":send", `{"messages":[{"text":"a"}]}`, http.StatusForbidden},
	} {
		if _, err := d.post(ctx, refused.path, refused.body, refused.code); err != nil {
			return err
		}
	}
	err := d.kubectl(ctx, "create", "-n", appNamespace, "-f", filepath.Join("hack", "demo", "wrong.yaml"))
	if err == nil {
		return errors.New("the API server accepted hack/demo/wrong.yaml")
	}
	fmt.Printf("    refused, as it should be: %v\n", err)
	return nil
}

// post shows the call as curl and the answer, and fails when the status is another than expected.
func (d *demo) post(ctx context.Context, path, body string, expect int) ([]byte, error) {
	fmt.Printf("    $ curl -X POST .../%s -d '%s'\n", strings.TrimPrefix(path, "/v1alpha1/namespaces/"), body)
	answer, err := d.postQuietly(ctx, path, body, expect)
	if err != nil {
		return nil, err
	}
	shown := string(answer)
	if len(shown) > 500 {
		shown = shown[:500] + "..."
	}
	fmt.Printf("    %d %s\n", expect, shown)
	return answer, nil
}

// postQuietly is post without showing.
func (d *demo) postQuietly(ctx context.Context, path, body string, expect int) ([]byte, error) {
	code, answer, err := d.operator.Post(ctx, d.appToken, path, body)
	if err != nil {
		return nil, err
	}
	if code != expect {
		return nil, fmt.Errorf("POST %s answered %d, expected %d: %s", path, code, expect, answer)
	}
	return answer, nil
}

// printTour says what to try while `make run` stays up; each line can be pasted.
func (d *demo) printTour() {
	work, host := d.relative(d.work), d.relative(d.operator.Dir)
	fmt.Printf(`
The operator runs (its log: %[2]s/operator.log). In another terminal, from the project's root:

  export KUBECONFIG=$PWD/%[1]s/admin.kubeconfig PATH=$PWD/bin/envtest:$PWD/bin:$PATH
  kubectl get rmqp,rmqc -o wide
  kubectl describe rmqp orders

  api() { curl -sS --cacert %[2]s/tls.crt -H "Authorization: Bearer $(cat %[1]s/token)" -d "$2" https://%[3]s/v1alpha1/namespaces/%[4]s/$1; echo; }
  api producers/orders:send '{"messages":[{"topic":"orders","text":"hello","tag":"created"}]}'
  api consumers/orders-mailer:pull '{"max_messages":10,"wait":"20s"}'
  api consumers/orders-mailer:ack  '{"ack_tokens":["<ack_token of the answer>"]}'

  grpcurl -cacert %[2]s/tls.crt -H "authorization: Bearer $(cat %[1]s/token)" \
    -d '{"namespace":"%[4]s","producer":"orders","messages":[{"topic":"orders","text":"hello","tag":"created"}]}' \
    %[5]s rocketmq.proxy.v1alpha1.ProducerService/Send

  kubectl delete rmqp,rmqc --all && kubectl get events

Ctrl-C stops everything.
`, work, host, localenv.Loopback(d.operator.Ports.HTTP), appNamespace, localenv.Loopback(d.operator.Ports.GRPC))
}
