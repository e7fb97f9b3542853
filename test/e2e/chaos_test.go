// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"google.golang.org/grpc"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
)

// disturbance is something that goes wrong in production. do comes back when everything works again.
type disturbance struct {
	name string
	do   func(ctx context.Context, s *soak) error
}

// soak is a load that goes on while things go wrong.
type soak struct {
	t *testing.T
	c *cluster
	// loads are one for each driver.
	loads []*traffic
	// Links in front of the operator's data plane, of the API server, of the name server and of the broker.
	apps, api, names, broker *toxiproxy.Proxy
	// lasts is how long a fault lasts: short here, and as tests.md says with LONG=1.
	frozen, away, fault time.Duration
	finish              func()
}

// brokerHangs is a fault by which the broker forgets nothing.
var brokerHangs = disturbance{"the broker hangs", func(_ context.Context, s *soak) error {
	if err := s.c.broker.PauseBroker(); err != nil {
		return err
	}
	time.Sleep(s.frozen)
	return s.c.broker.ResumeBroker()
}}

// around are faults around the operator, which both drivers must get over.
var around = []disturbance{
	{"the broker is killed and started", func(ctx context.Context, s *soak) error {
		if err := s.c.broker.KillBroker(); err != nil {
			return err
		}
		return s.c.broker.StartBroker(ctx)
	}},
	brokerHangs,
	{"the name server is away", func(ctx context.Context, s *soak) error {
		if err := s.c.broker.StopNameServer(); err != nil {
			return err
		}
		time.Sleep(s.away)
		return s.c.broker.StartNameServer(ctx)
	}},
	{"the applications' connections are reset", func(_ context.Context, s *soak) error { return cut(s.apps, 0) }},
	{"the API server is away", func(_ context.Context, s *soak) error { return cut(s.api, s.fault) }},
	{"another object comes and goes", func(ctx context.Context, s *soak) error {
		name := fmt.Sprintf("%s-x%d", s.loads[0].name, rand.IntN(1e6))
		if err := s.c.control.Apply(ctx, producer(name, s.loads[0].topic)); err != nil {
			return err
		}
		return s.c.control.Kubectl(ctx, discard{}, "delete", "-n", namespace, "rmqp/"+name, "--timeout=90s")
	}},
}

// between are faults between the operator and the broker, in which neither forgets anything.
var between = []disturbance{
	brokerHangs,
	{"the link is cut", func(_ context.Context, s *soak) error { return cut(s.broker, s.fault) }},
	{"the link is slow", func(_ context.Context, s *soak) error {
		return poison(s.broker, s.fault, `{"name":"late","type":"latency","stream":"upstream","attributes":{"latency":200,"jitter":100}}`,
			`{"name":"narrow","type":"bandwidth","stream":"downstream","attributes":{"rate":200}}`)
	}},
	{"the link is half-open: connections live and nothing passes", func(_ context.Context, s *soak) error {
		return poison(s.broker, s.frozen, `{"name":"gone","type":"timeout","stream":"upstream","attributes":{"timeout":0}}`,
			`{"name":"and-back","type":"timeout","stream":"downstream","attributes":{"timeout":0}}`)
	}},
	{"connections end in the middle of a frame", func(_ context.Context, s *soak) error {
		return poison(s.broker, s.fault, `{"name":"short","type":"limit_data","stream":"downstream","attributes":{"bytes":7001}}`,
			`{"name":"answers","type":"limit_data","stream":"upstream","attributes":{"bytes":70001}}`)
	}},
	{"connections are reset", func(_ context.Context, s *soak) error {
		return poison(s.broker, s.fault, `{"name":"reset","type":"reset_peer","stream":"downstream","attributes":{"timeout":300}}`)
	}},
	{"the link to the name server is cut", func(_ context.Context, s *soak) error { return cut(s.names, s.away) }},
}

// instead are faults in which something else answers in the broker's place.
var instead = []disturbance{
	{"the broker answers garbage", answersBadly("garbage")},
	{"the broker announces huge frames", answersBadly("huge lengths")},
	{"the broker answers nothing", answersBadly("nothing")},
	{"the broker begins frames and falls silent", answersBadly("long silence in a frame")}, // LONG=1 only: much like the one before
}

// answersBadly puts something else in the broker's place until the Producer's condition says that the broker does not work, and checks that the operator does
// not grow meanwhile.
func answersBadly(how string) func(context.Context, *soak) error {
	return func(_ context.Context, s *soak) error {
		f := s.loads[0]
		s.connected(f) // what the condition tells is of this fault
		before, err := residentBytes(f.op.PID())
		if err != nil {
			return err
		}
		bad, good := newPeer(s.t, badBrokers[how]), s.broker.Upstream
		if err := lead(s.broker, bad); err != nil {
			return err
		}
		message := s.c.awaitCondition(s.t, 60*time.Second, "rmqp/"+f.name, "Connected", "BrokerUnavailable")
		after, err := residentBytes(f.op.PID())
		if err != nil {
			return err
		}
		s.t.Logf("%s: memory %d -> %d KiB; the condition says: %s", how, before>>10, after>>10, message)
		if grown := after - before; grown > 64<<20 {
			s.t.Errorf("%s: resident memory grew by %d KiB", how, grown>>10)
		}
		if err := lead(s.broker, good); err != nil {
			return err
		}
		s.connected(f)
		return nil
	}
}

