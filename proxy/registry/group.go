// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"slices"
	"strings"
)

// groupKey is what RocketMQ takes for one group: members with different subscriptions in it lose messages.
type groupKey struct {
	kind      Kind
	servers   string
	namespace string
	group     string
}

// group is who wants a group, and who is in it: an attempt or a client that is open or closing occupies it.
type group struct {
	members   map[*entry]struct{}
	occupants map[*entry]int
}

func groupOf(spec Spec) groupKey {
	c := spec.Connection()
	return groupKey{kind: spec.Kind, servers: serversOf(spec), namespace: c.Namespace, group: spec.Group}
}

// serversOf names the set of name servers.
func serversOf(spec Spec) string {
	servers := slices.Sorted(slices.Values(spec.Connection().NameServers))
	return strings.Join(servers, ";")
}

func (t *turn) groupAt(key groupKey) *group {
	g := t.groups[key]
	if g == nil {
		g = &group{members: map[*entry]struct{}{}, occupants: map[*entry]int{}}
		t.groups[key] = g
	}
	return g
}

func (t *turn) dropEmpty(key groupKey) {
	if g := t.groups[key]; g != nil && len(g.members) == 0 && len(g.occupants) == 0 {
		delete(t.groups, key)
	}
}

func (t *turn) join(e *entry) {
	t.groupAt(e.group).members[e] = struct{}{}
	t.wakeGroup(e.group)
}

func (t *turn) leave(e *entry) {
	if g := t.groups[e.group]; g != nil {
		delete(g.members, e)
	}
	t.wakeGroup(e.group)
	t.dropEmpty(e.group)
}

// rejoin follows a spec that has moved to another group.
func (t *turn) rejoin(e *entry) {
	if key := groupOf(e.spec); key != e.group {
		t.leave(e)
		e.group = key
		t.join(e)
	}
}

// wakeGroup lets everybody who has to do with the group look again.
func (t *turn) wakeGroup(key groupKey) {
	g := t.groups[key]
	if g == nil {
		return
	}
	for e := range g.members {
		t.wake(e)
	}
	for e := range g.occupants {
		t.wake(e)
	}
}

func (t *turn) occupy(key groupKey, e *entry) {
	t.groupAt(key).occupants[e]++
}

func (t *turn) vacate(key groupKey, e *entry) {
	g := t.groups[key]
	if g == nil || g.occupants[e] == 0 {
		panic("registry: a group was vacated that was not occupied")
	}
	if g.occupants[e]--; g.occupants[e] == 0 {
		delete(g.occupants, e)
		t.wakeGroup(key)
		t.dropEmpty(key)
	}
}

// elder answers the oldest other object that wants e's group and is older than e. Another UID of the same name does not count: one of
// the two is gone, and Confirm tells which.
func (t *turn) elder(e *entry) *entry {
	var elder *entry
	for o := range t.groupAt(e.group).members {
		if o != e && !o.releasing && o.objectName() != e.objectName() && o.olderThan(e) && (elder == nil || o.olderThan(elder)) {
			elder = o
		}
	}
	return elder
}

// occupiedByOther reports whether another object's client is in e's group.
func (t *turn) occupiedByOther(e *entry) bool {
	occupants := t.groupAt(e.group).occupants
	return len(occupants) > 1 || (len(occupants) == 1 && occupants[e] == 0)
}

// evictor answers who may make e's client leave the group it is in: an older object that was confirmed, or anyone confirmed when e
// itself is moving to another group.
func (t *turn) evictor(e *entry) *entry {
	g := t.groups[e.live.group]
	if g == nil {
		return nil
	}
	for o := range g.members {
		if o != e && o.claimed && !o.releasing && o.objectName() != e.objectName() && (e.group != e.live.group || o.olderThan(e)) {
			return o
		}
	}
	return nil
}

func inUse(e, by *entry) error {
	err := &GroupInUseError{Group: e.spec.Group}
	if by.spec.Namespace == e.spec.Namespace {
		err.Other = by.spec.Namespace + "/" + by.spec.Name
	}
	return err
}
