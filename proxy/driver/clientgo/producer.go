// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	library "github.com/apache/rocketmq-client-go/v2/producer"
	"golang.org/x/sync/semaphore"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/choice"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/gate"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/proof"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// Limits of one request with many messages. Brokers take 4 MiB in all and lose the whole request above it. Larger requests than these cost more than
// they save: the library doubles its buffer as a request grows, and clearing that memory was 20 % of the CPU with requests of 512 KiB.
const (
	batchMessages = 128
	batchBytes    = 256 << 10
	// airBytes is how many bytes one producer may have in calls of the library, which compress large bodies first: sixteen at a time took the processor from
	// all other objects for 0.4 s. Beyond it the producer's own sends wait for each other.
	airBytes = 2 << 20
)

// producer is a client of the library that sends.
type producer struct {
	driver   *Driver
	cfg      driver.ProducerConfig
	label    string
	labels   context.Context // carries the pprof label
	library  rocketmq.Producer
	resolver *resolver
	gate     *gate.Gate
	air      *semaphore.Weighted // see airBytes
	health   health
	watching sync.WaitGroup
	// line is the brokers', as it was found for the first message that was to be delivered later; nil = not asked yet.
	line atomic.Pointer[choice.Line]
	// shards are where messages with a sharding key may go.
	shards shards
}

// OpenProducer implements driver.Driver.
func (d *Driver) OpenProducer(ctx context.Context, cfg driver.ProducerConfig) (driver.Producer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := refuseTLS(cfg.Connection); err != nil {
		return nil, err
	}
	if cfg.Transactions {
		return nil, driver.Errorf(driver.Unsupported, "transactions",
			"the driver %s has no transactions: its library commits without waiting for an answer; use the driver Remoting with brokers 5.x", Name)
	}
	r, err := newResolver(ctx, cfg.Connection)
	if err != nil {
		return nil, err
	}
	p := &producer{driver: d, cfg: cfg, resolver: r, gate: gate.New(), air: semaphore.NewWeighted(airBytes)}
	if err := p.prove(ctx); err != nil {
		return nil, err
	}
	p.label = d.enlist(cfg.ClientID)
	p.labels = labelled(p.label)
	if err := p.start(); err != nil {
		return nil, err
	}
	if err := p.learnRoutes(ctx); err != nil {
		p.logQuietly("The library looks for the topics only when something is sent", err)
	}
	p.watching.Go(func() { p.health.watch(p.gate.Life(), p.check) })
	return p, nil
}

// prove uses connections of its own: a producer needs the wire client for some requests a minute only.
func (p *producer) prove(ctx context.Context) error {
	w := wire.New(p.cfg.Connection, wire.Options{})
	defer w.Close()
	pr := newProver(w, p.cfg.Connection)
	if err := pr.Producer(ctx, p.cfg.Group, p.cfg.Topics); err != nil {
		return err
	}
	return proof.All(ctx, len(p.cfg.Topics), func(ctx context.Context, i int) error {
		route, err := pr.Route(ctx, "", p.cfg.Topics[i])
		if err != nil && driver.ReasonOf(err) == driver.TopicNotFound {
			return nil // the broker makes it with the first message
		}
		p.shards.learn(p.cfg.Topics[i], route, pr.Name(p.cfg.Topics[i]))
		return err
	})
}

// check is the running client's: what prove does but for the question whether each topic may be written, which brokers log as a wrong request.
func (p *producer) check(ctx context.Context) error {
	if err := p.resolver.refresh(ctx); err != nil {
		return err
	}
	w := wire.New(p.cfg.Connection, wire.Options{})
	defer w.Close()
	pr := newProver(w, p.cfg.Connection)
	return proof.All(ctx, len(p.cfg.Topics), func(ctx context.Context, i int) error {
		route, err := pr.Route(ctx, "", p.cfg.Topics[i])
		if err != nil {
			return err
		}
		p.shards.learn(p.cfg.Topics[i], route, pr.Name(p.cfg.Topics[i]))
		for _, q := range proof.Brokers(route.Writable(pr.Name(p.cfg.Topics[i]))) {
			if err := w.HeartBeat(ctx, q.Address, wire.Heartbeat{ClientID: string(p.cfg.ClientID)}); err != nil {
				return wire.Errorf(err, "ask broker %s", q.Broker)
			}
		}
		return nil
	})
}

// start makes and starts the library's client. It touches no network and cannot hang, so it is waited for whatever the caller's context says.
func (p *producer) start() error {
	_, err := call(context.Background(), p.label, "start the producer", func() error {
		made, err := library.NewDefaultProducer(p.options()...)
		if err != nil {
			return wire.Errorf(err, "make the library's producer")
		}
		if err := made.Start(); err != nil {
			return wire.Errorf(err, "start the library's producer")
		}
		p.library = made
		return nil
	})
	if err != nil {
		p.driver.delist(p.label)
	}
	return err
}

