// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/batching"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/checks"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/dedup"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/metrics"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/ratelimit"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// ClientsOptions are what Clients are made of.
type ClientsOptions struct {
	// Drivers that may be used. At least one; their names must differ.
	Drivers []driver.Driver
	// HostID and Incarnation name this host inside ack tokens.
	HostID, Incarnation string
	// Sealer makes and opens ack tokens; nil = a random key that dies with the process.
	Sealer *delivery.Sealer
	// Peers asks the hosts that made the tokens of others; nil = nobody is asked.
	Peers delivery.Peers
	// Undecided is told of checks of transactions that end without an answer, or again and again without a decision; nil = nobody is. It must not block,
	// and is called at most once in a while for each Producer.
	Undecided func(spec registry.Spec, note string)
	// Broadcast is how often broadcasting Consumers look after their receivers' groups.
	Broadcast BroadcastPeriods
	// Metrics may be nil.
	Metrics *metrics.Metrics
	Log     logr.Logger
}

// Clients opens what the registry runs: a driver's client with a send queue in front of it, or a delivery window. It holds nothing itself and is
// safe for concurrent use. It implements registry.Opener.
type Clients struct {
	o       ClientsOptions
	drivers map[string]driver.Driver
}

var (
	_ registry.Opener            = (*Clients)(nil)
	_ registry.LeftoverExplainer = (*Clients)(nil)
)

// NewClients checks the options.
func NewClients(o ClientsOptions) (*Clients, error) {
	if len(o.Drivers) == 0 {
		return nil, errors.New("clients: no driver given")
	}
	c := &Clients{o: o, drivers: make(map[string]driver.Driver, len(o.Drivers))}
	for _, d := range o.Drivers {
		if _, twice := c.drivers[d.Name()]; twice {
			return nil, fmt.Errorf("clients: two drivers are called %q", d.Name())
		}
		c.drivers[d.Name()] = d
	}
	if c.o.Sealer == nil {
		sealer, err := delivery.NewSealer(delivery.RandomKey())
		if err != nil {
			return nil, fmt.Errorf("clients: %w", err)
		}
		c.o.Sealer = sealer
	}
	return c, nil
}

func (c *Clients) driver(name string) (driver.Driver, error) {
	d, found := c.drivers[name]
	if !found {
		return nil, driver.Errorf(driver.Unsupported, "driver", "this host has no driver %q", name)
	}
	return d, nil
}

// Open starts the client of spec; see registry.Opener.
func (c *Clients) Open(ctx context.Context, spec registry.Spec, id driver.ClientID) (registry.Client, error) {
	d, err := c.driver(spec.Driver)
	if err != nil {
		return nil, err
	}
	log := logLate(c.o.Log, "kind", spec.Kind, "namespace", spec.Namespace, "name", spec.Name, "client", id)
	switch {
	case spec.Producer != nil:
		return c.openProducer(ctx, d, spec, id, log)
	case spec.Consumer != nil && spec.Consumer.Broadcast:
		return c.openBroadcast(ctx, d, spec, id, log)
	case spec.Consumer != nil:
		return opened(c.openConsumer(ctx, d, spec, id, log))
	default:
		return nil, driver.Errorf(driver.Invalid, "", "%s %s/%s has neither a producer's nor a consumer's specification", spec.Kind, spec.Namespace, spec.Name)
	}
}

func (c *Clients) openProducer(ctx context.Context, d driver.Driver, spec registry.Spec, id driver.ClientID, log logr.Logger) (registry.Client, error) {
	config := spec.Producer.Config
	config.ClientID = id
	producer, err := d.OpenProducer(ctx, config)
	if err != nil {
		return nil, err
	}
	client := &ProducerClient{
		Queue: batching.NewQueue(producer, batching.Options{
			Settings: queueSettings(spec), Observer: c.o.Metrics.Queue(spec.Namespace, spec.Name), Log: log,
		}),
		producer: producer, start: time.Now(), spec: spec, sealer: c.o.Sealer,
	}
	client.pace.SetRate(0, spec.Producer.RateLimit)
	client.hub = c.newHub(client, spec, log)
	client.sent = dedup.New(spec.Producer.DeduplicationWindow, client.Queue.Send, c.o.Metrics.Deduplication(spec.Namespace, spec.Name))
	return client, nil
}

