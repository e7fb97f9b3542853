// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/test/load"
)

// ackDeadline is that of every traffic's Consumer.
const ackDeadline = 10 * time.Second

// traffic is one Producer, one Consumer and the applications on them.
type traffic struct {
	t      *testing.T
	c      *cluster
	op     *localenv.Operator
	name   string
	topic  string
	ledger *load.Ledger
	// senders send over connection; nil = one to op.
	connection *grpc.ClientConn
	// driver of both objects; empty = Auto, which is Remoting here.
	driver string
	// window is the Consumer's maxInFlight; empty = the default.
	window   string
	receives sync.WaitGroup
	stop     context.CancelFunc
	failed   chan error
}

// planTraffic gives names only; begin does the rest.
func planTraffic(t *testing.T, c *cluster, op *localenv.Operator) *traffic {
	t.Helper()
	return &traffic{t: t, c: c, op: op, name: unique(t), topic: c.topic(t, 8), ledger: load.NewLedger()}
}

// newTraffic applies the objects, waits for Ready and starts streams receivers, each on the connection that dial gives.
func newTraffic(t *testing.T, c *cluster, op *localenv.Operator, streams int, dial func() *grpc.ClientConn) *traffic {
	t.Helper()
	f := planTraffic(t, c, op)
	f.begin(streams, dial)
	return f
}

// newTrafficOn is newTraffic with a driver, three streams, each on a connection of its own.
func newTrafficOn(t *testing.T, c *cluster, op *localenv.Operator, driver string) *traffic {
	t.Helper()
	f := planTraffic(t, c, op)
	f.driver = driver
	f.begin(3, func() *grpc.ClientConn { return c.dial(t, op) })
	return f
}

// apply applies both objects; extra lines belong to both specs.
func (f *traffic) apply(extra ...string) {
	f.t.Helper()
	if f.driver != "" {
		extra = append(extra, "driver: "+f.driver)
	}
	receives := append([]string{fmt.Sprintf("ackDeadlineSeconds: %.0f", ackDeadline.Seconds())}, extra...)
	if f.window != "" {
		receives = append(receives, "maxInFlight: "+f.window)
	}
	f.c.apply(f.t, producer(f.name, f.topic, extra...), consumer(f.name, "g_"+f.name, f.topic, receives...))
}

func (f *traffic) begin(streams int, dial func() *grpc.ClientConn, extra ...string) {
	f.t.Helper()
	f.apply(extra...)
	f.c.waitReady(f.t, f.objects()...)
	ctx, stop := context.WithCancel(f.t.Context())
	f.stop, f.failed = stop, make(chan error, 1)
	for range streams {
		f.receive(ctx, load.Receive, dial())
	}
	f.t.Cleanup(func() { stop(); f.receives.Wait() })
}

// receive starts a receiver: load.Receive or load.Pull.
func (f *traffic) receive(ctx context.Context, how func(context.Context, *grpc.ClientConn, *load.Ledger, load.ReceiveOptions) error, connection *grpc.ClientConn) {
	f.receives.Go(func() {
		err := how(ctx, connection, f.ledger, load.ReceiveOptions{Consumer: load.Object{Namespace: namespace, Name: f.name}, Outstanding: 100})
		if err != nil {
			select {
			case f.failed <- err:
			default: // the first one is told
			}
		}
	})
}

// sender is the senders' connection.
func (f *traffic) sender() *grpc.ClientConn {
	f.t.Helper()
	if f.connection == nil {
		f.connection = f.c.dial(f.t, f.op)
	}
	return f.connection
}

func (f *traffic) objects() []string { return []string{"rmqp/" + f.name, "rmqc/" + f.name} }

// send sends to the end and fails the test when something was refused for good.
func (f *traffic) send(messages, callers int, pause time.Duration) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 5*time.Minute)
	defer cancel()
	must(f.t, load.Send(ctx, f.sender(), f.ledger, f.sends(messages, callers, pause)))
}

func (f *traffic) sends(messages, callers int, pause time.Duration) load.SendOptions {
	return load.SendOptions{
		Producer: load.Object{Namespace: namespace, Name: f.name}, Prefix: f.name, Messages: messages, Callers: callers, Bytes: 1024, Pause: pause,
	}
}

// sendInBackground sends until the returned function is called, which waits for the senders and fails the test when something was refused
// for good. It may be called once only.
func (f *traffic) sendInBackground(o load.SendOptions) (finish func()) {
	f.t.Helper()
	connection := f.sender()
	ctx, cancel := context.WithCancel(f.t.Context()) // a soak takes a day
	ended := make(chan error, 1)
	o.Enough = make(chan struct{})
	go func() { ended <- load.Send(ctx, connection, f.ledger, o) }()
	return func() {
		f.t.Helper()
		close(o.Enough)
		defer time.AfterFunc(2*time.Minute, cancel).Stop() // the sends under way must come to an end
		err := <-ended
		cancel()
		must(f.t, err)
	}
}

