// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package rocketmq

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const (
	clusterName = "DefaultCluster"
	// A start takes 4 s on idle cores; a CI machine that compiles at the same time has needed 40.
	startTimeout = 2 * time.Minute
	stopTimeout  = 30 * time.Second
	pollPeriod   = 50 * time.Millisecond
)

// Cluster is one name server and one broker, or, with Options.Join, one more broker of another Cluster. All methods are safe for concurrent use; those that start or stop a process
// run one after the other.
type Cluster struct {
	options Options
	dir     string    // home: configuration, store, logs
	lib     string    // jars
	owner   *fileLock // says that a temporary home is in use; nil for a folder that the caller named, which is theirs to remove
	ports   *ports
	admin   Credentials // empty without ACL
	tls     TLSFiles    // empty without TLS

	life sync.Mutex // serialises starting and stopping; guards the fields below
	processes
}

type processes struct {
	nameServer *process
	broker     *process
	javaProxy  *process
	stopped    bool
}

// Start runs a cluster and returns when its broker is registered at its name server. ctx bounds the start, not the
// cluster's life: that ends with Stop, which the caller owes after a nil error.
func Start(ctx context.Context, options Options) (*Cluster, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := Available(); err != nil {
		return nil, err
	}
	lib, err := Libraries(ctx, options.Version, options.Log)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	c := &Cluster{options: options, lib: lib, dir: options.Dir}
	if err := c.prepare(); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	fmt.Fprintf(options.Log, "rocketmq: starting Apache RocketMQ %s (name server %s, broker %s, home %s), usually 4-10 s\n",
		options.Version, c.nameServerAddr(), c.BrokerAddr(), c.dir)
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if c.options.Join == nil {
		if err := c.StartNameServer(ctx); err != nil {
			return nil, errors.Join(err, c.Stop())
		}
	}
	if err := c.StartBroker(ctx); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	fmt.Fprintf(options.Log, "rocketmq: ready after %s\n", time.Since(began).Round(100*time.Millisecond))
	return c, nil
}

func (c *Cluster) prepare() (err error) {
	if c.dir == "" {
		if c.dir, c.owner, err = takeHome(c.options.Log); err != nil {
			return err
		}
	}
	if c.dir, err = filepath.Abs(c.dir); err != nil {
		return fmt.Errorf("resolve RocketMQ's home: %w", err)
	}
	if c.ports, err = takePorts(); err != nil {
		return err
	}
	switch {
	case c.options.Join != nil:
		c.admin = c.options.Join.admin
	case c.options.ACL:
		c.admin = newCredentials("administrator")
	}
	if err := c.writeFiles(); err != nil {
		return err
	}
	return c.prepareTLS()
}

// NameServers returns the name server's address, host:port, as Connection.nameServers takes it.
func (c *Cluster) NameServers() []string { return []string{c.nameServerAddr()} }

func (c *Cluster) nameServerAddr() string {
	if c.options.Join != nil {
		return c.options.Join.nameServerAddr()
	}
	return loopback(c.ports.nameServer)
}

// hasNameServer reports whether the name server is running. It wants life held.
func (c *Cluster) hasNameServer() bool {
	if other := c.options.Join; other != nil {
		other.life.Lock()
		defer other.life.Unlock()
		return other.hasNameServer()
	}
	return c.nameServer.running()
}

// BrokerAddr is the broker's address, host:port, the same after each restart.
func (c *Cluster) BrokerAddr() string { return loopback(c.ports.broker) }

// Version is the running version, such as "5.5.0".
func (c *Cluster) Version() string { return c.options.Version }

// Dir is the home folder: broker.conf, store, logs, broker.out.
func (c *Cluster) Dir() string { return c.dir }

// BrokerPID is the broker's process id, 0 while it is not running: for reading its CPU time and memory.
func (c *Cluster) BrokerPID() int {
	c.life.Lock()
	defer c.life.Unlock()
	if !c.broker.running() {
		return 0
	}
	return c.broker.pid
}

