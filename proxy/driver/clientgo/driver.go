// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// Name is what resources call this driver.
const Name = "ClientGo"

// maxLease is the longest lease. The library's consume time-out is a minute more; see traps.go.
const maxLease = 10 * time.Minute

// Driver opens clients of the library. Make one with New.
type Driver struct {
	log logr.Logger
	// mark begins the pprof labels of this driver's clients; serial makes each unique, also when a client id is used again.
	mark   string
	serial atomic.Uint64

	mu   sync.Mutex
	live map[string]struct{} // labels of clients that are not closed; mu guards it
}

// New makes the driver and prepares the library: its logger and its time-outs are global in the process, so the first call decides both.
func New(log logr.Logger) (*Driver, error) {
	if err := prepareLibrary(log); err != nil {
		return nil, err
	}
	return &Driver{log: log, mark: fmt.Sprintf("%d/", drivers.Add(1)), live: make(map[string]struct{})}, nil
}

// drivers counts the drivers of the process: one, but for tests.
var drivers atomic.Uint64

// Name implements driver.Driver.
func (d *Driver) Name() string { return Name }

// Capabilities implements driver.Driver.
func (d *Driver) Capabilities() driver.Capabilities {
	return driver.Capabilities{
		Prefetch: fmt.Sprintf("up to %d messages (%d MiB) and one more pull's answer (up to %d messages) per queue that this client owns",
			prefetchMessages, prefetchBytes>>20, pullBatch),
		MaxLease:   maxLease,
		SingleHost: true,
		Delays: "brokers 5.x: to about a second, up to the broker's limit (timerMaxDelaySec, 3 days unless changed); brokers 4.x: 18 delays from 1 s to 2 h, " +
			"the next longer one and only with round_delay",
	}
}

// refuseTLS refuses a connection that shall be encrypted: the library's TLS accepts any certificate, so whoever sits in between reads along.
func refuseTLS(c driver.Connection) error {
	if c.TLS.Enabled {
		return driver.Errorf(driver.Unsupported, "connection.tls", "the driver %s cannot check certificates: use the driver Remoting, or remove tls", Name)
	}
	return nil
}

// refuseOrder refuses an ordered Consumer: the library's orderly mode takes queues for one process at a time by locks at the broker, has no leases, and
// sends what fails back out of order after its retries.
func refuseOrder(cfg driver.ConsumerConfig) error {
	if cfg.Ordered {
		return driver.Errorf(driver.Unsupported, "order", "the driver %s cannot deliver in order: use the driver Remoting with brokers 5.x, or order Unordered", Name)
	}
	return nil
}

// Leftovers implements driver.Driver. See leftovers.go.
func (d *Driver) Leftovers() map[string]int { return d.countLeftovers() }

// enlist makes a label for a new client; its goroutines are ours until delist.
func (d *Driver) enlist(id driver.ClientID) string {
	label := fmt.Sprintf("%s%s#%d", d.mark, id, d.serial.Add(1))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.live[label] = struct{}{}
	return label
}

func (d *Driver) delist(label string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.live, label)
}
