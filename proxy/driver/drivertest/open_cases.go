// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

var openCases = []testCase{
	{name: "name servers that nobody answers at are Unavailable in time and leave nothing", alone: true, run: caseUnreachable},
	{name: "a context that has ended opens nothing and leaves nothing", alone: true, run: caseOpenCancelled},
	{name: "an address that is not allowed is AddressRefused and never dialled", alone: true, run: caseAddressRefused},
	{name: "wrong credentials are Unauthorized for producers, consumers and probes", run: caseUnauthorized},
	{name: "a configuration that can never work is Invalid with its field", run: caseInvalidConfiguration},
	{name: "a connection that shall be encrypted is refused where the driver cannot", run: caseTLSWithoutTheCapability},
	{name: "an SQL filter that does not parse is InvalidFilter when opened and when probed", run: caseInvalidFilter},
	{name: "a probe takes no message and disturbs no member of the group", run: caseProbe},
	{name: "capabilities do not change and keep to the contract", run: caseCapabilities},
	{name: "goroutines are back at the baseline after everything is closed", alone: true, long: true, run: caseGoroutines},
}

// attempts are the three ways to open something, each reporting only the error and closing what was opened.
func (k *kit) attempts(conn driver.Connection, topic string) map[string]func(context.Context) error {
	group := k.h.NewGroup(k)
	pc := k.producerConfig(topic)
	cc := k.consumerConfig(group, driver.Earliest, driver.Subscription{Topic: topic})
	pc.Connection, cc.Connection = allowing(conn), allowing(conn)
	return map[string]func(context.Context) error{
		"OpenProducer": func(ctx context.Context) error {
			p, err := k.d.OpenProducer(ctx, pc)
			if err == nil {
				k.closing("producer", p)
			}
			return err
		},
		"OpenConsumer": func(ctx context.Context) error {
			c, err := k.d.OpenConsumer(ctx, cc)
			if err == nil {
				k.closing("consumer", c)
			}
			return err
		},
		"ProbeConsumer": func(ctx context.Context) error { return k.d.ProbeConsumer(ctx, cc) },
	}
}

// caseTLSWithoutTheCapability: in plain text would be worse than not at all. What drivers that can do with it needs a broker with certificates,
// which is theirs to test.
func caseTLSWithoutTheCapability(k *kit) {
	if k.d.Capabilities().TLS {
		return
	}
	conn := k.connection()
	conn.TLS.Enabled = true
	for name, open := range k.attempts(conn, k.h.NewTopic(k, 1)) {
		k.want(name, open(k.Context()), driver.Unsupported)
	}
}

// nobody is an address that refuses connections.
func (k *kit) nobody() string {
	l, err := new(net.ListenConfig).Listen(k.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		k.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func caseUnreachable(k *kit) {
	conn := k.connection()
	if conn.NameServers = k.facts.Unreachable; len(conn.NameServers) == 0 {
		conn.NameServers = []string{k.nobody()}
	}
	baseline := k.goroutines()
	const limit = 4 * time.Second
	for name, open := range k.attempts(conn, k.h.NewTopic(k, 1)) {
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		k.want(name, open(ctx), driver.Unavailable)
		cancel()
		if took := time.Since(start); took > limit+time.Second {
			k.Errorf("%s took %v, its context ended after %v", name, took, limit)
		}
	}
	k.backAt(baseline)
}

func caseOpenCancelled(k *kit) {
	topic := k.h.NewTopic(k, 1)
	baseline := k.goroutines()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for name, open := range k.attempts(k.connection(), topic) {
		start := time.Now()
		k.want(name, open(ctx), driver.Timeout)
		if took := time.Since(start); took > 2*time.Second {
			k.Errorf("%s took %v with an ended context", name, took)
		}
	}
	k.backAt(baseline)
}

func caseAddressRefused(k *kit) {
	listener, err := new(net.ListenConfig).Listen(k.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		k.Fatal(err)
	}
	var dialled atomic.Int32
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			dialled.Add(1)
			_ = c.Close() // the test fails by the count
		}
	}()
	conn := k.connection()
	conn.NameServers = []string{listener.Addr().String()}
	errNotAllowed := errors.New("not on the list")
	var asked atomic.Int32
	conn.AllowAddress = func(string) error { asked.Add(1); return errNotAllowed }
	for name, open := range k.attempts(conn, k.h.NewTopic(k, 1)) {
		err := open(k.within(k.facts.Open))
		k.want(name, err, driver.AddressRefused)
		if !errors.Is(err, errNotAllowed) {
			k.Errorf("%s must say why the address is refused: %v", name, err)
		}
	}
	_ = listener.Close() // ends the accepting goroutine
	<-accepting
	if asked.Load() == 0 || dialled.Load() != 0 {
		k.Errorf("AllowAddress was asked %d times, connections made: %d", asked.Load(), dialled.Load())
	}
}

