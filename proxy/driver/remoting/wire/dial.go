// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

const (
	dialTimeout = 5 * time.Second
	keepAlive   = 15 * time.Second
)

// Resolve turns host:port into the IP:port addresses behind it, each of them allowed. It fails when one of them is refused: which one a
// later dial takes is chance, and a name that leads to a forbidden place is an attack or a mistake.
func Resolve(ctx context.Context, address string, allow func(string) error) ([]netip.AddrPort, error) {
	return resolve(ctx, address, net.DefaultResolver.LookupNetIP, allow)
}

// lookUp finds the addresses of a host; net.Resolver.LookupNetIP is one.
type lookUp func(ctx context.Context, network, host string) ([]netip.Addr, error)

func resolve(ctx context.Context, address string, look lookUp, allow func(string) error) ([]netip.AddrPort, error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, driver.Errorf(driver.Invalid, "", "address %q is not host:port: %w", address, err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return nil, driver.Errorf(driver.Invalid, "", "address %q: the port is not a number from 1 to 65535", address)
	}
	ips, err := look(ctx, "ip", host)
	if err != nil {
		return nil, driver.Errorf(driver.Unavailable, "", "resolve %q: %w", host, err)
	}
	found := make([]netip.AddrPort, 0, len(ips))
	for _, ip := range ips {
		found = append(found, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
	}
	for _, a := range found {
		if err := allow(a.String()); err != nil {
			return nil, driver.Errorf(driver.AddressRefused, "", "%q leads to %s, which is refused: %w", address, a, err)
		}
	}
	return found, nil
}

// dial connects to address, or to the first of its addresses that answers, each within its share of dialTimeout. What is dialled is what was checked: the
// name is resolved once. With TLS the handshake is part of it.
func dial(ctx context.Context, address string, look lookUp, c *driver.Connection) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	secure, err := c.TLS.Config()
	if err != nil {
		return nil, err
	}
	found, err := resolve(ctx, address, look, c.AllowAddress)
	if err != nil {
		return nil, err
	}
	var failed []error
	for i, a := range found {
		dialer := net.Dialer{KeepAlive: keepAlive, Deadline: share(ctx, len(found)-i)}
		socket, err := dialer.DialContext(ctx, "tcp", a.String())
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if secure == nil {
			return socket, nil
		}
		return encrypt(ctx, socket, address, secure)
	}
	return nil, driver.Errorf(driver.Unavailable, "", "connect to %q: %w", address, errors.Join(failed...))
}
