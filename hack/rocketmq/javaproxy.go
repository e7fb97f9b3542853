// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package rocketmq

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// StartJavaProxy starts RocketMQ's own gRPC proxy of the cluster's version, in cluster mode, and returns when it takes connections. It is an
// error when it runs already. It needs the running cluster, and the version's proxy exists since 5.0. Stop ends it with the rest.
//
// Its heap is 512 MiB to 1 GiB and its JVM is left at its defaults otherwise: full JIT and G1, as its own start script has them.
func (c *Cluster) StartJavaProxy(ctx context.Context) error {
	lib, err := libraries(ctx, proxyJars, c.options.Version, c.options.Log)
	if err != nil {
		return err
	}
	c.life.Lock()
	defer c.life.Unlock()
	if err := c.mayStart("Java proxy", c.javaProxy); err != nil {
		return err
	}
	conf, err := c.writeJavaProxyConf()
	if err != nil {
		return err
	}
	argv := javaCommand(c.dir, lib, "-Xms512m", "-Xmx1g")
	argv = append(argv, "org.apache.rocketmq.proxy.ProxyStartup", "-pc", conf)
	p, err := startProcess("Java proxy", c.dir, filepath.Join(c.dir, "proxy.out"), argv)
	if err != nil {
		return err
	}
	c.javaProxy = p
	return c.await(ctx, p, "the Java proxy to take connections", func(ctx context.Context) error {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "tcp", c.JavaProxyAddr())
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// writeJavaProxyConf writes what the proxy is told with -pc (the fields of its class ProxyConfig) and answers the file. One port serves
// plain text and TLS.
func (c *Cluster) writeJavaProxyConf() (string, error) {
	conf, err := json.MarshalIndent(map[string]any{
		"proxyMode": "CLUSTER", "rocketMQClusterName": clusterName, "namesrvAddr": c.nameServerAddr(),
		"proxyName": "proxy-a", "localServeAddr": "127.0.0.1",
		"grpcServerPort": c.ports.proxy, "remotingListenPort": c.ports.proxyRemoting,
	}, "", "  ")
	if err != nil {
		return "", fmt.Errorf("write the Java proxy's configuration: %w", err)
	}
	path := filepath.Join(c.dir, "rmq-proxy.json")
	if err := os.WriteFile(path, conf, 0o600); err != nil {
		return "", fmt.Errorf("write the Java proxy's configuration: %w", err)
	}
	return path, nil
}

// JavaProxyAddr is where StartJavaProxy's proxy takes gRPC, host:port.
func (c *Cluster) JavaProxyAddr() string { return loopback(c.ports.proxy) }

// JavaProxyPID is its process id, 0 while it is not running: for reading its CPU time and memory.
func (c *Cluster) JavaProxyPID() int {
	c.life.Lock()
	defer c.life.Unlock()
	if !c.javaProxy.running() {
		return 0
	}
	return c.javaProxy.pid
}
