// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/test/load"
)

// forget starts a receiver that leaves every tenth first delivery to its deadline, so that each change of the driver meets leases that nobody
// will acknowledge.
func (f *traffic) forget(dial func() *grpc.ClientConn) {
	f.t.Helper()
	ctx, stop := context.WithCancel(f.t.Context())
	connection, n := dial(), 0
	f.receives.Go(func() {
		err := load.Receive(ctx, connection, f.ledger, load.ReceiveOptions{
			Consumer: load.Object{Namespace: namespace, Name: f.name}, Outstanding: 50,
			Handle: func(d *proxyv1alpha1.Delivery) bool { n++; return d.GetDeliveryAttempt() > 1 || n%10 != 0 },
		})
		if err != nil {
			f.t.Errorf("the forgetful receiver: %v", err)
		}
	})
	others := f.stop
	f.stop = func() { others(); stop() } // finish stops all receivers before it deletes what they read
	f.t.Cleanup(stop)
}

// use changes the driver of both objects and waits until it is in effect. A drain of one second leaves deliveries leased.
func (f *traffic) use(driver, want string) {
	f.t.Helper()
	f.apply("driver: "+driver, "drainTimeoutSeconds: 1")
	for _, object := range f.objects() {
		eventually(f.t, 90*time.Second, object+" with the driver "+want, func() error {
			out, err := f.c.control.Output(f.t.Context(), "get", "-n", namespace, object, "-o", "jsonpath={.status.driver}")
			if err == nil && out != want {
				err = errors.New("it is " + out)
			}
			return err
		})
	}
	f.c.waitGeneration(f.t, 60*time.Second, f.objects()...)
}

// TestTheDriverIsChangedUnderLoadAndNothingIsLost: what one driver leaves behind for the group, the other one must read. ClientGo leaves what was sent back
// in the group's retry topic, Remoting what was leased or given back in the retry topics of POP.
func TestTheDriverIsChangedUnderLoadAndNothingIsLost(t *testing.T) {
	c := start(t)
	op := c.operator(t, localenv.OperatorOptions{})
	f := planTraffic(t, c, op)
	dial := func() *grpc.ClientConn { return c.dial(t, op) }
	f.begin(2, dial, "driver: ClientGo", "drainTimeoutSeconds: 1")
	f.forget(dial)
	finish := f.sendInBackground(f.sends(math.MaxInt, 16, 20*time.Millisecond))
	f.awaitAcked(500)
	for _, step := range []struct{ driver, want string }{{"Remoting", "Remoting"}, {"ClientGo", "ClientGo"}, {"Auto", "Remoting"}, {"ClientGo", "ClientGo"}} {
		began := time.Now()
		f.use(step.driver, step.want)
		f.awaitAcked(500)
		t.Logf("%s in effect and 500 more acknowledged after %s: %+v", step.want, time.Since(began).Round(100*time.Millisecond), f.ledger.Counts())
	}
	finish()
	counts := f.finish()
	if counts.Sent < 2000 {
		t.Errorf("only %d messages were sent: that shows little", counts.Sent)
	}
	if counts.SendRetries != 0 {
		t.Errorf("%d sends had to be tried again: a Producer's new client must be up before the old one drains", counts.SendRetries)
	}
}

// TestAutoWaitsForBrokersAndSaysSo: a name server where nobody answers is a condition with its address; naming a driver shows another one.
func TestAutoWaitsForBrokersAndSaysSo(t *testing.T) {
	c := start(t)
	op := c.operator(t, localenv.OperatorOptions{})
	name, nobody := unique(t), "connection: {nameServers: ['127.0.0.1:1']}"
	c.apply(t, producer(name, "some_topic", nobody))
	message := c.awaitCondition(t, 30*time.Second, "rmqp/"+name, "Connected", "BrokerVersionUnknown")
	if !strings.Contains(message, "127.0.0.1:1") {
		t.Errorf("the message does not name the address: %s", message)
	}
	code, answer, err := op.Post(t.Context(), c.appToken, "/v1alpha1/namespaces/"+namespace+"/producers/"+name+":send", `{"messages":[{"text":"a"}]}`)
	must(t, err)
	if code != 503 || !strings.Contains(string(answer), "BrokerVersionUnknown") {
		t.Errorf("a send answered %d %s; expected 503 with BrokerVersionUnknown", code, answer)
	}
	if took := c.delete(t, "rmqp/"+name); took > 10*time.Second {
		t.Errorf("the delete took %s", took)
	}
	c.apply(t, producer(name, c.topic(t, 1)))
	c.waitReady(t, "rmqp/"+name)
	out, err := c.control.Output(t.Context(), "get", "-n", namespace, "rmqp/"+name, "-o", "jsonpath={.status.driver}")
	must(t, err)
	if out != "Remoting" {
		t.Error(fmt.Errorf("status.driver is %q with brokers of 5.x, want Remoting", out))
	}
}
