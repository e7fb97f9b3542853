// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	library "github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/hooks"
	"github.com/apache/rocketmq-client-go/v2/primitive"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/gate"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/letters"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// Settings of the library's push consumer; the reasons are in traps.go.
const (
	consumeTimeout = maxLease + time.Minute
	// callbacks is how many messages of one topic may be without a verdict: the library's limit. A waiting callback is a goroutine; below the limit none
	// hides another message.
	callbacks = 100_000
	// The library's own flow control is out of the way at these, in messages and MiB, for all queues together. The inlet bounds what waits.
	topicMessages = 6_553_500
	topicMiB      = 102_400
	queueMessages = 65_535
	queueMiB      = 1024
	// maxSpan lets a queue go on behind a message that is leased for long. It is also how many acknowledged messages can come again after a crash.
	maxSpan = 65_535
	// closeLimit bounds each thing that Close asks of the broker.
	closeLimit = 5 * time.Second
)

// pushConsumer is what this driver uses of the library's type, which is not exported.
type pushConsumer interface {
	Start() error
	Shutdown() error
	Subscribe(string, library.MessageSelector, func(context.Context, ...*primitive.MessageExt) (library.ConsumeResult, error)) error
	Unsubscribe(string) error
	Rebalance()
}

// libraryClient is what this driver uses of the client inside it.
type libraryClient interface {
	UpdateTopicRouteInfo()
	RebalanceImmediately()
	SendHeartbeatToAllBrokerWithLock()
}

// consumer is a member of a group: a push consumer of the library, the table of leases, and a wire client for what the library cannot do.
type consumer struct {
	*letters.Box // what the group has given up
	driver       *Driver
	cfg          driver.ConsumerConfig
	group        string // with its namespace
	label        string
	wire         *wire.Client
	prover       *prover
	resolver     *resolver
	leases       *leases
	library      pushConsumer
	// threshold is the library's bound of messages per queue; 0 stops its pulling.
	threshold interface{ Store(int64) }
	// client is the library's, which the consumer does not show.
	client libraryClient
	// rebalancing and beating are the library's locks around each of its rebalances and heartbeats.
	rebalancing, beating *sync.Mutex
	gate                 *gate.Gate
	health               health
	watching             sync.WaitGroup
	// masters are the addresses of the brokers' masters, by name.
	masters atomic.Pointer[map[string]string]
	balance balance
	// subscribed are the topics of cfg with their namespace, in its order.
	subscribed []string
	retries    *popRetries
}

