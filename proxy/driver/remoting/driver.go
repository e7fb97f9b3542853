// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// Name is what resources call this driver.
const Name = "Remoting"

// maxLease is the longest lease.
const maxLease = 12 * time.Hour

// Driver opens Producers and Consumers. Those with the same name servers, credentials and TLS share one cluster, with its connections, routes
// and checks. Make one with New; it is safe for concurrent use.
type Driver struct {
	log     logr.Logger
	periods periods

	mu       sync.Mutex
	clusters map[clusterKey]*cluster // mu guards it and the clusters' uses
}

// clusterKey is what must be equal for two objects to share connections. It holds secrets: it is never printed.
type clusterKey struct {
	nameServers string
	credentials driver.Credentials
	tls         driver.TLS
}

// New makes the driver. Nothing runs before something is opened.
func New(log logr.Logger) *Driver {
	return &Driver{log: log, periods: defaultPeriods, clusters: make(map[clusterKey]*cluster)}
}

// Name implements driver.Driver.
func (d *Driver) Name() string { return Name }

// Capabilities implements driver.Driver.
func (d *Driver) Capabilities() driver.Capabilities {
	return driver.Capabilities{
		AckFromAnyHost: true, AckConfirmed: true, ExactAttempts: true, ExactNackDelay: true, GiveBackToBroker: true, IdleConsumers: true,
		TLS: true, KeepsLeases: true, MaxLease: maxLease, Recall: true, Ordered: true, Seek: true, Transactions: true, Broadcast: true,
		Delays: "to about a second, up to the broker's limit (timerMaxDelaySec, 3 days unless changed)",
	}
}

// Leftovers implements driver.Driver: nothing is left behind.
func (d *Driver) Leftovers() map[string]int { return map[string]int{} }

// acquire returns the cluster of c, and counts one more use of it; the caller owes a release. It dials nothing and never fails. The first
// user's AllowAddress decides for all: it is the process's, not the object's.
func (d *Driver) acquire(c driver.Connection) *cluster {
	key := keyOf(c)
	d.mu.Lock()
	defer d.mu.Unlock()
	cl := d.clusters[key]
	if cl == nil {
		cl = newCluster(d, key, c)
		d.clusters[key] = cl
	}
	cl.uses++
	return cl
}

// release gives a use back. The last one closes everything and returns when no connection and no goroutine is left; who acquires meanwhile
// gets a new cluster.
func (cl *cluster) release() {
	d := cl.driver
	d.mu.Lock()
	cl.uses--
	last := cl.uses == 0
	if last {
		delete(d.clusters, cl.key)
	}
	d.mu.Unlock()
	if last {
		cl.close()
	}
}

func keyOf(c driver.Connection) clusterKey {
	servers := slices.Sorted(slices.Values(c.NameServers))
	return clusterKey{nameServers: strings.Join(servers, ","), credentials: c.Credentials, tls: c.TLS}
}