func caseUnauthorized(k *kit) {
	if k.facts.Unauthorized == nil {
		k.Skip("the broker has no access control")
	}
	for name, open := range k.attempts(*k.facts.Unauthorized, k.h.NewTopic(k, 1)) {
		err := open(k.within(k.facts.Open))
		k.want(name, err, driver.Unauthorized)
		for _, secret := range []string{k.facts.Unauthorized.Credentials.SecretKey, k.connection().Credentials.SecretKey} {
			if secret != "" && strings.Contains(err.Error(), secret) {
				k.Errorf("%s: the error shows a secret key", name)
			}
		}
	}
}

func caseInvalidConfiguration(k *kit) {
	topic := k.h.NewTopic(k, 1)
	sub := driver.Subscription{Topic: topic}
	for field, spoil := range map[string]func(*driver.ProducerConfig){
		"group":     func(c *driver.ProducerConfig) { c.Group = "" },
		"topics":    func(c *driver.ProducerConfig) { c.Topics = nil },
		"topics[1]": func(c *driver.ProducerConfig) { c.Topics = []string{topic, "a topic"} },
	} {
		cfg := k.producerConfig(topic)
		spoil(&cfg)
		_, err := k.d.OpenProducer(k.within(k.facts.Open), cfg)
		k.wantInvalid("producer", err, field)
	}
	for field, spoil := range map[string]func(*driver.ConsumerConfig){
		"group":                   func(c *driver.ConsumerConfig) { c.Group = "a group" },
		"subscriptions":           func(c *driver.ConsumerConfig) { c.Subscriptions = nil },
		"subscriptions[1].topic":  func(c *driver.ConsumerConfig) { c.Subscriptions = []driver.Subscription{sub, sub} },
		"subscriptions[0].filter": func(c *driver.ConsumerConfig) { c.Subscriptions[0].Tag, c.Subscriptions[0].SQL = "a", "a = 1" },
		"startFrom":               func(c *driver.ConsumerConfig) { c.StartFrom = "Middle" },
		"startTime":               func(c *driver.ConsumerConfig) { c.StartFrom = driver.Timestamp },
	} {
		cfg := k.consumerConfig(k.h.NewGroup(k), driver.Earliest, sub)
		spoil(&cfg)
		_, err := k.d.OpenConsumer(k.within(k.facts.Open), cfg)
		k.wantInvalid("consumer", err, field)
		k.wantInvalid("probe", k.d.ProbeConsumer(k.within(k.facts.Open), cfg), field)
	}
}

func (k *kit) wantInvalid(what string, err error, field string) {
	k.Helper()
	k.want(fmt.Sprintf("%s with a bad %s", what, field), err, driver.Invalid)
	var e *driver.Error
	if errors.As(err, &e); e == nil || e.Field != field {
		k.Errorf("%s: the error must name field %q: %v", what, field, err)
	}
}

