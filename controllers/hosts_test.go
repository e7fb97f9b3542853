// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// hostOf makes a host without a pod in a namespace of the API server.
func hostOf(t *testing.T, namespace, id, locks string) *Host {
	t.Helper()
	h, err := NewHost(HostOptions{
		Client: direct, Namespace: namespace, HostID: id, LockDir: locks, LeaseDuration: time.Second, RenewEvery: 100 * time.Millisecond, Log: newStrictLog(t).logger(),
	})
	must(t, err)
	return h
}

func leaseOf(t *testing.T, h *Host) *coordinationv1.Lease {
	t.Helper()
	var l coordinationv1.Lease
	must(t, direct.Get(t.Context(), h.key(), &l))
	return &l
}

func TestAHostInAPodOwnsItsLeaseWithThePod(t *testing.T) {
	namespace := newNamespace(t)
	h, err := NewHost(HostOptions{Client: direct, Namespace: namespace, PodName: "operator-7d4-x", PodUID: "0f3c", Log: newStrictLog(t).logger()})
	must(t, err)
	must(t, h.Acquire(t.Context()))
	l := leaseOf(t, h)
	if l.Name != "operator-7d4-x.0f3c" || holder(l) != h.Incarnation() || l.Labels[HostLabel] == "" {
		t.Errorf("the Lease is %q held by %q with labels %v", l.Name, holder(l), l.Labels)
	}
	if o := l.OwnerReferences; len(o) != 1 || o[0].Kind != "Pod" || o[0].Name != "operator-7d4-x" || o[0].UID != "0f3c" {
		t.Errorf("owners are %+v, want the pod: Kubernetes collects the Lease with it", o)
	}
	must(t, h.Leave(t.Context()))
	if err := direct.Get(t.Context(), h.key(), l); !apierrors.IsNotFound(err) {
		t.Errorf("after Leave the Lease is there: %v", err)
	}
	must(t, h.Leave(t.Context())) // twice
	must(t, h.Renew(t.Context())) // and a renewal that comes late does nothing
}

func TestALongPodNameStaysALegalLeaseName(t *testing.T) {
	uid := types.UID("11111111-2222-3333-4444-555555555555")
	name := leaseName(strings.Repeat("a", 215)+"-"+strings.Repeat("b", 37), uid)
	if len(name) > 253 || !strings.HasSuffix(name, "."+string(uid)) || strings.Contains(name, "-.") {
		t.Errorf("%q (%d characters)", name, len(name))
	}
	long := hostManager(name)
	if len(long) > 128 || long == hostManager(name+"x") {
		t.Errorf("the field manager %q has %d characters, or is not unique", long, len(long))
	}
}

func TestAHostIDIsUsedByOneProcessOfAMachine(t *testing.T) {
	namespace, locks := newNamespace(t), t.TempDir()
	first := hostOf(t, namespace, "a", locks)
	options := HostOptions{Client: direct, Namespace: namespace, HostID: "a", LockDir: locks}
	if _, err := NewHost(options); err == nil || !strings.Contains(err.Error(), "host id") {
		t.Fatalf("a second process got the same host id: %v", err)
	}
	must(t, first.Acquire(t.Context()))
	must(t, first.Leave(t.Context()))
	again, err := NewHost(options)
	must(t, err)
	must(t, again.Leave(t.Context())) // it never had a Lease
	for _, id := range []string{"", "A", "-a", "a/b", strings.Repeat("a", 64)} {
		if _, err := NewHost(HostOptions{Client: direct, Namespace: namespace, HostID: id, LockDir: locks}); err == nil {
			t.Errorf("host id %q was taken", id)
		}
	}
}

// TestATakenOverHostIsLost: rule 10, held by another.
func TestATakenOverHostIsLost(t *testing.T) {
	namespace := newNamespace(t)
	old := hostOf(t, namespace, "a", t.TempDir())
	must(t, old.Acquire(t.Context()))
	uid := leaseOf(t, old).UID
	next := hostOf(t, namespace, "a", t.TempDir()) // another machine with the same id
	must(t, next.Acquire(t.Context()))
	if l := leaseOf(t, next); l.UID != uid || holder(l) != next.Incarnation() {
		t.Errorf("the Lease was not taken over but made anew, or is held by %q", holder(l))
	}
	if err := old.Run(t.Context(), func() {}); !errors.Is(err, ErrHostLost) {
		t.Errorf("the old process goes on: %v", err)
	}
	must(t, old.Leave(t.Context()))
	if l := leaseOf(t, next); holder(l) != next.Incarnation() {
		t.Error("leaving, the old process took the new one's Lease")
	}
}

func TestALeaseThatSomebodyTouchedIsStillOurs(t *testing.T) {
	h := hostOf(t, newNamespace(t), "a", t.TempDir())
	must(t, h.Acquire(t.Context()))
	l := leaseOf(t, h)
	l.Annotations = map[string]string{"somebody": "was here"}
	must(t, direct.Update(t.Context(), l))
	if err := h.Renew(t.Context()); errors.Is(err, ErrHostLost) {
		t.Fatalf("an annotation made the host give up: %v", err)
	}
	must(t, h.Renew(t.Context()))
	l = leaseOf(t, h)
	l.Annotations = nil
	must(t, direct.Update(t.Context(), l))
	must(t, h.Leave(t.Context()))
}

