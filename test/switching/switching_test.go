// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package switching changes the drivers of running objects on a real RocketMQ, under load: everything of the proxy, without Kubernetes.
package switching

import (
	"context"
	"math"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/clientgo"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/proxytest"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/test/load"
)

var shared = rocketmq.NewShared(rocketmq.Options{})

func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }

// shop is a Producer and a Consumer of one topic, whose driver is changed.
type shop struct {
	*proxytest.Rig
	topic      string
	connection driver.Connection
	created    time.Time
	generation int64
	drain      time.Duration
}

func newShop(t *testing.T, drain time.Duration) *shop {
	t.Helper()
	cluster := shared.Cluster(t)
	library, err := clientgo.New(logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	s := &shop{
		topic: "topic_" + uuid.NewString()[:13], created: time.Now(), drain: drain,
		connection: driver.Connection{NameServers: cluster.NameServers(), AllowAddress: func(string) error { return nil }},
	}
	if err := cluster.CreateTopic(t.Context(), s.topic, 4, nil); err != nil {
		t.Fatal(err)
	}
	s.Rig = proxytest.New(t, proxytest.Options{
		Drivers: []driver.Driver{library, remoting.New(logr.Discard())}, LeavesGoroutines: true, DrainTimeout: 15 * time.Second,
	})
	return s
}

// use makes both objects run with a driver and waits until they do.
func (s *shop) use(name string) {
	s.T.Helper()
	s.generation++
	both := []registry.Key{
		s.Acquire("orders", func(spec *registry.Spec) {
			s.common(spec, name, "uid-producer")
			spec.Producer = proxytest.ProducerSpec(s.topic)
			spec.Producer.Config.Connection = s.connection
		}),
		s.Acquire("billing", func(spec *registry.Spec) {
			s.common(spec, name, "uid-consumer")
			spec.Consumer = proxytest.ConsumerSpec(s.topic)
			spec.Consumer.Config.Connection, spec.Consumer.AckDeadline = s.connection, 10*time.Second
		}),
	}
	for _, key := range both {
		deadline := time.Now().Add(time.Minute)
		for {
			status, _ := s.Registry.Status(key)
			if status.State == registry.Running && status.Driver == name && status.Generation == s.generation {
				break
			}
			if time.Now().After(deadline) {
				s.T.Fatalf("%s does not run with %s after a minute: %+v", key, name, status)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

func (s *shop) common(spec *registry.Spec, name, uid string) {
	spec.UID, spec.Driver, spec.Generation, spec.Created, spec.DrainTimeout = uid, name, s.generation, s.created, s.drain
	spec.Group = "group_" + s.topic
}

// receive starts a receiver; the test's end stops it. With forgetful it leaves every tenth first delivery to its deadline.
func (s *shop) receive(l *load.Ledger, forgetful bool) {
	s.T.Helper()
	ctx, stop := context.WithCancel(context.Background())
	o := load.ReceiveOptions{Consumer: load.Object{Namespace: proxytest.Namespace, Name: "billing"}, Outstanding: 50}
	if n := 0; forgetful {
		o.Handle = func(d *pb.Delivery) bool { n++; return d.GetDeliveryAttempt() > 1 || n%10 != 0 }
	}
	conn := s.Dial()
	var over sync.WaitGroup
	over.Go(func() {
		if err := load.Receive(ctx, conn, l, o); err != nil {
			s.T.Errorf("a receiver cannot go on: %v", err)
		}
	})
	s.T.Cleanup(func() { stop(); over.Wait() })
}

func awaitAcked(t *testing.T, l *load.Ledger, more int) {
	t.Helper()
	deadline := time.After(time.Minute)
	for aim := l.Counts().Acked + more; l.Counts().Acked < aim; {
		_, changed := l.Missing()
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("no %d more acknowledgements within a minute: %+v", more, l.Counts())
		}
	}
}

// TestNothingIsLostWhenTheDriverChangesUnderLoad: what one driver leaves for the group, the other one must read. ClientGo leaves what was sent back
// in the group's retry topic, Remoting what was leased or given back in the retry topics of POP. The drain is short, so that each change meets leases
// which nobody acknowledges in time.
func TestNothingIsLostWhenTheDriverChangesUnderLoad(t *testing.T) {
	s := newShop(t, time.Second)
	s.use(clientgo.Name)
	l := load.NewLedger()
	s.receive(l, false)
	s.receive(l, true)
	o := load.SendOptions{
		Producer: load.Object{Namespace: proxytest.Namespace, Name: "orders"}, Prefix: s.topic, Messages: math.MaxInt, Callers: 8, Bytes: 512,
		Pause: 10 * time.Millisecond, Enough: make(chan struct{}),
	}
	sent := make(chan error, 1)
	go func() { sent <- load.Send(context.Background(), s.Conn, l, o) }()
	awaitAcked(t, l, 500)
	for _, name := range []string{remoting.Name, clientgo.Name, remoting.Name, clientgo.Name} {
		began := time.Now()
		s.use(name)
		took := time.Since(began)
		awaitAcked(t, l, 500)
		t.Logf("%s runs after %v, 500 more acknowledged after %v: %+v", name, took.Round(10*time.Millisecond), time.Since(began).Round(10*time.Millisecond), l.Counts())
	}
	close(o.Enough)
	if err := <-sent; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := load.AwaitAcked(ctx, l); err != nil {
		progress, why := shared.Cluster(t).ConsumerProgress(context.Background(), "group_"+s.topic)
		t.Errorf("%v; the group's progress is %+v, %v", err, progress, why)
	}
	counts := l.Counts()
	t.Logf("at the end: %+v", counts)
	if err := l.Check(); err != nil {
		t.Error(err)
	}
	if counts.Sent < 2000 || counts.SendRetries != 0 {
		t.Errorf("%d messages, %d sends tried again; want at least 2000, and none because a Producer's new client is up before the old one drains",
			counts.Sent, counts.SendRetries)
	}
}