// opened makes no client of an error: an interface that holds a nil pointer is not nil.
func opened(c *ConsumerClient, err error) (registry.Client, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}

// openBroadcast proves that receivers can be served; their own clients follow when they come.
func (c *Clients) openBroadcast(ctx context.Context, d driver.Driver, spec registry.Spec, id driver.ClientID, log logr.Logger) (registry.Client, error) {
	keeper, can := d.(driver.GroupKeeper)
	if !can {
		return nil, driver.Errorf(driver.Unsupported, "model", "the driver %s cannot broadcast", spec.Driver)
	}
	config := spec.Consumer.Config
	config.ClientID = id
	if err := d.ProbeConsumer(ctx, config); err != nil {
		return nil, err
	}
	open := func(ctx context.Context, own registry.Spec) (*ConsumerClient, error) {
		return c.openConsumer(ctx, d, own, id, log.WithValues("group", own.Group))
	}
	return newBroadcastClient(open, keeper, spec, c.o.Broadcast, c.o.Metrics, log), nil
}

func (c *Clients) openConsumer(ctx context.Context, d driver.Driver, spec registry.Spec, id driver.ClientID, log logr.Logger) (*ConsumerClient, error) {
	config := spec.Consumer.Config
	config.ClientID = id
	consumer, err := d.OpenConsumer(ctx, config)
	if err != nil {
		return nil, err
	}
	window := delivery.NewWindow(consumer, delivery.Options{
		Settings:     windowSettings(spec),
		Origin:       delivery.Origin{ConsumerUID: spec.UID, Host: c.o.HostID, Incarnation: c.o.Incarnation},
		Capabilities: d.Capabilities(), Ordered: config.Ordered, Sealer: c.o.Sealer, Peers: c.o.Peers,
		Observer: c.o.Metrics.Window(spec.Namespace, spec.Name), Log: log,
	})
	serving, drain := context.WithCancel(context.Background()) // Drain or Close ends it
	consumer.SetMark(spec.Consumer.SeekMark)
	client := &ConsumerClient{
		Window: window, consumer: consumer, spec: spec, drained: make(chan struct{}), serving: serving, drain: drain, left: lettersLeft{life: serving},
		countRedriven: func(n int) { c.o.Metrics.Redriven(spec.Namespace, spec.Name, n) },
	}
	client.left.box, _ = consumer.(driver.DeadLetters)
	ends := []func(){
		c.o.Metrics.TrackWindow(spec.Namespace, spec.Name, window.InFlight), c.o.Metrics.TrackDeadLetters(spec.Namespace, spec.Name, client.deadLettersLeft),
	}
	client.untrack = func() {
		for _, end := range ends {
			end()
		}
	}
	return client, nil
}

// Probe proves that a Consumer's changed spec can be opened, without joining its group; see registry.Opener.
func (c *Clients) Probe(ctx context.Context, spec registry.Spec) error {
	d, err := c.driver(spec.Driver)
	if err != nil {
		return err
	}
	if spec.Consumer == nil {
		return driver.Errorf(driver.Invalid, "", "%s %s/%s is not a Consumer; only Consumers are probed", spec.Kind, spec.Namespace, spec.Name)
	}
	return d.ProbeConsumer(ctx, spec.Consumer.Config)
}

// Leftovers sums what all drivers left behind, by name.
func (c *Clients) Leftovers() map[string]int {
	all := make(map[string]int)
	for _, d := range c.drivers {
		for name, n := range d.Leftovers() {
			all[name] += n
		}
	}
	return all
}

