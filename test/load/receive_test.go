// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package load_test

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/test/load"
)

// silent delivers "m" on a stream, and answers its acknowledgement with nothing.
type silent struct {
	proxyv1alpha1.UnimplementedConsumerServiceServer
	acked chan struct{}
}

func (s silent) Receive(stream grpc.BidiStreamingServer[proxyv1alpha1.ReceiveRequest, proxyv1alpha1.ReceiveResponse]) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	delivery := &proxyv1alpha1.Delivery{Message: &proxyv1alpha1.ReceivedMessage{Id: "m", Body: []byte("body")}, AckToken: "token", DeliveryAttempt: 1}
	if err := stream.Send(&proxyv1alpha1.ReceiveResponse{Deliveries: []*proxyv1alpha1.Delivery{delivery}}); err != nil {
		return err
	}
	if frame, err := stream.Recv(); err != nil || len(frame.GetAcks()) != 1 {
		return err
	}
	close(s.acked)
	<-stream.Context().Done()
	return stream.Context().Err()
}

// A receiver that was killed just after it had acknowledged made four messages "lost" in tests.md D5: the broker had taken the acknowledgement, whose answer
// nobody was there to read.
func TestAnAckUnderWayAsItsApplicationEndsIsUnknown(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := silent{acked: make(chan struct{})}
	server := grpc.NewServer()
	proxyv1alpha1.RegisterConsumerServiceServer(server, s)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	connection, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	l := book()
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	received := make(chan error, 1)
	go func() { received <- load.Receive(ctx, connection, l, load.ReceiveOptions{Outstanding: 1}) }()
	select {
	case <-s.acked:
	case <-time.After(30 * time.Second):
		t.Fatal("no acknowledgement came")
	}
	kill()
	if err := <-received; err != nil {
		t.Fatal(err)
	}
	if counts := l.Counts(); counts.AckUnknown != 1 || counts.Acked != 0 {
		t.Errorf("counts %+v, want one unknown acknowledgement", counts)
	}
}