// StartNameServer starts it on its old port; it is an error when it runs already. When the broker is running it returns
// only after the broker has registered again, which the broker does within 10 s.
func (c *Cluster) StartNameServer(ctx context.Context) error {
	c.life.Lock()
	defer c.life.Unlock()
	if c.options.Join != nil {
		return errors.New("start the name server: this cluster uses another one's")
	}
	if err := c.mayStart("name server", c.nameServer); err != nil {
		return err
	}
	p, err := startProcess("name server", c.dir, filepath.Join(c.dir, "namesrv.out"), c.nameServerCommand())
	if err != nil {
		return err
	}
	c.nameServer = p
	if err := c.await(ctx, p, "the name server to answer", c.nameServerAnswers); err != nil {
		return err
	}
	if c.broker.running() {
		return c.await(ctx, p, "the broker to register again", c.brokerRegistered)
	}
	return nil
}

// StartBroker starts it on its old ports and store; it is an error when it runs already. It returns when the broker
// answers and, unless the name server is stopped, is registered there.
func (c *Cluster) StartBroker(ctx context.Context) error {
	c.life.Lock()
	defer c.life.Unlock()
	if err := c.mayStart("broker", c.broker); err != nil {
		return err
	}
	p, err := startProcess("broker", c.dir, filepath.Join(c.dir, "broker.out"), c.brokerCommand())
	if err != nil {
		return err
	}
	c.broker = p
	if err := c.await(ctx, p, "the broker to answer", c.brokerAnswers); err != nil {
		return err
	}
	if c.hasNameServer() {
		return c.await(ctx, p, "the broker to register at the name server", c.brokerRegistered)
	}
	return nil
}

// mayStart wants life held.
func (c *Cluster) mayStart(name string, p *process) error {
	if c.stopped {
		return fmt.Errorf("start the %s: the cluster has been stopped", name)
	}
	if p.running() {
		return fmt.Errorf("start the %s: it is running (pid %d)", name, p.pid)
	}
	return nil
}

// await polls until the fact holds; it gives up when p ends or ctx does, and says what it saw last.
func (c *Cluster) await(ctx context.Context, p *process, what string, fact func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ticker := time.NewTicker(pollPeriod)
	defer ticker.Stop()
	for {
		err := fact(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-p.done:
			return fmt.Errorf("wait for %s: the %s ended; it said last:\n%s", what, p.name, p.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w; seen last: %w; the %s said last:\n%s", what, ctx.Err(), err, p.name, p.lastWords())
		}
	}
}

// KillBroker ends the broker with SIGKILL and returns when it is gone; nil when it was not running.
func (c *Cluster) KillBroker() error {
	c.life.Lock()
	defer c.life.Unlock()
	return c.broker.kill()
}

// StopBroker ends the broker with SIGTERM, so that it flushes its store and leaves the name server; nil when it was not
// running. When ctx ends first it is killed, which is an error.
func (c *Cluster) StopBroker(ctx context.Context) error {
	c.life.Lock()
	defer c.life.Unlock()
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	return c.broker.terminate(ctx)
}

// PauseBroker freezes the broker (SIGSTOP): its ports accept, nothing answers.
func (c *Cluster) PauseBroker() error { return c.signalBroker(syscall.SIGSTOP) }

// ResumeBroker lets a paused broker go on (SIGCONT).
func (c *Cluster) ResumeBroker() error { return c.signalBroker(syscall.SIGCONT) }

func (c *Cluster) signalBroker(s syscall.Signal) error {
	c.life.Lock()
	defer c.life.Unlock()
	if !c.broker.running() {
		return fmt.Errorf("send %s to the broker: it is not running", s)
	}
	return c.broker.signal(s)
}

// StopNameServer ends the name server; nil when it was not running. The broker goes on without it.
func (c *Cluster) StopNameServer() error {
	c.life.Lock()
	defer c.life.Unlock()
	return c.nameServer.kill()
}

// Stop kills all processes, waits for their end, removes the temporary folder and gives the ports back. A second call
// does nothing. The store is not worth a slow shutdown: it is removed, or, in a named folder, recovered at the next start.
func (c *Cluster) Stop() error {
	c.life.Lock()
	defer c.life.Unlock()
	if c.stopped {
		return nil
	}
	c.stopped = true
	err := errors.Join(c.javaProxy.kill(), c.broker.kill(), c.nameServer.kill())
	if c.owner != nil {
		err = errors.Join(err, removeHome(c.dir, c.owner))
	}
	if c.ports != nil {
		c.ports.release()
	}
	return err
}
