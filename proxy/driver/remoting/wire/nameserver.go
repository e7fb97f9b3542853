// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// InvokeNameServer sends what build makes to the name servers in turn, the one that answered last first, until one answers. An answer
// with an error code is an answer. Each has its share of the time that ctx leaves, and RequestTimeout at most.
func (c *Client) InvokeNameServer(ctx context.Context, build func() *Command) (*Command, error) {
	servers := c.connection.NameServers
	if len(servers) == 0 {
		return nil, driver.Errorf(driver.Invalid, "connection.nameServers", "no name server is configured")
	}
	c.state.Lock()
	first := c.state.preferred
	c.state.Unlock()
	var failed []error
	for i := range servers {
		n := (first + i) % len(servers)
		answer, err := c.invokeUntil(ctx, share(ctx, len(servers)-i), servers[n], build())
		if _, answered := CodeOf(err); err == nil || answered {
			c.state.Lock()
			c.state.preferred = n
			c.state.Unlock()
			return answer, err
		}
		failed = append(failed, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, noNameServer(failed)
}

// share is when the first of so many tries ends, so that one that meets silence leaves time for those behind it.
func share(ctx context.Context, tries int) time.Time {
	now := time.Now()
	most := RequestTimeout
	if end, ok := ctx.Deadline(); ok {
		most = min(most, end.Sub(now)/time.Duration(tries))
	}
	return now.Add(most)
}

// noNameServer keeps the reason that names the configuration's fault, if one of the servers has it.
func noNameServer(failed []error) error {
	for _, reason := range []driver.Reason{driver.AddressRefused, driver.Invalid, driver.Closed} {
		at := slices.IndexFunc(failed, func(err error) bool { return driver.ReasonOf(err) == reason })
		if at >= 0 {
			return Errorf(failed[at], "ask the name servers")
		}
	}
	return Errorf(errors.Join(failed...), "ask the name servers")
}
