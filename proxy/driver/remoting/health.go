// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"context"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/proof"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// checkLimit bounds one check of a name server or a broker.
const checkLimit = 5 * time.Second

// check asks the name servers and every master of the topics in use whether they answer us, once for all objects. A heartbeat without members
// registers nothing and proves the credentials. What it finds is what fault answers.
func (cl *cluster) check() {
	ctx, cancel := context.WithTimeout(cl.life, questionLimit)
	_, nameServers := cl.wire.ClusterInfo(ctx)
	cancel()
	if _, answered := wire.CodeOf(nameServers); answered {
		nameServers = nil
	}
	masters := cl.masters()
	faults := make([]error, len(masters))
	ctx, cancel = context.WithTimeout(cl.life, questionLimit) // name servers that are silent use all of theirs
	defer cancel()
	// The error is that of the closing cluster at most: each check keeps its own.
	_ = proof.All(ctx, len(masters), func(ctx context.Context, i int) error {
		ctx, cancel := context.WithTimeout(ctx, checkLimit)
		defer cancel()
		if err := cl.wire.HeartBeat(ctx, masters[i].address, wire.Heartbeat{ClientID: cl.clientID}); err != nil {
			faults[i] = asFault(wire.Errorf(err, "ask broker %s", masters[i].broker))
		}
		return nil
	})
	if cl.life.Err() != nil {
		return
	}
	if nameServers != nil {
		nameServers = asFault(nameServers)
	}
	cl.learn(nameServers, masters, faults)
}

// asFault calls a check's time-out what it is: nobody waited for less.
func asFault(err error) error {
	if driver.ReasonOf(err) == driver.Timeout {
		return driver.Errorf(driver.Unavailable, "", "no answer within %v: %w", checkLimit, err)
	}
	return err
}

func (cl *cluster) learn(nameServers error, masters []share, faults []error) {
	now := time.Now()
	cl.state.Lock()
	defer cl.state.Unlock()
	cl.state.nameServers, cl.state.suspicious, cl.state.checked = nameServers, false, now
	for i, m := range masters {
		b := cl.state.brokers[m.broker]
		if b == nil {
			b = &broker{}
			cl.state.brokers[m.broker] = b
		}
		b.fault = faults[i]
		if b.fault == nil {
			b.failures, b.onTrial = 0, false
		}
	}
}

// masters are the brokers of all topics in use, once each, with their newest address.
func (cl *cluster) masters() []share {
	cl.state.Lock()
	defer cl.state.Unlock()
	seen := make(map[string]bool)
	var all []share
	for _, t := range cl.state.topics {
		if t.users == 0 || t.view == nil {
			continue
		}
		for name, address := range t.view.masters {
			if !seen[name] {
				seen[name] = true
				all = append(all, share{broker: name, address: address})
			}
		}
	}
	return all
}

// suspects reports whether something is or may be wrong, so that the next check is due sooner.
func (cl *cluster) suspects() bool {
	cl.state.Lock()
	defer cl.state.Unlock()
	if cl.state.suspicious || cl.state.nameServers != nil {
		return true
	}
	for _, b := range cl.state.brokers {
		if b.fault != nil {
			return true
		}
	}
	return false
}

// fault is why an object that names topics (with their namespace) does not work at present, as far as the last check knows: name servers that do not
// answer, a topic that is gone, or one none of whose brokers works. nil = it works, or nothing is known. It asks nobody.
func (cl *cluster) fault(names ...string) error {
	cl.state.Lock()
	defer cl.state.Unlock()
	if cl.state.nameServers != nil {
		return cl.state.nameServers
	}
	for _, name := range names {
		t := cl.state.topics[name]
		if t == nil {
			continue
		}
		if err := cl.brokersFaultLocked(t.view); err != nil {
			return err
		}
		if t.fault != nil {
			return wire.Errorf(t.fault, "find topic %q", name)
		}
	}
	return nil
}

// brokersFaultLocked is a fault if all brokers of v have one.
func (cl *cluster) brokersFaultLocked(v *view) (fault error) {
	if v == nil {
		return nil
	}
	for name := range v.masters {
		b := cl.state.brokers[name]
		if b == nil || b.fault == nil {
			return nil
		}
		fault = b.fault
	}
	return fault
}

// checkedSince reports whether a check that began after t found the brokers well.
func (cl *cluster) checkedSince(t time.Time) bool {
	cl.state.Lock()
	defer cl.state.Unlock()
	return cl.state.checked.After(t)
}

// nameServersAnswer reports whether the last check could ask the name servers, or there was none yet.
func (cl *cluster) nameServersAnswer() bool {
	cl.state.Lock()
	defer cl.state.Unlock()
	return cl.state.nameServers == nil
}