// TestALostLeaseEndsTheProcess: rule 10 in the whole operator: the manager ends with ErrHostLost and nothing can start any more.
func TestALostLeaseEndsTheProcess(t *testing.T) {
	op := startOperator(t, operatorOptions{namespace: newNamespace(t), renewEvery: 100 * time.Millisecond, allowed: []string{"Lease", "error received after stop"}})
	o := op.apply("Producer", "orders", goodProducer)
	op.waitReady(o, "orders")
	op.delete(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: op.options.namespace, Name: op.host.Name()}})
	select {
	case err := <-op.ended:
		if !errors.Is(err, ErrHostLost) {
			t.Fatalf("the manager ended with %v", err)
		}
		op.ended <- err
	case <-time.After(10 * time.Second):
		t.Fatal("the manager goes on although the Lease is gone")
	}
	op.stop()
	if n := op.opener.runningNow(""); n != 0 {
		t.Errorf("%d clients run", n)
	}
}

// TestTheClockOfAnotherMachineDoesNotKillAHost: a Lease whose time is far in the past by our clock, but which is renewed, is alive.
func TestTheClockOfAnotherMachineDoesNotKillAHost(t *testing.T) {
	namespace := newNamespace(t)
	h := hostOf(t, namespace, "a", t.TempDir())
	must(t, h.Acquire(t.Context()))
	past, incarnation := metav1.NewMicroTime(time.Now().Add(-time.Hour)), "far"
	other := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "b", Labels: map[string]string{HostLabel: "true"}},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &incarnation, RenewTime: &past},
	}
	must(t, direct.Create(t.Context(), other))
	stranger := other.DeepCopy()
	stranger.Name, stranger.Labels, stranger.ResourceVersion = "leader-election", nil, ""
	must(t, direct.Create(t.Context(), stranger))

	began := time.Now()
	for time.Since(began) < 2*h.o.LeaseDuration {
		past = metav1.NewMicroTime(past.Add(time.Millisecond))
		other.Spec.RenewTime = &past
		must(t, direct.Update(t.Context(), other))
		peers, err := h.List(t.Context())
		must(t, err)
		if len(peers) != 2 || !alive(h, "b", "far") {
			t.Fatalf("peers are %+v; b renews its Lease and is alive, and a Lease without our label is no host", peers)
		}
	}
	eventually(t, 5*time.Second, "b is stale when it does not renew any more", func() bool {
		_, err := h.List(context.Background())
		return err == nil && !alive(h, "b", "far")
	})
	if alive(h, "a", "another") || !alive(h, "a", h.Incarnation()) {
		t.Error("alive is a process, not a name")
	}
	must(t, client.IgnoreNotFound(h.Leave(t.Context())))
}

// TestHostsAreToldOfEachOther: the address for other hosts is in the Lease, and a change that a pass has seen between two beats is told all the same.
func TestHostsAreToldOfEachOther(t *testing.T) {
	namespace := newNamespace(t)
	a, b := hostOf(t, namespace, "a", t.TempDir()), hostOf(t, namespace, "b", t.TempDir())
	a.SetAddress("10.0.0.1:8081")
	must(t, a.Acquire(t.Context()))
	ctx, stop := context.WithCancel(t.Context())
	changed, ended := make(chan struct{}, 10), make(chan error, 1)
	go func() { ended <- a.Run(ctx, func() { changed <- struct{}{} }) }()
	var lease coordinationv1.Lease
	eventually(t, 10*time.Second, "a renews its Lease", func() bool {
		return direct.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "a"}, &lease) == nil && lease.Spec.RenewTime.After(lease.Spec.AcquireTime.Time)
	})
	b.SetAddress("10.0.0.2:8081")
	must(t, b.Acquire(t.Context()))
	peers, err := a.List(t.Context()) // as a pass over a dying object does
	must(t, err)
	if len(peers) != 2 || peers[0].Address != "10.0.0.1:8081" || peers[1].Address != "10.0.0.2:8081" {
		t.Errorf("peers are %+v, want both with their addresses", peers)
	}
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		t.Error("nobody was told of the other host")
	}
	stop()
	must(t, <-ended)
	must(t, b.Leave(t.Context()))
	must(t, a.Leave(t.Context()))
	again := hostOf(t, namespace, "a", t.TempDir())
	again.SetAddress("10.0.0.3:8081")
	must(t, again.Acquire(t.Context()))
	if peers, err := again.List(t.Context()); err != nil || len(peers) != 1 || peers[0].Address != "10.0.0.3:8081" {
		t.Errorf("after a restart: %+v, %v", peers, err)
	}
	must(t, again.Leave(t.Context()))
}

// alive reports whether that process has a Lease that is renewed, as far as the last List knows.
func alive(h *Host, name, incarnation string) bool {
	return slices.ContainsFunc(h.Peers(), func(p Peer) bool { return p.Name == name && p.Incarnation == incarnation && !p.Stale })
}
