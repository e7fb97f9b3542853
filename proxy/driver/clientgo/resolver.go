// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// resolver gives the library the name servers as IP addresses, which is all it takes. The library asks it under a lock and every two minutes
// only, so the names are resolved elsewhere (refresh) and answered from memory.
type resolver struct {
	connection driver.Connection
	found      atomic.Pointer[[]string]
}

// newResolver resolves the name servers for the first time.
func newResolver(ctx context.Context, c driver.Connection) (*resolver, error) {
	r := &resolver{connection: c}
	return r, r.refresh(ctx)
}

// refresh resolves and checks all names again. It fails when one of them leads to a refused address, or when none resolves; then the addresses
// from before stay. A name that does not resolve beside others that do is left out.
func (r *resolver) refresh(ctx context.Context) error {
	var found []string
	var failed []error
	for _, server := range r.connection.NameServers {
		addresses, err := wire.Resolve(ctx, server, r.connection.AllowAddress)
		switch {
		case driver.ReasonOf(err) == driver.AddressRefused && err != nil:
			return err
		case err != nil:
			failed = append(failed, err)
		}
		for _, a := range addresses {
			found = append(found, forLibrary(a))
		}
	}
	if len(found) == 0 {
		return wire.Errorf(errors.Join(failed...), "resolve the name servers")
	}
	r.found.Store(&found)
	return nil
}

// forLibrary writes an address so that the library takes it: its check of IPv6 is broken, and is skipped for what looks like a URL.
func forLibrary(a netip.AddrPort) string {
	if a.Addr().Is4() {
		return a.String()
	}
	return "http://" + a.String()
}

// Resolve is called by the library.
func (r *resolver) Resolve() []string {
	if found := r.found.Load(); found != nil {
		return *found
	}
	return nil
}

// Description is called by the library.
func (r *resolver) Description() string {
	return "name servers " + strings.Join(r.connection.NameServers, ", ")
}