// connected waits until the Producer's condition says that the broker works.
func (s *soak) connected(f *traffic) {
	s.t.Helper()
	eventually(s.t, 60*time.Second, "Connected is true", func() error {
		if status, reason, message := s.c.condition(s.t, "rmqp/"+f.name, "Connected"); status != "True" {
			return fmt.Errorf("it is %q: %s: %s", status, reason, message)
		}
		return nil
	})
}

func cut(link *toxiproxy.Proxy, away time.Duration) error {
	link.Stop()
	time.Sleep(away) // the fault's length
	return link.Start()
}

// logged lists what the operator may log as an error while its surroundings fail.
var logged = []string{"connection refused", "connection reset", "EOF", "http2: client connection lost", "context deadline exceeded", "Client.Timeout", "i/o timeout"}

// newSoak starts an operator with links around it, and a load for each driver.
func newSoak(t *testing.T, drivers ...string) *soak {
	t.Helper()
	s := &soak{t: t, c: start(t), frozen: 6 * time.Second, away: 10 * time.Second, fault: 3 * time.Second}
	if long() {
		s.frozen, s.away, s.fault = 20*time.Second, 60*time.Second, 10*time.Second
	}
	s.api = newLink(t, s.c.control.APIServerAddress())
	s.broker = newLink(t, s.c.broker.BrokerAddr())
	s.names = newLink(t, newNameServer(t, s.c.broker.NameServers()[0], s.c.broker.BrokerAddr(), s.broker.Listen))
	op := s.c.operator(t, localenv.OperatorOptions{APIServer: s.api.Listen, NameServers: []string{s.names.Listen}}, logged...)
	s.apps = newLink(t, localenv.Loopback(op.Ports.GRPC))
	for _, driver := range drivers {
		f := planTraffic(t, s.c, op)
		f.driver = driver
		f.begin(3, func() *grpc.ClientConn {
			connection, err := op.DialAt(s.apps.Listen, s.c.appToken)
			must(t, err)
			t.Cleanup(func() { _ = connection.Close() })
			return connection
		})
		s.loads = append(s.loads, f)
	}
	return s
}

// send starts the senders of all loads.
func (s *soak) send(pause time.Duration) {
	s.t.Helper()
	s.finish = func() {}
	for _, f := range s.loads {
		before, finish := s.finish, f.sendInBackground(f.sends(1<<30, 16, pause))
		s.finish = func() { s.t.Helper(); before(); finish() }
	}
}

// disturb lets something go wrong, and waits until messages flow again in all loads.
func (s *soak) disturb(d disturbance, messages int) {
	s.t.Helper()
	began := time.Now()
	must(s.t, d.do(s.t.Context(), s))
	over := time.Now()
	s.t.Logf("%s for %s", d.name, over.Sub(began).Round(time.Millisecond))
	before := make([]int, len(s.loads))
	for i, f := range s.loads {
		before[i] = f.ledger.Counts().Acked
	}
	for i, f := range s.loads {
		eventually(s.t, 90*time.Second, "messages flow again on "+f.driver+" after: "+d.name, func() error {
			if now := f.ledger.Counts().Acked; now < before[i]+messages {
				return fmt.Errorf("%d acknowledged since", now-before[i])
			}
			return nil
		})
		s.t.Logf("messages flow again on %s %s later: %+v", f.driver, time.Since(over).Round(time.Millisecond), f.ledger.Counts())
	}
}

// end ends the senders, and demands that everything is acknowledged at the latest two ack deadlines after that, which is after the last fault (tests.md
// D1): a message that a fault kept from its receiver is leased for one ack deadline at most, and comes again 2 to 3 s later.
func (s *soak) end() {
	s.t.Helper()
	s.finish()
	over := time.Now()
	for _, f := range s.loads {
		f.settle()
		took := max(f.ledger.Settled().Sub(over), 0)
		s.t.Logf("everything was acknowledged on %s %s after the last send", f.driver, took.Round(time.Millisecond))
		if took > 2*ackDeadline {
			s.t.Errorf("the last message was acknowledged on %s %s after the last send, which is more than two ack deadlines", f.driver, took)
		}
	}
}

// delete checks the ledgers and deletes the objects.
func (s *soak) delete() {
	s.t.Helper()
	for _, f := range s.loads {
		f.finish()
	}
}

// TestChaosEachFaultInTurnLosesNothing is tests.md D1 with each fault around the operator once, on both drivers.
func TestChaosEachFaultInTurnLosesNothing(t *testing.T) {
	s := newSoak(t, "Remoting", "ClientGo")
	s.send(20 * time.Millisecond)
	for _, d := range around {
		s.disturb(d, 200)
	}
	s.end()
	s.delete()
}

// TestChaosBetweenTheOperatorAndTheBrokerLosesNothing is tests.md D1 with the faults of links and of what answers at the broker's address.
func TestChaosBetweenTheOperatorAndTheBrokerLosesNothing(t *testing.T) {
	s := newSoak(t, "Remoting")
	s.send(20 * time.Millisecond)
	for _, d := range between {
		s.disturb(d, 200)
	}
	// Where answers are lost on their way, acks may have been taken that nobody confirmed. From here on the broker does not get them: each must come again.
	before := s.loads[0].ledger.Counts().AckUnknown
	faults := instead
	if !long() {
		faults = faults[:len(faults)-1]
	}
	for _, d := range faults {
		s.disturb(d, 200)
	}
	s.end()
	s.loads[0].nothingAgain()
	s.delete()
	if after := s.loads[0].ledger.Counts().AckUnknown; after > before {
		t.Errorf("%d acks that the broker cannot have got ended without their messages coming again", after-before)
	}
}
