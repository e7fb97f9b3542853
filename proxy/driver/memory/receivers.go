// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

var _ driver.GroupKeeper = memoryDriver{}

// MarkGroup implements driver.GroupKeeper.
func (d memoryDriver) MarkGroup(ctx context.Context, cfg driver.ConsumerConfig) error {
	if err := d.admit(ctx, Keep, &cfg.Connection, cfg.Group, cfg.Validate()); err != nil {
		return err
	}
	d.broker.mu.Lock()
	defer d.broker.mu.Unlock()
	g := d.broker.state.groups[withNamespace(cfg.Connection.Namespace, cfg.Group)]
	if g == nil {
		return driver.Errorf(driver.Unavailable, "group", "group %q does not exist", cfg.Group)
	}
	g.seen = time.Now().Truncate(time.Minute)
	return nil
}

// GroupSeen implements driver.GroupKeeper.
func (d memoryDriver) GroupSeen(ctx context.Context, cfg driver.ConsumerConfig) (time.Time, error) {
	if err := d.admit(ctx, Keep, &cfg.Connection, cfg.Group, cfg.Validate()); err != nil {
		return time.Time{}, err
	}
	d.broker.mu.Lock()
	defer d.broker.mu.Unlock()
	if g := d.broker.state.groups[withNamespace(cfg.Connection.Namespace, cfg.Group)]; g != nil {
		return g.seen, nil
	}
	return time.Time{}, nil
}

// ListGroups implements driver.GroupKeeper.
func (d memoryDriver) ListGroups(ctx context.Context, cfg driver.ConsumerConfig, prefix string) ([]driver.GroupSeen, error) {
	if err := d.admit(ctx, Keep, &cfg.Connection, cfg.Group, cfg.Validate()); err != nil {
		return nil, err
	}
	d.broker.mu.Lock()
	defer d.broker.mu.Unlock()
	full := withNamespace(cfg.Connection.Namespace, prefix)
	var groups []driver.GroupSeen
	for name, g := range d.broker.state.groups {
		if rest, found := strings.CutPrefix(name, full); found {
			groups = append(groups, driver.GroupSeen{Group: prefix + rest, Seen: g.seen})
		}
	}
	slices.SortFunc(groups, func(a, b driver.GroupSeen) int { return strings.Compare(a.Group, b.Group) })
	return groups, nil
}

// RemoveGroup implements driver.GroupKeeper.
func (d memoryDriver) RemoveGroup(ctx context.Context, cfg driver.ConsumerConfig) error {
	if err := d.admit(ctx, Keep, &cfg.Connection, cfg.Group, cfg.Validate()); err != nil {
		return err
	}
	d.broker.DeleteGroup(cfg.Connection.Namespace, cfg.Group)
	return nil
}
