// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
)

// TestGroupsAreListedMarkedAndDeleted on a real broker; the groups' names have what names of users cannot have.
func TestGroupsAreListedMarkedAndDeleted(t *testing.T) {
	s := newSite(t, shared.Cluster(t), 2)
	q, base := s.queues[0], "group_"+uuid.NewString()[:13]
	groups := []string{base + "%%a", base + "%%b"}
	for _, group := range append(groups, base+"x") {
		must(t, "create", s.CreateGroup(t.Context(), q.Address, group))
	}
	listed := func() []string {
		t.Helper()
		names, err := s.Groups(t.Context(), q.Address, base+"%%")
		must(t, "list", err)
		return names
	}
	if got := listed(); !slices.Equal(got, groups) {
		t.Errorf("the broker lists %q, want %q", got, groups)
	}
	if at, err := s.LastSeen(t.Context(), q, groups[0]); err != nil || !at.IsZero() {
		t.Errorf("a group that was never marked was seen %s, %v", at, err)
	}
	now := time.Now().Truncate(time.Minute)
	must(t, "mark", s.MarkSeen(t.Context(), q, groups[0], now))
	if at, err := s.LastSeen(t.Context(), q, groups[0]); err != nil || !at.Equal(now) {
		t.Errorf("marked at %s, seen %s, %v", now, at, err)
	}
	progress, err := s.cluster.ConsumerProgress(t.Context(), groups[0])
	must(t, "progress", err)
	for _, p := range progress {
		if p.Queue >= seenQueue {
			t.Errorf("the mark shows in the group's progress: %+v", p)
		}
	}
	must(t, "mark a topic of its own", s.cluster.CreateTopic(t.Context(), RetryTopic(groups[0]), 1, nil))
	for range 2 {
		must(t, "delete", s.DeleteGroup(t.Context(), q.Address, groups[0]))
		must(t, "delete the topic", s.DeleteTopic(t.Context(), q.Address, RetryTopic(groups[0])))
	}
	if got := listed(); !slices.Equal(got, groups[1:]) {
		t.Errorf("after one was deleted the broker lists %q", got)
	}
	must(t, "create again", s.CreateGroup(t.Context(), q.Address, groups[0]))
	if at, err := s.LastSeen(t.Context(), q, groups[0]); err != nil || !at.IsZero() {
		t.Errorf("a group of the same name was seen %s, %v: its offsets were not deleted", at, err)
	}
}