// settle waits until everything is acknowledged, also by the broker's own figures.
func (f *traffic) settle() {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 2*time.Minute)
	defer cancel()
	if err := load.AwaitAcked(ctx, f.ledger); err != nil {
		f.t.Errorf("%v; counts %+v", err, f.ledger.Counts())
	}
	eventually(f.t, 30*time.Second, "consumer progress at difference 0", func() error {
		progress, err := f.c.broker.ConsumerProgress(f.t.Context(), "g_"+f.name)
		if err != nil {
			return err
		}
		if progress.Diff() != 0 {
			return fmt.Errorf("difference %d", progress.Diff())
		}
		return nil
	})
}

// finish settles, checks the ledger, and deletes the objects.
func (f *traffic) finish() load.Counts {
	f.t.Helper()
	f.settle()
	f.stop()
	f.receives.Wait()
	select {
	case err := <-f.failed:
		f.t.Error(err)
	default:
	}
	if err := f.ledger.Check(); err != nil {
		f.t.Error(err)
	}
	f.c.delete(f.t, f.objects()...)
	counts := f.ledger.Counts()
	f.t.Logf("ledger: %+v", counts)
	return counts
}

func TestEverySendOKIsAckedAndHashesAreEqual(t *testing.T) {
	c := start(t)
	op := c.operator(t, localenv.OperatorOptions{})
	onDrivers(t, func(t *testing.T, driver string) {
		f := newTrafficOn(t, c, op, driver)
		f.send(20000, 64, 0)
		counts := f.finish()
		if counts.Sent != 20000 || counts.Acked != 20000 {
			t.Errorf("sent %d, acked %d of 20000", counts.Sent, counts.Acked)
		}
		if counts.Duplicates != 0 {
			t.Errorf("%d duplicates without a fault", counts.Duplicates)
		}
	})
}

func TestNothingAcknowledgedIsLostWhenTheBrokerIsKilledAndStarted(t *testing.T) {
	c := start(t)
	op := c.operator(t, localenv.OperatorOptions{})
	f := newTraffic(t, c, op, 3, func() *grpc.ClientConn { return c.dial(t, op) })
	killed := make(chan error, 1)
	go func() {
		for f.ledger.Counts().Acked < 1000 && t.Context().Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		if err := c.broker.KillBroker(); err != nil {
			killed <- err
			return
		}
		killed <- c.broker.StartBroker(t.Context())
	}()
	f.send(20000, 64, 0)
	must(t, <-killed)
	counts := f.finish()
	t.Logf("broker killed: %d duplicates, %d sends retried", counts.Duplicates, counts.SendRetries)
}

func TestNothingAcknowledgedIsLostWhenReceiversAreReset(t *testing.T) {
	c := start(t)
	op := c.operator(t, localenv.OperatorOptions{})
	between := newLink(t, localenv.Loopback(op.Ports.GRPC))
	f := newTraffic(t, c, op, 3, func() *grpc.ClientConn {
		connection, err := op.DialAt(between.Listen, c.appToken)
		must(t, err)
		t.Cleanup(func() { _ = connection.Close() })
		return connection
	})
	messages, period, pause := 3000, 10*time.Second, 250*time.Millisecond
	if long() {
		messages, period, pause = 20000, 20*time.Second, 75*time.Millisecond // the senders go on for a little longer than the resets
	}
	resets := make(chan int, 1)
	done, stop := context.WithTimeout(t.Context(), period)
	defer stop()
	go func() { resets <- resetEvery(done, between, 2*time.Second) }()
	f.send(messages, 64, pause)
	n := <-resets
	counts := f.finish()
	if expected := int(period/(2*time.Second)) - 2; n < expected {
		t.Errorf("only %d resets in %s", n, period)
	}
	t.Logf("%d resets: %d duplicates, %d streams", n, counts.Duplicates, counts.Streams)
}

// newLink is a TCP link in front of upstream that tests cut.
func newLink(t *testing.T, upstream string) *toxiproxy.Proxy {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	link := toxiproxy.NewProxy(server, unique(t), "127.0.0.1:0", upstream)
	must(t, link.Start())
	t.Cleanup(link.Stop)
	return link
}

// resetEvery closes all connections of the link again and again and answers how often; new ones are taken at once.
func resetEvery(ctx context.Context, link *toxiproxy.Proxy, period time.Duration) int {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return n
		case <-ticker.C:
			link.Stop()
			if err := link.Start(); err != nil {
				return n
			}
		}
	}
}