// ExpectsLeftover asks the drivers whose libraries leave something behind; see registry.LeftoverExplainer.
func (c *Clients) ExpectsLeftover(stack []string) bool {
	for _, d := range c.drivers {
		if explainer, ok := d.(registry.LeftoverExplainer); ok && explainer.ExpectsLeftover(stack) {
			return true
		}
	}
	return false
}

func queueSettings(spec registry.Spec) batching.Settings {
	return batching.Settings{Enabled: spec.Producer.Batching}
}

func windowSettings(spec registry.Spec) delivery.Settings {
	return delivery.Settings{
		AckDeadline: spec.Consumer.AckDeadline, MaxInFlight: spec.Consumer.MaxInFlight,
		MaxInFlightBytes: spec.Consumer.MaxInFlightBytes, MaxDeliveryAttempts: spec.Consumer.MaxDeliveryAttempts,
		RetryBackoff: spec.Consumer.RetryBackoff,
		RateLimit:    spec.Consumer.RateLimit,
	}
}

// ProducerClient is what runs for a Producer: a send queue over a driver's client. It implements registry.Client and server.Sender.
type ProducerClient struct {
	*batching.Queue
	producer driver.Producer
	sealer   *delivery.Sealer
	start    time.Time
	// hub is nil without transactions.
	hub  *checks.Hub
	sent *dedup.Memory

	mu   sync.Mutex
	spec registry.Spec    // what the client was opened with, with the live settings of the last Update
	pace ratelimit.Bucket // how much of the Producer's rate limit is used up
}

// Admit reports whether so many messages and bytes may be sent now, which counts them, or else after how long to try again. See registry.ProducerSpec.
func (p *ProducerClient) Admit(messages int, bytes int64) (wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Since(p.start)
	if wait = p.pace.Wait(now); wait == 0 {
		p.pace.Take(now, messages, bytes)
	}
	return wait
}

// SendOnce is Send for messages of which some have an id that the caller chose: within the Producer's window such a one is sent once. See dedup.Memory.
func (p *ProducerClient) SendOnce(ctx context.Context, topic string, msgs []*driver.Message, named []bool) []driver.SendResult {
	return p.sent.Send(ctx, topic, msgs, named)
}

// Drain waits until the messages that are here have their answers. A call that holds the client may still send: Close ends that.
func (p *ProducerClient) Drain(ctx context.Context) registry.DrainReport {
	if p.hub != nil {
		p.hub.Drain()
	}
	r := p.Queue.Drain(ctx)
	return registry.DrainReport{InFlight: r.InFlight, Drained: r.Drained, LeftLeased: r.Left}
}

// Recall is the driver's. What was recalled can be sent again under its id.
func (p *ProducerClient) Recall(ctx context.Context, handle string) (string, error) {
	id, err := p.producer.Recall(ctx, handle)
	if err == nil {
		p.mu.Lock()
		topics := p.spec.Producer.Config.Topics
		p.mu.Unlock()
		p.sent.Forget(topics, id, handle)
	}
	return id, err
}

// Close answers whoever still waits, then closes the driver's client.
func (p *ProducerClient) Close(ctx context.Context) error {
	if p.hub != nil {
		p.hub.Close()
	}
	p.Queue.Close()
	p.sent.Close() // its sends have ended with the queue
	return p.producer.Close(ctx)
}

// Err is the driver's.
func (p *ProducerClient) Err() error { return p.producer.Err() }

// Update takes over batching, the limit of a message's size, the rate limit and the deduplication window; everything else needs another client.
func (p *ProducerClient) Update(spec registry.Spec) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if spec.Producer == nil || spec.Driver != p.spec.Driver || !sameProducer(p.spec.Producer.Config, spec.Producer.Config) ||
		p.spec.Producer.CheckURL != spec.Producer.CheckURL {
		return false
	}
	p.pace.SetRate(time.Since(p.start), spec.Producer.RateLimit)
	p.sent.SetWindow(spec.Producer.DeduplicationWindow)
	p.spec = spec
	p.SetSettings(queueSettings(spec))
	return true
}