func caseInvalidFilter(k *kit) {
	topic := k.h.NewTopic(k, 1)
	filters := []string{"a >", "a = ", "(a = 1", "a BETWEEN 1", "a ! 3", "AND", "NOT a > 1", "a > 0.0", "a BETWEEN 2 AND 1"}
	if !k.facts.SQL {
		filters = append(filters, "a = 1")
	}
	for _, sql := range filters {
		cfg := k.consumerConfig(k.h.NewGroup(k), driver.Earliest, driver.Subscription{Topic: topic, SQL: sql})
		c, err := k.d.OpenConsumer(k.within(k.facts.Open), cfg)
		if err == nil {
			k.closing("consumer", c)
		}
		for name, err := range map[string]error{"OpenConsumer": err, "ProbeConsumer": k.d.ProbeConsumer(k.within(k.facts.Open), cfg)} {
			k.want(fmt.Sprintf("%s with the filter %q", name, sql), err, driver.InvalidFilter)
			var e *driver.Error
			if errors.As(err, &e); e == nil || !strings.HasPrefix(e.Field, "subscriptions[0]") {
				k.Errorf("%s with the filter %q: the error must name the subscription: %v", name, sql, err)
			}
		}
	}
}

func caseProbe(k *kit) {
	topic, group := k.h.NewTopic(k, 4), k.h.NewGroup(k)
	p := k.producer(topic)
	sent := messages(topic, 20)
	k.send(p, sent[:10]...)
	cfg := k.consumerConfig(group, driver.Earliest, driver.Subscription{Topic: topic})
	probe := func() {
		cfg.ClientID = clientID()
		if err := k.d.ProbeConsumer(k.within(k.facts.Open), cfg); err != nil {
			k.Fatalf("probe: %v", err)
		}
	}
	probe()
	c := k.consumer(group, topic)
	var got []*driver.Received
	for i := range 10 {
		probe()
		k.send(p, sent[10+i])
		got = append(got, k.fetch(c, 2, longLease)...)
	}
	k.wantSame(sent, got)
	for _, r := range got {
		k.wantAttempt(r, 1)
	}
	k.ack(c, got...)
}

func caseCapabilities(k *kit) {
	if a, b := k.d.Capabilities(), k.d.Capabilities(); a != b {
		k.Errorf("capabilities changed from %+v to %+v", a, b)
	}
	if k.caps.MaxLease < 10*time.Minute {
		k.Errorf("MaxLease is %v; resources promise ack deadlines of up to 10 minutes", k.caps.MaxLease)
	}
	if k.d.Name() == "" || k.d.Leftovers() == nil {
		k.Errorf("Name() = %q, Leftovers() = %v", k.d.Name(), k.d.Leftovers())
	}
}

func caseGoroutines(k *kit) {
	topic := k.h.NewTopic(k, 4)
	cycle := func() {
		group := k.h.NewGroup(k)
		p, c := k.producer(topic), k.consumer(group, topic)
		k.send(p, message(topic))
		got := k.fetch(c, 1, longLease)
		k.ack(c, got...)
		waiting := k.fetching(c)
		k.closing("consumer", c)
		<-waiting
		k.closing("producer", p)
	}
	cycle() // what a library starts once per process is in the baseline
	baseline := k.goroutines()
	for range 5 {
		cycle()
	}
	k.backAt(baseline)
}

// goroutines counts those that run, without those that the driver counts as left behind.
func (k *kit) goroutines() int {
	n := runtime.NumGoroutine()
	for _, left := range k.d.Leftovers() {
		n -= left
	}
	return n
}

// backAt waits until no more goroutines run than at the baseline.
func (k *kit) backAt(baseline int) {
	k.Helper()
	limit := time.Now().Add(k.facts.Open)
	for k.goroutines() > baseline+k.facts.SpareGoroutines {
		if time.Now().After(limit) {
			var stacks strings.Builder
			if err := pprof.Lookup("goroutine").WriteTo(&stacks, 1); err != nil {
				k.Error(err)
			}
			k.Fatalf("%d goroutines beyond the baseline of %d; left by name: %v\n%s", k.goroutines()-baseline, baseline, k.d.Leftovers(), stacks.String())
		}
		time.Sleep(10 * time.Millisecond)
	}
}
