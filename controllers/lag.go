// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"hash/fnv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/util/flowcontrol"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// lagWriter keeps status.lag, which is coarse so that it costs little: an object for which little waits has none and is never written, and one for which much
// does is written when that has become ten times as much or a tenth, or much older, at most once a minute. It remembers nothing: what is in status decides.
// Safe for concurrent use.
type lagWriter struct {
	client client.Client // reads from the cache
	host   *Host
	names  *tracker
	budget flowcontrol.PassiveRateLimiter
	now    func() time.Time
}

const (
	// lagManager is the field manager of status.lag, which all hosts share.
	lagManager = "rocketmq-proxy-lag"
	// lagInterval is the least time between two writes for an object.
	lagInterval = time.Minute
	// lagPerSecond and lagBurst bound the writes of a host for all objects: when everything falls behind at once, status follows within minutes.
	lagPerSecond, lagBurst = 2, 20
	// muchWaits and waitsLong are from when on there is something to tell.
	muchWaits = 1000
	waitsLong = 5 * time.Minute
)

func newLagWriter(mgr ctrl.Manager, o Options, names *tracker) *lagWriter {
	return &lagWriter{
		client: mgr.GetClient(), host: o.Host, names: names, now: time.Now, budget: flowcontrol.NewTokenBucketPassiveRateLimiter(lagPerSecond, lagBurst),
	}
}

// lagSize is how much waits, in steps of ten times, and how long, in steps of minutes, hours and days; both 0 = little.
type lagSize struct{ messages, age int }

func sizeOf(waiting int64, age time.Duration) (s lagSize) {
	for n := waiting; n >= muchWaits; n /= 10 {
		s.messages++
	}
	for _, step := range []time.Duration{waitsLong, time.Hour, 24 * time.Hour} {
		if age >= step {
			s.age++
		}
	}
	return s
}

// less: it has become less for good, and not only crossed a step a little.
func (s lagSize) less(old lagSize, waiting int64, age time.Duration) bool {
	doubled := sizeOf(2*waiting, 2*age)
	return s.messages < old.messages && doubled.messages < old.messages || s.age < old.age && doubled.age < old.age
}

// Lag takes what waits for a Consumer, and writes it to status when that says something new.
func (w *lagWriter) note(ctx context.Context, e registry.EntryInfo, lags []driver.Lag) {
	c := &proxyv1alpha1.Consumer{}
	if err := w.client.Get(ctx, client.ObjectKey{Namespace: e.Namespace, Name: e.Name}, c); err != nil || string(c.UID) != e.UID || !c.DeletionTimestamp.IsZero() {
		return // gone, or on its way
	}
	next, write := w.next(c.Status.Lag, lags)
	if !write || !w.budget.TryAccept() {
		return
	}
	if err := w.apply(ctx, c, next); err != nil && !apierrors.IsConflict(err) && ctx.Err() == nil {
		log.FromContext(ctx).V(1).Info("status.lag could not be written, the next answer is", "namespace", e.Namespace, "name", e.Name, "reason", err.Error())
	}
}

// next is what status should say, nil = nothing, and whether it has to be written.
func (w *lagWriter) next(old *proxyv1alpha1.LagStatus, lags []driver.Lag) (next *proxyv1alpha1.LagStatus, write bool) {
	var all driver.Lag
	for _, l := range lags {
		all.Add(l.Waiting, l.Oldest)
	}
	now, age := w.now(), time.Duration(0)
	if !all.Oldest.IsZero() {
		age = max(0, now.Sub(all.Oldest))
	}
	size, was := sizeOf(all.Waiting, age), lagSize{}
	if old != nil {
		was = sizeOf(old.Waiting, time.Duration(old.OldestAgeSeconds)*time.Second)
		if now.Sub(old.At.Time) < lagInterval {
			return old, false
		}
	}
	more := size.messages > was.messages || size.age > was.age
	if !more && !size.less(was, all.Waiting, age) {
		return old, false
	}
	if size == (lagSize{}) {
		return nil, true
	}
	return &proxyv1alpha1.LagStatus{Waiting: all.Waiting, OldestAgeSeconds: int64(age / time.Second), At: metav1.Time{Time: now}}, true
}

// apply writes status.lag of c as it was read, or takes it away.
func (w *lagWriter) apply(ctx context.Context, c *proxyv1alpha1.Consumer, lag *proxyv1alpha1.LagStatus) error {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	if lag != nil {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(lag)
		if err != nil {
			return err
		}
		u.Object["status"] = map[string]any{"lag": content}
	}
	u.SetGroupVersionKind(proxyv1alpha1.GroupVersion.WithKind(string(registry.Consumer)))
	u.SetNamespace(c.Namespace)
	u.SetName(c.Name)
	u.SetResourceVersion(c.ResourceVersion)
	return w.client.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(lagManager), client.ForceOwnership)
}

// NoteLag takes what waits for a Consumer of this host, for its status.
func (c *Controllers) NoteLag(ctx context.Context, e registry.EntryInfo, lags []driver.Lag) {
	c.lags.note(ctx, e, lags)
}

// AsksFor reports whether this host is the one that asks RocketMQ what waits for a Consumer: of the live hosts the one that a hash of both names chooses, so
// that hosts share the questions and each Consumer has one. A Consumer of a driver that serves it on one host only has its client there and nowhere else.
func (c *Controllers) AsksFor(e registry.EntryInfo, singleHost bool) bool {
	if singleHost {
		return true
	}
	own := c.options.Host.Name()
	best, most := own, weight(own, e.UID)
	for _, p := range c.options.Host.Peers() {
		if w := weight(p.Name, e.UID); !p.Stale && (w > most || w == most && p.Name > best) {
			best, most = p.Name, w
		}
	}
	return best == own
}

func weight(host, uid string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(host + "\x00" + uid)) // a hash cannot fail to take bytes
	return h.Sum64()
}