// OpenConsumer implements driver.Driver.
func (d *Driver) OpenConsumer(ctx context.Context, cfg driver.ConsumerConfig) (driver.Consumer, error) {
	c, queues, err := d.proveConsumer(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := c.prover.prepareGroup(ctx, cfg, queues); err != nil {
		c.wire.Close()
		return nil, err
	}
	found, err := c.findPopRetries(ctx)
	if err == nil {
		c.retries.add(found)
		err = c.start(ctx)
	}
	if err != nil {
		c.wire.Close()
		return nil, err
	}
	c.watching.Go(func() { c.health.watch(c.gate.Life(), c.check) })
	if err := c.balance.await(ctx, func() { c.nudge(ctx) }); err != nil {
		c.logUndone(c.Close(ctx)) // it goes on closing when ctx has ended
		return nil, wire.Errorf(err, "wait for the first assignment of queues to group %q", cfg.Group)
	}
	return c, nil
}

// ProbeConsumer implements driver.Driver.
func (d *Driver) ProbeConsumer(ctx context.Context, cfg driver.ConsumerConfig) error {
	c, _, err := d.proveConsumer(ctx, cfg)
	if err == nil {
		c.wire.Close()
	}
	return err
}

// proveConsumer does everything that changes nothing. The caller closes c.wire.
func (d *Driver) proveConsumer(ctx context.Context, cfg driver.ConsumerConfig) (*consumer, []wire.Queue, error) {
	if err := cfg.Validate(); err != nil {
		return nil, nil, err
	}
	if err := cmp.Or(refuseTLS(cfg.Connection), refuseOrder(cfg)); err != nil {
		return nil, nil, err
	}
	r, err := newResolver(ctx, cfg.Connection)
	if err != nil {
		return nil, nil, err
	}
	c := &consumer{
		driver: d, cfg: cfg, group: wire.WithNamespace(cfg.Connection.Namespace, cfg.Group), resolver: r, gate: gate.New(),
		wire: wire.New(cfg.Connection, wire.Options{}),
	}
	c.prover = newProver(c.wire, cfg.Connection)
	c.Box = letters.New(letters.Options{Wire: c.wire, Routes: c.prover.Routes, Config: cfg, Gate: c.gate})
	for _, s := range cfg.Subscriptions {
		c.subscribed = append(c.subscribed, c.prover.Name(s.Topic))
	}
	c.retries = newPopRetries(c.group, c.subscribed)
	queues, err := c.prover.Consumer(ctx, cfg)
	if err != nil {
		c.wire.Close()
		return nil, nil, err
	}
	c.learn(queues)
	return c, queues, nil
}

// learn keeps where the masters are.
func (c *consumer) learn(queues []wire.Queue) {
	masters := make(map[string]string)
	for _, q := range queues {
		masters[q.Broker] = q.Address
	}
	c.masters.Store(&masters)
}

// start makes and starts the library's consumer. When ctx ends first, what was started is shut down as soon as the library lets go.
func (c *consumer) start(ctx context.Context) error {
	c.label = c.driver.enlist(c.cfg.ClientID)
	c.leases = newLeases(c.group, c.throttle)
	c.balance.init(c.cfg, c.prover)
	finished, err := call(ctx, c.label, "start the consumer", c.startLibrary)
	if err == nil {
		return nil
	}
	undo := func() {
		<-finished
		// Shutdown of a consumer whose Start has failed panics; there is nothing to shut down then.
		if c.library != nil {
			c.logUndone(c.gate.Close(context.Background(), c.shutdown))
			return
		}
		c.leases.close()
		c.leases.release()
		c.driver.delist(c.label)
	}
	select {
	case <-finished:
		undo()
	default:
		go undo() //nolint:gosec // its context has ended, which is why nobody waits any more
	}
	return err
}

// nudge makes the library look for routes and rebalance now. It waits until that is done or ctx ends.
func (c *consumer) nudge(ctx context.Context) {
	_, err := call(ctx, c.label, "rebalance", func() error {
		c.client.UpdateTopicRouteInfo()
		c.client.RebalanceImmediately()
		return nil
	})
	if err != nil {
		c.driver.log.V(verboseError).Info("The library was not asked to rebalance", "group", c.cfg.Group, "reason", err.Error())
	}
}

func (c *consumer) logUndone(err error) {
	if err != nil {
		c.driver.log.V(verboseError).Info("A consumer that was not wanted any more was shut down with an error", "group", c.cfg.Group, "reason", err.Error())
	}
}

// startLibrary sets c.library when Start has come so far that Shutdown is allowed.
func (c *consumer) startLibrary() error {
	made, err := library.NewPushConsumer(c.options()...)
	if err != nil {
		return wire.Errorf(err, "make the library's consumer")
	}
	if err := c.reach(made); err != nil {
		return driver.Errorf(driver.Unsupported, "", "the RocketMQ library is not the version that this driver knows: %w", err)
	}
	for _, s := range c.cfg.Subscriptions {
		if err := made.Subscribe(c.prover.Name(s.Topic), selectorOf(s), c.receive); err != nil {
			return wire.Errorf(err, "subscribe to %q", s.Topic)
		}
	}
	if err := c.subscribePopRetries(made, c.retries.known()); err != nil {
		return err
	}
	if err := made.Start(); err != nil {
		// It has shut itself down as far as it had come.
		return wire.Errorf(errors.Join(err, closeNameServer(made, nameServerOfConsumer...)), "start the library's consumer")
	}
	c.library = made
	return nil
}

// reach finds what this driver needs inside the library's consumer.
func (c *consumer) reach(made pushConsumer) (err error) {
	if c.threshold, err = fieldAs[interface{ Store(int64) }](made, "defaultConsumer", "option", "PullThresholdForQueue"); err != nil {
		return err
	}
	if c.client, err = fieldAs[libraryClient](made, "defaultConsumer", "client"); err != nil {
		return err
	}
	if c.rebalancing, err = fieldAs[*sync.Mutex](made, "defaultConsumer", "client", "rbMutex"); err != nil {
		return err
	}
	c.beating, err = fieldAs[*sync.Mutex](made, "defaultConsumer", "client", "hbMutex")
	return err
}

// nameServerOfConsumer is the way from the library's push consumer to its client; see closeNameServer.
var nameServerOfConsumer = []string{"defaultConsumer", "client"}

func selectorOf(s driver.Subscription) library.MessageSelector {
	switch {
	case s.SQL != "":
		return library.MessageSelector{Type: library.SQL92, Expression: s.SQL}
	case s.Tag == "":
		return library.MessageSelector{Type: library.TAG, Expression: "*"}
	default:
		return library.MessageSelector{Type: library.TAG, Expression: s.Tag}
	}
}

func (c *consumer) options() []library.Option {
	options := []library.Option{
		library.WithInstance(string(c.cfg.ClientID)),
		library.WithGroupName(c.group),
		library.WithNsResolver(c.resolver),
		library.WithConsumerModel(library.Clustering),
		library.WithConsumeFromWhere(library.ConsumeFromFirstOffset), // for queues that are added while we run; the others have a position
		library.WithConsumeMessageBatchMaxSize(1),
		library.WithConsumeTimeout(consumeTimeout),
		library.WithConsumeGoroutineNums(callbacks),
		library.WithPullBatchSize(pullBatch),
		library.WithPullThresholdForTopic(topicMessages),
		library.WithPullThresholdSizeForTopic(topicMiB),
		library.WithPullThresholdForQueue(queueMessages),
		library.WithPullThresholdSizeForQueue(queueMiB),
		library.WithConsumeConcurrentlyMaxSpan(maxSpan),
		library.WithStrategy(c.allocate),
		library.WithFilterMessageHook([]hooks.FilterMessageHook{c.pulled}),
	}
	if !c.cfg.Connection.Credentials.IsZero() {
		options = append(options, library.WithCredentials(libraryCredentials(c.cfg.Connection.Credentials)))
	}
	return options
}

// throttle is called by the lease table, under its lock: it only stores.
func (c *consumer) throttle(stop bool) {
	if stop {
		c.threshold.Store(0)
	} else {
		c.threshold.Store(queueMessages)
	}
}

// pulled is called by the library's pull loops with each answer that has messages.
func (c *consumer) pulled(h *hooks.FilterMessageContext) ([]*primitive.MessageExt, error) {
	var batch []*arrival
	for _, m := range h.Msg {
		if topic := c.retries.original(sentTo(m, c.group)); c.subscribes(topic) {
			batch = append(batch, newArrival(m, h.MQ, topic, c.cfg.Connection.Namespace))
		}
	}
	if len(batch) > 0 && !c.leases.admit(h.MQ, batch) {
		return nil, nil
	}
	return h.Msg, nil
}

// subscribes reports whether topic, with its namespace, is ours. What is not are retries of a topic that this group subscribed once; the library
// sends them back by itself.
func (c *consumer) subscribes(topic string) bool { return slices.Contains(c.subscribed, topic) }

// receive is the callback of one message.
func (c *consumer) receive(_ context.Context, msgs ...*primitive.MessageExt) (library.ConsumeResult, error) {
	m := msgs[0]
	m.WithProperty(primitive.PropertyConsumeStartTime, never)
	return c.leases.await(m.Queue, m.QueueOffset), nil
}

// Fetch implements driver.Consumer.
func (c *consumer) Fetch(ctx context.Context, req driver.FetchRequest) ([]*driver.Received, error) {
	return c.leases.fetch(ctx, req)
}

// Ack implements driver.Consumer.
func (c *consumer) Ack(_ context.Context, handles []driver.Handle) []error {
	return each(handles, c.leases.ack)
}

// GiveBack implements driver.Consumer.
func (c *consumer) GiveBack(_ context.Context, handles []driver.Handle) []error {
	return each(handles, c.leases.giveBack)
}

func each(handles []driver.Handle, do func(driver.Handle) error) []error {
	errs := make([]error, len(handles))
	for i, h := range handles {
		errs[i] = do(h)
	}
	return errs
}

// Extend implements driver.Consumer.
func (c *consumer) Extend(_ context.Context, h driver.Handle, lease time.Duration) (driver.Handle, time.Time, error) {
	return c.leases.extend(h, min(lease, maxLease))
}

// Err implements driver.Consumer.
func (c *consumer) Err() error { return c.health.err() }

// check is the running client's look at its surroundings.
func (c *consumer) check(ctx context.Context) error {
	if err := c.resolver.refresh(ctx); err != nil {
		return err
	}
	queues, err := c.prover.Consumer(ctx, c.cfg)
	if err != nil {
		return err
	}
	c.learn(queues)
	if err := c.followPopRetries(ctx); err != nil {
		return err
	}
	c.wire.CloseIdle()
	return nil
}
