// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
)

const (
	producerPath = "/v1alpha1/namespaces/" + appNamespace + "/producers/orders"
	consumerPath = "/v1alpha1/namespaces/" + appNamespace + "/consumers/orders"
)

// sendHTTPReceiveGRPC is the main job: three orders out by HTTP, back by a stream, acknowledged on the stream.
func (d *demo) sendHTTPReceiveGRPC(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	answer, err := d.post(ctx, producerPath+":send", `{"messages":[{"json":{"order":1,"total":9.90},"tag":"created"},{"text":"order 2","tag":"created"},{"text":"order 3","tag":"created","keys":["customer-7"]}]}`, http.StatusOK)
	if err != nil {
		return err
	}
	var sent struct {
		Results []struct {
			MessageID string `json:"messageId"`
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
	connection, err := d.dial()
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	stream, err := proxyv1alpha1.NewConsumerServiceClient(connection).Receive(d.withToken(ctx))
	if err != nil {
		return err
	}
	open := &proxyv1alpha1.ReceiveRequest{Namespace: appNamespace, Consumer: "orders", MaxOutstandingMessages: 10, ClientId: "demo"}
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
	connection, err := d.dial()
	if err != nil {
		return err
	}
	defer func() { _ = connection.Close() }()
	answer, err := proxyv1alpha1.NewProducerServiceClient(connection).Send(d.withToken(ctx), &proxyv1alpha1.SendRequest{
		Namespace: appNamespace, Producer: "orders",
		Messages: []*proxyv1alpha1.Message{{Id: "order-4", Content: &proxyv1alpha1.Message_Text{Text: "order 4"}, Tag: "created"}},
	})
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	fmt.Printf("    gRPC Send answered %s\n", answer.GetResults()[0].GetMessageId())
	for {
		pulled, err := d.post(ctx, consumerPath+":pull", `{"maxMessages":10,"wait":"20s"}`, http.StatusOK)
		if err != nil {
			return err
		}
		var got struct {
			Deliveries []struct {
				AckToken string `json:"ackToken"`
			} `json:"deliveries"`
		}
		if err := json.Unmarshal(pulled, &got); err != nil {
			return err
		}
		if len(got.Deliveries) == 0 {
			continue // nothing yet: ctx bounds how often
		}
		acked, err := d.post(ctx, consumerPath+":ack", fmt.Sprintf(`{"ackTokens":[%q]}`, got.Deliveries[0].AckToken), http.StatusOK)
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
	err := d.kubectl(ctx, "create", "-n", appNamespace, "-f", filepath.Join(d.root, "hack", "demo", "wrong.yaml"))
	if err == nil {
		return errors.New("the API server accepted hack/demo/wrong.yaml")
	}
	return nil
}

// post shows the call as curl and the answer, and fails when the status is another than expected.
func (d *demo) post(ctx context.Context, path, body string, expect int) ([]byte, error) {
	fmt.Printf("    $ curl -X POST .../%s -d '%s'\n", strings.TrimPrefix(path, "/v1alpha1/namespaces/"), body)
	config, err := d.clientTLS()
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: config}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+loopback(d.ports.http)+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+d.appToken)
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	shown := string(answer)
	if len(shown) > 500 {
		shown = shown[:500] + "..."
	}
	fmt.Printf("    %d %s\n", response.StatusCode, shown)
	if response.StatusCode != expect {
		return nil, fmt.Errorf("POST %s answered %d, expected %d", path, response.StatusCode, expect)
	}
	return answer, nil
}

func (d *demo) clientTLS() (*tls.Config, error) {
	ca, err := os.ReadFile(filepath.Join(d.work, "tls.crt"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, errors.New("tls.crt holds no certificate")
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

func (d *demo) dial() (*grpc.ClientConn, error) {
	config, err := d.clientTLS()
	if err != nil {
		return nil, err
	}
	return grpc.NewClient(loopback(d.ports.grpc), grpc.WithTransportCredentials(credentials.NewTLS(config)))
}

func (d *demo) withToken(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+d.appToken)
}

// printTour says what to try while `make run` stays up; each line can be pasted.
func (d *demo) printTour() {
	work := strings.TrimPrefix(d.work, d.root+"/")
	fmt.Printf(`
The operator runs (its log: %[1]s/operator.log). In another terminal, from the project's root:

  export KUBECONFIG=%[1]s/admin.kubeconfig PATH=$PWD/bin/envtest:$PATH
  kubectl get rmqp,rmqc -o wide
  kubectl describe rmqp orders

  api() { curl -sS --cacert %[1]s/tls.crt -H "Authorization: Bearer $(cat %[1]s/token)" -d "$2" https://%[2]s/v1alpha1/namespaces/%[3]s/$1; echo; }
  api producers/orders:send '{"messages":[{"text":"hello","tag":"created"}]}'
  api consumers/orders:pull '{"maxMessages":10,"wait":"20s"}'
  api consumers/orders:ack  '{"ackTokens":["<ackToken of the answer>"]}'

  grpcurl -cacert %[1]s/tls.crt -H "authorization: Bearer $(cat %[1]s/token)" \
    -d '{"namespace":"%[3]s","producer":"orders","messages":[{"text":"hello","tag":"created"}]}' \
    %[4]s rocketmq.proxy.v1alpha1.ProducerService/Send      # make tools builds bin/grpcurl

  kubectl delete rmqp,rmqc --all && kubectl get events

Ctrl-C stops everything.
`, work, loopback(d.ports.http), appNamespace, loopback(d.ports.grpc))
}
