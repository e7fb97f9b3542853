// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Every host writes its own Lease; the list of Leases is who must have let go of a dying object before its finalizer goes.
// +kubebuilder:rbac:groups=coordination.k8s.io,resources=leases,namespace=system,verbs=get;list;create;update;delete

// HostLabel marks the Leases that are hosts, so that other Leases of the namespace are never taken for one.
const HostLabel = "proxy.rocketmq.io/host"

// AddressAnnotation is where other hosts reach this one's gRPC port, host:port; see proxy/peers.
const AddressAnnotation = "proxy.rocketmq.io/peer-address"

// ErrHostLost ends the process: the own Lease is gone or somebody else holds it. From then on a remover of finalizers does not wait for
// this host, so nothing may be started any more and everything must stop.
var ErrHostLost = errors.New("this host's Lease is gone or held by another process")

var errNoNamespace = errors.New("the operator's namespace is not known: set --namespace, or POD_NAMESPACE in a pod")

// HostOptions say who this host is. Either the pod's name and UID or HostID is set.
type HostOptions struct {
	// Client reads and writes the API server without a cache.
	Client client.Client
	// Namespace is the operator's namespace; all hosts of one operator must use the same.
	Namespace string
	// PodName and PodUID name the pod that this process runs in; Kubernetes collects the Lease with it.
	PodName string
	PodUID  types.UID
	// HostID names this host outside of a pod. It must be the only one of its name; LockDir holds a file lock that keeps a second
	// process of this machine from using it.
	HostID, LockDir string
	// LeaseDuration is the time without renewal after which others may force a finalizer off without us, RenewEvery the time
	// between renewals. Absent: 30 s and 10 s.
	LeaseDuration, RenewEvery time.Duration
	Log                       logr.Logger
}

// Host is this process among the hosts of the operator: a Lease in the operator's namespace. All methods are safe for concurrent use.
type Host struct {
	o           HostOptions
	name        string
	incarnation string
	lock        *os.File // exclusive file lock of a host without a pod; nil in a pod
	address     string   // set before Acquire

	// api serialises the writes to the own Lease: a renewal must not cross the deletion at exit.
	api  sync.Mutex
	left bool                  // guarded by api
	own  *coordinationv1.Lease // guarded by api; as last written

	mu    sync.Mutex
	lost  chan struct{} // closed once, under mu
	peers []Peer        // sorted by age; replaced as a whole
	seen  map[string]observation
}

// observation is since when a Lease has not been seen to change.
type observation struct {
	resourceVersion string
	since           time.Time
}

// Peer is a host as its Lease shows it, this one included.
type Peer struct {
	Name, Incarnation string
	Created           time.Time
	// Address is where other hosts reach its gRPC port, host:port; empty = not at all.
	Address string
	// Stale: not renewed for longer than its duration, and watched without a change for more than one interval of renewal, so that
	// a clock that differs between machines does not make a live host look dead.
	Stale bool
}

var hostIDPattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$`)

// NewHost makes the host's identity and takes the file lock of a host without a pod. It writes nothing to the API server; Acquire does.
func NewHost(o HostOptions) (*Host, error) {
	if o.Namespace == "" {
		return nil, errNoNamespace
	}
	if o.LeaseDuration == 0 {
		o.LeaseDuration = 30 * time.Second
	}
	if o.RenewEvery == 0 {
		o.RenewEvery = 10 * time.Second
	}
	h := &Host{o: o, incarnation: randomHex(8), lost: make(chan struct{}), seen: map[string]observation{}}
	if o.PodName != "" && o.PodUID != "" {
		h.name = leaseName(o.PodName, o.PodUID)
		return h, nil
	}
	if !hostIDPattern.MatchString(o.HostID) {
		return nil, fmt.Errorf("host id %q: outside of a pod a host needs an id of 1 to 63 lower case letters, digits, '-' and '.'", o.HostID)
	}
	h.name = o.HostID
	lock, err := lockFile(o.LockDir, o.Namespace+"_"+o.HostID)
	h.lock = lock
	return h, err
}

// leaseName joins the pod's name, for people, and its UID, so that a new pod of the same name is another host.
func leaseName(pod string, uid types.UID) string {
	const longest = 253
	if room := longest - len(uid) - 1; len(pod) > room {
		pod = strings.TrimRight(pod[:room], "-.")
	}
	return pod + "." + string(uid)
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: crypto/rand ends the process instead
	return hex.EncodeToString(b)
}

// lockFile holds an exclusive lock for as long as the file is open; the kernel drops it with the process, however that ends.
func lockFile(dir, name string) (*os.File, error) {
	if dir == "" {
		dir = os.TempDir()
	}
	path := filepath.Join(dir, "rocketmq-proxy-"+name+".lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock file of the host id: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: another process on this machine uses the host id, choose another one: %w", path, err), f.Close())
	}
	return f, nil
}

// Name is the host's name: the name of its Lease, and its key in status.hosts.
func (h *Host) Name() string { return h.name }

// Incarnation is this process: the holder of the Lease.
func (h *Host) Incarnation() string { return h.incarnation }

// Lost is closed when the Lease was seen missing or held by another.
func (h *Host) Lost() <-chan struct{} { return h.lost }

// SetAddress says where other hosts reach this one; before Acquire, which publishes it.
func (h *Host) SetAddress(address string) { h.address = address }

// Acquire creates the Lease or takes it over, and tries again until it has it or ctx ends. It comes before everything else that a host
// does: a remover of finalizers waits only for hosts that have a Lease.
func (h *Host) Acquire(ctx context.Context) error {
	for {
		err := h.acquireOnce(ctx)
		if err == nil {
			_, err = h.List(ctx)
		}
		if err == nil || apierrors.IsForbidden(err) {
			return err
		}
		h.o.Log.Info("cannot take the host's Lease yet, trying again", "host", h.name, "reason", err.Error())
		select {
		case <-ctx.Done():
			return fmt.Errorf("take the host's Lease %s/%s: %w", h.o.Namespace, h.name, errors.Join(err, ctx.Err()))
		case <-time.After(min(h.o.RenewEvery, time.Second)):
		}
	}
}

func (h *Host) acquireOnce(ctx context.Context) error {
	h.api.Lock()
	defer h.api.Unlock()
	lease := h.newLease()
	err := h.o.Client.Create(ctx, lease)
	if apierrors.IsAlreadyExists(err) {
		lease, err = h.takeOver(ctx)
	}
	if err != nil {
		return err
	}
	h.own = lease
	h.o.Log.Info("this host has its Lease", "host", h.name, "incarnation", h.incarnation)
	return nil
}

// takeOver replaces the holder with the resourceVersion that was read, so that of two processes only one succeeds. Who held it before is
// dead: the container of a pod was restarted, or the file lock was free.
func (h *Host) takeOver(ctx context.Context) (*coordinationv1.Lease, error) {
	var old coordinationv1.Lease
	if err := h.o.Client.Get(ctx, h.key(), &old); err != nil {
		return nil, err
	}
	fresh := h.newLease()
	old.Labels, old.Annotations, old.OwnerReferences, old.Spec = fresh.Labels, fresh.Annotations, fresh.OwnerReferences, fresh.Spec
	return &old, h.o.Client.Update(ctx, &old)
}

func (h *Host) key() client.ObjectKey {
	return client.ObjectKey{Namespace: h.o.Namespace, Name: h.name}
}

func (h *Host) newLease() *coordinationv1.Lease {
	now, duration := metav1.NowMicro(), int32(h.o.LeaseDuration.Round(time.Second)/time.Second)
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: h.o.Namespace, Name: h.name,
			Labels: map[string]string{HostLabel: "true"},
		},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &h.incarnation, LeaseDurationSeconds: &duration, AcquireTime: &now, RenewTime: &now,
		},
	}
	if h.address != "" {
		lease.Annotations = map[string]string{AddressAnnotation: h.address}
	}
	if h.lock == nil {
		lease.OwnerReferences = []metav1.OwnerReference{{
			APIVersion: corev1.SchemeGroupVersion.String(), Kind: "Pod", Name: h.o.PodName, UID: h.o.PodUID,
		}}
	}
	return lease
}

// Renew writes the Lease's time once. ErrHostLost is final; any other error means that the API server cannot be reached or refuses, which
// stops nothing: the proxy lives on without it.
func (h *Host) Renew(ctx context.Context) error {
	h.api.Lock()
	defer h.api.Unlock()
	if h.left {
		return nil
	}
	lease := h.own.DeepCopy()
	now := metav1.NowMicro()
	lease.Spec.RenewTime = &now
	err := h.o.Client.Update(ctx, lease)
	switch {
	case err == nil:
		h.own = lease
		return nil
	case apierrors.IsNotFound(err):
		return h.lose("the Lease is missing")
	case apierrors.IsConflict(err):
		if lease, err = h.refresh(ctx); err == nil {
			h.own = lease
			err = errors.New("the Lease was changed by somebody else, the next renewal will do")
		}
		return err
	default:
		return fmt.Errorf("renew the host's Lease: %w", err)
	}
}

// refresh reads the Lease after a conflict: somebody touched it (a label, say), or somebody took it.
func (h *Host) refresh(ctx context.Context) (*coordinationv1.Lease, error) {
	var lease coordinationv1.Lease
	err := h.o.Client.Get(ctx, h.key(), &lease)
	switch {
	case apierrors.IsNotFound(err):
		return nil, h.lose("the Lease is missing")
	case err != nil:
		return nil, fmt.Errorf("read the host's Lease: %w", err)
	case lease.UID != h.own.UID:
		return nil, h.lose("the Lease was deleted and made anew")
	case holder(&lease) != h.incarnation:
		return nil, h.lose("the Lease is held by " + holder(&lease))
	}
	return &lease, nil
}

func holder(l *coordinationv1.Lease) string {
	if l.Spec.HolderIdentity == nil {
		return ""
	}
	return *l.Spec.HolderIdentity
}

func (h *Host) lose(why string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.lost:
	default:
		close(h.lost)
	}
	return fmt.Errorf("%w: %s/%s: %s", ErrHostLost, h.o.Namespace, h.name, why)
}

// Run renews the Lease and looks at the other hosts until ctx ends (nil) or the Lease is lost (ErrHostLost). changed is called, from this
// goroutine, after the set of live hosts has changed.
func (h *Host) Run(ctx context.Context, changed func()) error {
	tick := time.NewTicker(h.o.RenewEvery)
	defer tick.Stop()
	told := h.Peers()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.lost:
			return ErrHostLost
		case <-tick.C:
		}
		if err := h.beat(ctx); errors.Is(err, ErrHostLost) {
			return err
		}
		// Compared with what was told, not with before the beat: a pass may have read the Leases since then.
		if now := h.Peers(); !slices.Equal(told, now) {
			told = now
			changed()
		}
	}
}

func (h *Host) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, h.o.RenewEvery)
	defer cancel()
	if err := h.Renew(ctx); err != nil {
		if !errors.Is(err, ErrHostLost) && ctx.Err() == nil {
			h.o.Log.Info("the host's Lease was not renewed, trying again", "reason", err.Error())
		}
		return err
	}
	_, err := h.List(ctx)
	return err
}

// List reads the Leases of all hosts, uncached, and remembers them for Peers.
func (h *Host) List(ctx context.Context) ([]Peer, error) {
	var leases coordinationv1.LeaseList
	if err := h.o.Client.List(ctx, &leases, client.InNamespace(h.o.Namespace), client.MatchingLabels{HostLabel: "true"}); err != nil {
		return nil, fmt.Errorf("list the hosts' Leases: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	peers, seen := make([]Peer, 0, len(leases.Items)), make(map[string]observation, len(leases.Items))
	for i := range leases.Items {
		l := &leases.Items[i]
		seen[l.Name] = h.observe(l)
		peers = append(peers, Peer{
			Name: l.Name, Incarnation: holder(l), Created: l.CreationTimestamp.Time, Address: l.Annotations[AddressAnnotation],
			Stale: l.Name != h.name && h.stale(l, seen[l.Name]),
		})
	}
	slices.SortFunc(peers, func(a, b Peer) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	h.peers, h.seen = peers, seen
	return slices.Clone(peers), nil
}

// observe is called with mu held.
func (h *Host) observe(l *coordinationv1.Lease) observation {
	if old, found := h.seen[l.Name]; found && old.resourceVersion == l.ResourceVersion {
		return old
	}
	return observation{resourceVersion: l.ResourceVersion, since: time.Now()}
}

func (h *Host) stale(l *coordinationv1.Lease, o observation) bool {
	duration := h.o.LeaseDuration
	if l.Spec.LeaseDurationSeconds != nil {
		duration = time.Duration(*l.Spec.LeaseDurationSeconds) * time.Second
	}
	unrenewed := l.Spec.RenewTime == nil || time.Since(l.Spec.RenewTime.Time) > duration
	return unrenewed && time.Since(o.since) > h.o.RenewEvery+h.o.RenewEvery/5
}

// Peers are the hosts as the last List saw them, the oldest first. The slice is the caller's.
func (h *Host) Peers() []Peer {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.peers)
}

// Leave deletes the own Lease, and nobody else's: with the UID and resourceVersion that this process wrote. It comes last, when no client
// runs any more. Afterwards Renew does nothing. It also gives up the file lock.
func (h *Host) Leave(ctx context.Context) error {
	h.api.Lock()
	defer h.api.Unlock()
	if h.left {
		return nil
	}
	if err := h.deleteOwn(ctx); err != nil {
		return fmt.Errorf("delete the host's Lease %s/%s: %w", h.o.Namespace, h.name, err)
	}
	h.left = true
	if h.lock != nil {
		return h.lock.Close()
	}
	return nil
}

// deleteOwn is called with api held. A Lease that is gone or belongs to somebody else by now is as good as deleted.
func (h *Host) deleteOwn(ctx context.Context) error {
	for h.own != nil {
		err := h.o.Client.Delete(ctx, h.own, client.Preconditions{UID: &h.own.UID, ResourceVersion: &h.own.ResourceVersion})
		if !apierrors.IsConflict(err) {
			return client.IgnoreNotFound(err)
		}
		current, err := h.refresh(ctx)
		if errors.Is(err, ErrHostLost) {
			return nil
		}
		if err != nil {
			return err
		}
		h.own = current
	}
	return nil
}