// ConsumerClient is what runs for a Consumer: a delivery window over a driver's client. It implements registry.Client and server.Window.
type ConsumerClient struct {
	*delivery.Window
	consumer driver.Consumer

	drainOnce sync.Once
	drained   chan struct{}
	untrack   func() // takes the window out of the metrics

	// serving ends, by drain, when the client begins to drain: what runs for long stops.
	serving       context.Context
	drain         context.CancelFunc
	redriving     sync.Mutex // held while letters are redriven; only ever tried
	countRedriven func(n int)
	left          lettersLeft

	mu   sync.Mutex
	spec registry.Spec // as in ProducerClient
}

// Drain stops fetching, gives back what no application has, tells the receivers, and waits for acknowledgements.
func (c *ConsumerClient) Drain(ctx context.Context) registry.DrainReport {
	c.drain()
	r := c.Window.Drain(ctx)
	c.endStreams()
	return registry.DrainReport{InFlight: r.InFlight, Drained: r.Acked + r.Expired + r.DeadLettered, GivenBack: r.GivenBack, LeftLeased: r.LeftLeased}
}

// Drained is closed when the drain is over: streams have nothing more to wait for. Without it they would hold the client until the deadline.
func (c *ConsumerClient) Drained() <-chan struct{} { return c.drained }

func (c *ConsumerClient) endStreams() { c.drainOnce.Do(func() { close(c.drained) }) }

// Close ends the window, then the driver's client, which gives back what is still leased where it can.
func (c *ConsumerClient) Close(ctx context.Context) error {
	c.drain()
	c.endStreams()
	c.Window.Close()
	c.untrack()
	c.left.close()
	return c.consumer.Close(ctx)
}

// Err is the driver's, else the window's: why fetching does not work at present.
func (c *ConsumerClient) Err() error {
	if err := c.consumer.Err(); err != nil {
		return err
	}
	return c.Window.Err()
}

// Update takes over the window's limits; everything else needs another client.
func (c *ConsumerClient) Update(spec registry.Spec) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if spec.Consumer == nil || spec.Driver != c.spec.Driver || !sameConsumer(c.spec.Consumer.Config, spec.Consumer.Config) {
		return false
	}
	moved := spec.Consumer.SeekMark != c.spec.Consumer.SeekMark
	c.spec = spec
	c.SetSettings(windowSettings(spec))
	if moved {
		c.moved(spec.Consumer.SeekMark)
	}
	return true
}

// moved lets go of what was fetched before a seek, and of what the window has of it.
func (c *ConsumerClient) moved(mark string) {
	c.consumer.SetMark(mark)
	c.Supersede(c.consumer.Superseded)
}

// Seek moves the Consumer's group; see driver.Consumer.Seek. Other hosts learn of it by the mark, as SeekMark of their specs.
func (c *ConsumerClient) Seek(ctx context.Context, to driver.Target) (mark string, err error) {
	mark, err = c.consumer.Seek(ctx, to)
	if err == nil {
		c.moved(mark)
	}
	return mark, err
}

// lagTimeout bounds one question to the broker for the metrics.
const lagTimeout = 5 * time.Second

// ReadLag asks what waits for the Consumer of spec without opening its client; Unsupported where the driver cannot.
func (c *Clients) ReadLag(ctx context.Context, spec registry.Spec) ([]driver.Lag, error) {
	d, err := c.driver(spec.Driver)
	if err != nil {
		return nil, err
	}
	reader, can := d.(driver.LagReader)
	if !can || spec.Consumer == nil || spec.Consumer.Broadcast { // whose receivers have groups of their own
		return nil, driver.Errorf(driver.Unsupported, "driver", "the driver %s cannot tell what waits for a Consumer without its client", spec.Driver)
	}
	return reader.ReadLag(ctx, spec.Consumer.Config)
}

// Lag asks the broker what waits for the group.
func (c *ConsumerClient) Lag(ctx context.Context) ([]driver.Lag, error) {
	ctx, cancel := context.WithTimeout(ctx, lagTimeout)
	defer cancel()
	return c.consumer.Lag(ctx)
}
