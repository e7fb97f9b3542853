// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/gate"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/proof"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// producer sends through its cluster. While it sends nothing it is these fields: no goroutine, no timer, no connection of its own and no
// heartbeat, which brokers need for the checks of transactions only, while somebody watches them.
type producer struct {
	cluster *cluster
	cfg     driver.ProducerConfig
	gate    *gate.Gate
	allowed allowance
	fault   atomic.Pointer[sendFault]
	// transactions is nil unless the configuration asked for them.
	transactions *transactions
}

// sendFault is the last send's trouble, of the kinds that Err reports.
type sendFault struct {
	err error
	at  time.Time
}

// faultLife is how long a send's final error is reported when nothing was sent since.
const faultLife = time.Minute

// OpenProducer implements driver.Driver. What does not depend on the object is proven once for all that open at about the same time.
func (d *Driver) OpenProducer(ctx context.Context, cfg driver.ProducerConfig) (driver.Producer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, wire.Errorf(err, "open the producer of group %q", cfg.Group)
	}
	p := &producer{cluster: d.acquire(cfg.Connection), cfg: cfg, gate: gate.New(), allowed: newAllowance()}
	p.cluster.use(p.names()...)
	err := p.prove(ctx)
	if err == nil && cfg.Transactions {
		err = p.proveTransactions(ctx)
	}
	if err != nil {
		p.leaveCluster()
		return nil, err
	}
	return p, nil
}

// leaveCluster ends what acquire and use began.
func (p *producer) leaveCluster() {
	p.cluster.unuse(p.names()...)
	p.cluster.release()
}

func (p *producer) names() []string {
	names := make([]string, len(p.cfg.Topics))
	for i, topic := range p.cfg.Topics {
		names[i] = p.name(topic)
	}
	return names
}

func (p *producer) name(topic string) string {
	return wire.WithNamespace(p.cfg.Connection.Namespace, topic)
}

// prove proves that each topic may be sent to.
func (p *producer) prove(ctx context.Context) error {
	flights := make([]*flight, len(p.cfg.Topics))
	for i, topic := range p.cfg.Topics {
		flights[i] = p.cluster.proveTopic(p.cfg.Connection.Namespace, p.cfg.Group, topic)
	}
	for i, f := range flights {
		if err := f.wait(ctx); err != nil {
			return proof.WithField(err, "topics["+strconv.Itoa(i)+"]")
		}
	}
	return nil
}

// provenFor is how long the proof of a topic counts for objects that open later.
const provenFor = 10 * time.Second

// proveTopic proves that the cluster's credentials may send to topic, or joins a proof that is under way or was good a moment ago: the right
// does not depend on the group.
func (cl *cluster) proveTopic(namespace, group, topic string) *flight {
	name := wire.WithNamespace(namespace, topic)
	cl.state.Lock()
	f := cl.state.proofs[name]
	if f != nil && (!f.over() || f.err == nil && time.Since(f.started) < provenFor) {
		cl.state.Unlock()
		return f
	}
	f = newFlight()
	cl.state.proofs[name] = f
	cl.state.Unlock()
	prover := proof.Prover{Wire: cl.wire, Routes: cl, Namespace: namespace}
	cl.run(f, func(ctx context.Context) error { return prover.Topic(ctx, "", group, topic) }, func(error) {})
	return f
}

// Limits implements driver.Producer.
func (p *producer) Limits() driver.BatchLimits {
	return driver.BatchLimits{Messages: batchMessages, Bytes: limitBytes}
}

// Err implements driver.Producer: what the cluster's checks found, else what the last send ran into.
func (p *producer) Err() error {
	if err := p.cluster.fault(p.names()...); err != nil {
		return err
	}
	f := p.fault.Load()
	switch {
	case f == nil:
		return nil
	case driver.Retryable(f.err) && p.cluster.checkedSince(f.at), time.Since(f.at) > faultLife:
		return nil // it may have ended, and only a send can tell
	default:
		return f.err
	}
}

// note takes the outcome of a request. Only faults of the connection, the credentials or the topic are kept; any success ends them.
func (p *producer) note(err error) {
	if err == nil {
		if p.fault.Load() != nil {
			p.fault.Store(nil)
		}
		return
	}
	switch driver.ReasonOf(err) {
	case driver.Unavailable, driver.Unauthorized, driver.AddressRefused, driver.TopicNotFound:
		p.fault.Store(&sendFault{err: err, at: time.Now()})
	default:
	}
}

// sends reports whether topic is among the producer's.
func (p *producer) sends(topic string) bool { return slices.Contains(p.cfg.Topics, topic) }

// Close implements driver.Producer.
func (p *producer) Close(ctx context.Context) error {
	err := p.gate.Close(ctx, func() error {
		// Sends under way were cancelled when the gate was shut; each has its answer when Wait returns.
		p.gate.Wait()
		if p.transactions != nil {
			p.transactions.close()
		}
		p.leaveCluster()
		return nil
	})
	if err != nil {
		return wire.Errorf(err, "close the producer of group %q", p.cfg.Group)
	}
	return nil
}