// learnRoutes makes the library fetch the topics' routes now and not with the first send, which would fail while the name servers are away.
func (p *producer) learnRoutes(ctx context.Context) error {
	servers, err := field(p.library, "client", "option", "Namesrv")
	if err != nil {
		return err
	}
	learn := reflect.ValueOf(servers).MethodByName("UpdateTopicRouteInfo")
	if !learn.IsValid() || learn.Type().NumIn() != 1 || learn.Type().In(0).Kind() != reflect.String {
		return fmt.Errorf("%T has no UpdateTopicRouteInfo of a topic", servers)
	}
	_, err = call(ctx, p.label, "learn the routes", func() error {
		for _, topic := range p.cfg.Topics {
			learn.Call([]reflect.Value{reflect.ValueOf(wire.WithNamespace(p.cfg.Connection.Namespace, topic))})
		}
		return nil
	})
	return err
}

func (p *producer) logQuietly(msg string, err error) {
	p.driver.log.V(verboseError).Info(msg, "group", p.cfg.Group, "reason", err.Error())
}

func (p *producer) options() []library.Option {
	compressAbove := math.MaxInt
	if p.cfg.CompressAbove > 0 {
		compressAbove = p.cfg.CompressAbove + 1 // the library compresses what is as large as the limit
	}
	options := []library.Option{
		library.WithInstanceName(string(p.cfg.ClientID)),
		library.WithGroupName(wire.WithNamespace(p.cfg.Connection.Namespace, p.cfg.Group)),
		library.WithNsResolver(p.resolver),
		library.WithSendMsgTimeout(p.cfg.SendTimeout),
		library.WithRetry(0), // we retry: the library does it with the same broker in mind and beyond the caller's deadline
		library.WithQueueSelector(&selector{}),
		library.WithCompressMsgBodyOverHowmuch(compressAbove),
	}
	if !p.cfg.Connection.Credentials.IsZero() {
		options = append(options, library.WithCredentials(libraryCredentials(p.cfg.Connection.Credentials)))
	}
	return options
}

func libraryCredentials(c driver.Credentials) primitive.Credentials {
	return primitive.Credentials{AccessKey: c.AccessKey, SecretKey: c.SecretKey, SecurityToken: c.SecurityToken}
}

// Limits implements driver.Producer.
func (p *producer) Limits() driver.BatchLimits {
	return driver.BatchLimits{Messages: batchMessages, Bytes: batchBytes}
}

// Err implements driver.Producer.
func (p *producer) Err() error { return p.health.err() }

// Close implements driver.Producer.
func (p *producer) Close(ctx context.Context) error {
	if err := p.gate.Close(ctx, p.shutdown); err != nil {
		return wire.Errorf(err, "close the producer of group %q", p.cfg.Group)
	}
	return nil
}

func (p *producer) shutdown() error {
	// 1. Sends under way were cancelled when the gate was shut; each has its answer when this returns.
	p.gate.Wait()
	p.watching.Wait()
	// 2. The library's timers end and its broker connections are closed. It does not wait for anything.
	err := guarded("shut the producer down", p.library.Shutdown)
	// 3. What it forgets. If that fails the server ends the connection after its idle time; Leftovers counts it until then.
	if err := closeNameServer(p.library, "client"); err != nil {
		p.logQuietly("The library's connection to the name server stays open", err)
	}
	p.driver.delist(p.label)
	return err
}

// selector takes the queues in turn, unless it is told one. It passes by the broker that a message should avoid, and writes down what it chose: the library
// hands on the pointer in Message.Queue, and reads it with its own manual selector only.
type selector struct{ turn atomic.Uint32 }

// newChoice is how a try tells the selector what to avoid, and learns what it chose. It travels as the Message's Queue. With a shard the choice is made: it
// names the broker already.
func newChoice(avoid string, shard *wire.Queue) *primitive.MessageQueue {
	if shard != nil {
		return &primitive.MessageQueue{BrokerName: shard.Broker, QueueId: shard.ID}
	}
	return &primitive.MessageQueue{Topic: avoid}
}

// Select implements the library's QueueSelector.
func (s *selector) Select(m *primitive.Message, queues []*primitive.MessageQueue, _ string) *primitive.MessageQueue {
	if len(queues) == 0 {
		return nil
	}
	at := int(s.turn.Add(1)) % len(queues)
	if c := m.Queue; c != nil {
		if c.BrokerName != "" {
			return &primitive.MessageQueue{Topic: m.Topic, BrokerName: c.BrokerName, QueueId: c.QueueId}
		}
		if c.Topic != "" {
			at = other(queues, at, c.Topic)
		}
		c.BrokerName = queues[at].BrokerName
	}
	return queues[at]
}

// other is the next place from at on whose broker is not avoid, or at when there is none. It starts at random among them.
func other(queues []*primitive.MessageQueue, at int, avoid string) int {
	from := at + rand.IntN(len(queues))
	for i := range queues {
		n := (from + i) % len(queues)
		if queues[n].BrokerName != avoid {
			return n
		}
	}
	return at
}

// sends reports whether topic is among the producer's.
func (p *producer) sends(topic string) bool { return slices.Contains(p.cfg.Topics, topic) }
