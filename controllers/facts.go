// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"errors"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// facts is what one pass found out. The steps of a pass only record facts; conditions and the own entry in status.hosts are computed from
// them in one place, so every way through a pass reports the same way.
type facts struct {
	host, incarnation string
	group, driver     string
	endpoint          string
	// tls is the object's, nil = none.
	tls *proxyv1alpha1.TLS

	terminating, suspended bool
	// problem is why the wanted client could not even be described: *Stalled or *Waiting.
	problem error
	// choosing: which driver it needs is being found out.
	choosing bool
	// client is the registry's entry, nil = none.
	client *registry.Status
	// severalHosts: the driver can serve this Consumer on one host only, more are alive, and serving is the one.
	severalHosts bool
	serving      string
	// peers are the hosts that have a Lease.
	peers []Peer
	now   time.Time
}

func (r *reconciler) newFacts(obj object) *facts {
	return &facts{
		host: r.host.Name(), incarnation: r.host.Incarnation(), endpoint: r.endpoint, peers: r.host.Peers(), now: r.now(),
		group: r.group(obj), driver: obj.Reported().Driver, tls: obj.Common().Connection.TLS,
	}
}

// observe records the registry's answer.
func (f *facts) observe(s registry.Status, found bool) {
	if found {
		f.client = &s
	}
}

// effectiveDriver is the one of the client that runs, which may be another than the wanted one's for as long as that is not proven.
func (f *facts) effectiveDriver() string {
	if f.client != nil && f.client.Driver != "" {
		return f.client.Driver
	}
	return f.driver
}

// leaving: this host stops and starts nothing any more.
func (f *facts) leaving() bool {
	return f.client != nil && errors.Is(f.client.Err, registry.ErrGateClosed)
}

// live are the hosts that renew their Leases, the oldest first.
func (f *facts) live() []Peer {
	return slices.DeleteFunc(slices.Clone(f.peers), func(p Peer) bool { return p.Stale })
}

// alive reports whether an entry of status.hosts is of a process that is still there.
func (f *facts) alive(e proxyv1alpha1.HostStatus) bool {
	return slices.ContainsFunc(f.live(), func(p Peer) bool { return p.Name == e.Host && p.Incarnation == e.Incarnation })
}

func (f *facts) othersLive() bool {
	return slices.ContainsFunc(f.live(), func(p Peer) bool { return p.Name != f.host })
}

// runs reports whether this host has the client of the generation, be it stopped by its idle time-out.
func (f *facts) runs(generation int64) bool {
	return f.client != nil && f.client.Generation == generation &&
		(f.client.State == registry.Running || f.client.State == registry.Idle)
}

// idle: the client was stopped by its idle time-out and is well.
func (f *facts) idle() bool { return f.client != nil && f.client.State == registry.Idle }

// undecided: a client is being started or replaced and has not failed since, so nothing can be said yet.
func (f *facts) undecided() bool {
	if f.choosing && f.problem == nil && !f.suspended {
		return true
	}
	if f.client == nil || f.client.Err != nil || f.problem != nil || f.suspended {
		return false
	}
	replacing := f.client.State == registry.Running && f.client.Generation < f.client.Desired
	return f.client.State == registry.Starting || f.client.State == registry.Draining || replacing
}

// trouble is what is wrong on this host, nil when nothing is or nothing is decided yet.
func (f *facts) trouble() *verdict {
	err := f.problem
	if err == nil && f.client != nil {
		err = f.client.Err
	}
	if err == nil || f.suspended || f.terminating {
		return nil
	}
	v := explain(blameSecret(err, f.tls))
	if f.client != nil && f.client.State == registry.Running && f.client.Generation < f.client.Desired {
		v.message += fmt.Sprintf("; the client of generation %d keeps serving", f.client.Generation)
	}
	return &v
}

// ownEntry computes this host's entry in status.hosts, nil = none. It is there only while the host cannot do what the object asks for, and
// stays while another try is under way. A Secret that has gone while the client of this generation runs is no failure yet.
func ownEntry(obj object, f *facts) *proxyv1alpha1.HostStatus {
	current := currentFailure(obj, f)
	v := f.trouble()
	switch {
	case f.suspended || f.terminating:
		return nil
	case v == nil && f.undecided():
		return current
	case v == nil || (f.problem != nil && f.runs(obj.GetGeneration())):
		return nil
	}
	entry := &proxyv1alpha1.HostStatus{
		Host: f.host, Incarnation: f.incarnation, UID: obj.GetUID(), Generation: obj.GetGeneration(),
		State: proxyv1alpha1.HostFailed, Reason: v.reason, Message: v.message, Since: &metav1.Time{Time: f.now},
	}
	if current != nil && current.Reason == entry.Reason {
		entry.Since = current.Since
	}
	return entry
}

// currentFailure is what this process has written about this generation before.
func currentFailure(obj object, f *facts) *proxyv1alpha1.HostStatus {
	e := entryOf(obj, f.host)
	if e == nil || e.UID != obj.GetUID() || e.Incarnation != f.incarnation || e.State != proxyv1alpha1.HostFailed ||
		e.Generation != obj.GetGeneration() {
		return nil
	}
	return e
}

// failures lists the live hosts that report a failure of this generation: the others as they wrote it, this one as it is now.
func failures(obj object, f *facts) []proxyv1alpha1.HostStatus {
	var list []proxyv1alpha1.HostStatus
	for _, e := range obj.Reported().Hosts {
		if e.Host != f.host && e.State == proxyv1alpha1.HostFailed && e.UID == obj.GetUID() &&
			e.Generation == obj.GetGeneration() && f.alive(e) {
			list = append(list, e)
		}
	}
	if own := ownEntry(obj, f); own != nil {
		list = append(list, *own)
	}
	slices.SortFunc(list, func(a, b proxyv1alpha1.HostStatus) int {
		if a.Host < b.Host {
			return -1
		}
		return 1
	})
	return list
}
