// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
)

// fakeAPI is as much of an API server as the host protocol rests on: resourceVersions, UIDs, finalizers, deletion, preconditions, and server-side
// apply of status with one owner per item of status.hosts. It keeps every version of an object, for caches that lag. TestTheFakeAPIBehavesLikeTheRealOne
// compares it with the real one.
type fakeAPI struct {
	mu      sync.Mutex
	version int64
	uids    int
	objects map[string]*proxyv1alpha1.Producer
	history map[string][]*proxyv1alpha1.Producer // nil = gone
	owners  map[types.UID]map[string]string      // item of status.hosts -> field manager
	leases  map[string]*coordinationv1.Lease
}

func newFakeAPI() *fakeAPI {
	return &fakeAPI{
		objects: map[string]*proxyv1alpha1.Producer{}, history: map[string][]*proxyv1alpha1.Producer{},
		owners: map[types.UID]map[string]string{}, leases: map[string]*coordinationv1.Lease{},
	}
}

var (
	producerResource = schema.GroupResource{Group: proxyv1alpha1.GroupVersion.Group, Resource: "producers"}
	leaseResource    = schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}
)

func conflict(r schema.GroupResource, name string) error {
	return apierrors.NewConflict(r, name, fmt.Errorf("the object has been modified"))
}

func (a *fakeAPI) next() string {
	a.version++
	return strconv.FormatInt(a.version, 10)
}

func (a *fakeAPI) newUID() types.UID {
	a.uids++
	return types.UID("uid-" + strconv.Itoa(a.uids))
}

// store keeps a version of a Producer; a dying one without finalizers goes.
func (a *fakeAPI) store(p *proxyv1alpha1.Producer) *proxyv1alpha1.Producer {
	p.ResourceVersion = a.next()
	a.objects[p.Name] = p
	a.history[p.Name] = append(a.history[p.Name], p)
	if p.DeletionTimestamp != nil && len(p.Finalizers) == 0 {
		delete(a.objects, p.Name)
		delete(a.owners, p.UID)
		a.history[p.Name] = append(a.history[p.Name], nil)
	}
	return p.DeepCopy()
}

func (a *fakeAPI) get(key client.ObjectKey, into client.Object) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch o := into.(type) {
	case *proxyv1alpha1.Producer:
		if found := a.objects[key.Name]; found != nil {
			found.DeepCopyInto(o)
			return nil
		}
		return apierrors.NewNotFound(producerResource, key.Name)
	case *coordinationv1.Lease:
		if found := a.leases[key.Name]; found != nil {
			found.DeepCopyInto(o)
			return nil
		}
		return apierrors.NewNotFound(leaseResource, key.Name)
	}
	panic(fmt.Sprintf("fake API: get %T", into))
}

func (a *fakeAPI) listLeases(into *coordinationv1.LeaseList) {
	a.mu.Lock()
	defer a.mu.Unlock()
	into.Items = nil
	for _, l := range a.leases {
		into.Items = append(into.Items, *l.DeepCopy())
	}
	slices.SortFunc(into.Items, func(x, y coordinationv1.Lease) int { return x.CreationTimestamp.Compare(y.CreationTimestamp.Time) })
}

func (a *fakeAPI) create(o client.Object) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	o.SetCreationTimestamp(metav1.NewTime(time.Now()))
	switch o := o.(type) {
	case *proxyv1alpha1.Producer:
		if a.objects[o.Name] != nil {
			return apierrors.NewAlreadyExists(producerResource, o.Name)
		}
		o.UID, o.Generation, o.Status = a.newUID(), 1, proxyv1alpha1.ClientStatus{ObservedGeneration: -1}
		a.owners[o.UID] = map[string]string{}
		a.store(o.DeepCopy()).DeepCopyInto(o)
		return nil
	case *coordinationv1.Lease:
		if a.leases[o.Name] != nil {
			return apierrors.NewAlreadyExists(leaseResource, o.Name)
		}
		o.UID, o.ResourceVersion = a.newUID(), a.next()
		a.leases[o.Name] = o.DeepCopy()
		return nil
	}
	panic(fmt.Sprintf("fake API: create %T", o))
}

// update replaces a Lease.
func (a *fakeAPI) update(o client.Object) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	lease := o.(*coordinationv1.Lease)
	current := a.leases[lease.Name]
	switch {
	case current == nil:
		return apierrors.NewNotFound(leaseResource, lease.Name)
	case current.UID != lease.UID || current.ResourceVersion != lease.ResourceVersion:
		return conflict(leaseResource, lease.Name)
	}
	lease.ResourceVersion = a.next()
	a.leases[lease.Name] = lease.DeepCopy()
	return nil
}

func (a *fakeAPI) remove(o client.Object, opts ...client.DeleteOption) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	var options client.DeleteOptions
	options.ApplyOptions(opts)
	var current client.Object
	resource := producerResource
	switch o.(type) {
	case *proxyv1alpha1.Producer:
		if p := a.objects[o.GetName()]; p != nil {
			current = p
		}
	case *coordinationv1.Lease:
		resource = leaseResource
		if l := a.leases[o.GetName()]; l != nil {
			current = l
		}
	}
	if current == nil {
		return apierrors.NewNotFound(resource, o.GetName())
	}
	if pre := options.Preconditions; pre != nil {
		if pre.UID != nil && *pre.UID != current.GetUID() || pre.ResourceVersion != nil && *pre.ResourceVersion != current.GetResourceVersion() {
			return conflict(resource, o.GetName())
		}
	}
	if p, is := current.(*proxyv1alpha1.Producer); is {
		a.deleteProducer(p)
		return nil
	}
	delete(a.leases, o.GetName())
	return nil
}

func (a *fakeAPI) deleteProducer(current *proxyv1alpha1.Producer) {
	if current.DeletionTimestamp != nil {
		return
	}
	p := current.DeepCopy()
	now := metav1.NewTime(time.Now())
	p.DeletionTimestamp = &now
	a.store(p)
}

// patch takes the one kind of patch that this project sends to the main resource: finalizers, with the resourceVersion.
func (a *fakeAPI) patch(o client.Object, patch client.Patch) error {
	data, err := patch.Data(o)
	if err != nil {
		return err
	}
	var body struct {
		Metadata struct {
			Finalizers      []string `json:"finalizers"`
			ResourceVersion string   `json:"resourceVersion"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(data, &body); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	current := a.objects[o.GetName()]
	switch {
	case current == nil:
		return apierrors.NewNotFound(producerResource, o.GetName())
	case body.Metadata.ResourceVersion != "" && body.Metadata.ResourceVersion != current.ResourceVersion:
		return conflict(producerResource, o.GetName())
	case current.DeletionTimestamp != nil && slices.ContainsFunc(body.Metadata.Finalizers, func(f string) bool { return !slices.Contains(current.Finalizers, f) }):
		return apierrors.NewInvalid(proxyv1alpha1.GroupVersion.WithKind("Producer").GroupKind(), o.GetName(), nil) // no new finalizers on a dying object
	}
	p := current.DeepCopy()
	p.Finalizers = body.Metadata.Finalizers
	a.store(p).DeepCopyInto(o.(*proxyv1alpha1.Producer))
	return nil
}

// applyStatus is server-side apply on /status, forced.
func (a *fakeAPI) applyStatus(u *unstructured.Unstructured, manager string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	current := a.objects[u.GetName()]
	if current == nil {
		return apierrors.NewNotFound(producerResource, u.GetName())
	}
	if v := u.GetResourceVersion(); v != "" && v != current.ResourceVersion {
		return conflict(producerResource, u.GetName())
	}
	var body proxyv1alpha1.Producer
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &body); err != nil {
		return err
	}
	p := current.DeepCopy()
	a.applyHostItems(p, body.Status.Hosts, manager)
	if manager == statusManager {
		hosts := p.Status.Hosts
		p.Status = body.Status
		p.Status.Hosts = hosts
	}
	stored := a.store(p)
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(stored)
	u.Object = object
	return err
}

// applyHostItems gives the items to their manager and takes away those that it had and does not name any more.
func (a *fakeAPI) applyHostItems(p *proxyv1alpha1.Producer, items []proxyv1alpha1.HostStatus, manager string) {
	owners := a.owners[p.UID]
	p.Status.Hosts = slices.DeleteFunc(p.Status.Hosts, func(h proxyv1alpha1.HostStatus) bool { return owners[h.Host] == manager })
	for _, item := range items {
		p.Status.Hosts = slices.DeleteFunc(p.Status.Hosts, func(h proxyv1alpha1.HostStatus) bool { return h.Host == item.Host })
		p.Status.Hosts = append(p.Status.Hosts, item)
		owners[item.Host] = manager
	}
}

// fakeClient is one process's client of a fakeAPI. Every call goes through call, so that a test can hold, fail, or repeat it.
type fakeClient struct {
	client.Client // what is not overridden is not used, and panics
	api           *fakeAPI
	call          func(ctx context.Context, what string, mutates bool, do func() error) error
	// view answers reads of Producers from a cache; nil = uncached.
	view func(name string) *proxyv1alpha1.Producer
}

func (c *fakeClient) Get(ctx context.Context, key client.ObjectKey, o client.Object, _ ...client.GetOption) error {
	if p, is := o.(*proxyv1alpha1.Producer); is && c.view != nil {
		seen := c.view(key.Name)
		if seen == nil {
			return apierrors.NewNotFound(producerResource, key.Name)
		}
		seen.DeepCopyInto(p)
		return nil
	}
	return c.call(ctx, fmt.Sprintf("get %T", o), false, func() error { return c.api.get(key, o) })
}

func (c *fakeClient) List(ctx context.Context, o client.ObjectList, _ ...client.ListOption) error {
	return c.call(ctx, "list leases", false, func() error {
		c.api.listLeases(o.(*coordinationv1.LeaseList))
		return nil
	})
}

func (c *fakeClient) Create(ctx context.Context, o client.Object, _ ...client.CreateOption) error {
	return c.call(ctx, fmt.Sprintf("create %T", o), true, func() error { return c.api.create(o) })
}

func (c *fakeClient) Update(ctx context.Context, o client.Object, _ ...client.UpdateOption) error {
	return c.call(ctx, fmt.Sprintf("update %T", o), true, func() error { return c.api.update(o) })
}

func (c *fakeClient) Delete(ctx context.Context, o client.Object, opts ...client.DeleteOption) error {
	return c.call(ctx, fmt.Sprintf("delete %T", o), true, func() error { return c.api.remove(o, opts...) })
}

func (c *fakeClient) Patch(ctx context.Context, o client.Object, patch client.Patch, _ ...client.PatchOption) error {
	data, err := patch.Data(o) // as it is now: the caller may change o while the request is under way
	if err != nil {
		return err
	}
	return c.call(ctx, "patch finalizers", true, func() error { return c.api.patch(o, client.RawPatch(types.MergePatchType, data)) })
}

func (c *fakeClient) Status() client.SubResourceWriter { return fakeStatus{c: c} }

type fakeStatus struct {
	client.SubResourceWriter
	c *fakeClient
}

func (s fakeStatus) Apply(ctx context.Context, config runtime.ApplyConfiguration, opts ...client.SubResourceApplyOption) error {
	var options client.SubResourceApplyOptions
	options.ApplyOpts(opts)
	u := config.(interface {
		GetName() string
		UnstructuredContent() map[string]any
		SetUnstructuredContent(map[string]any)
	})
	body := &unstructured.Unstructured{Object: runtime.DeepCopyJSON(u.UnstructuredContent())}
	err := s.c.call(ctx, "apply status by "+options.FieldManager, true, func() error { return s.c.api.applyStatus(body, options.FieldManager) })
	if err == nil {
		u.SetUnstructuredContent(body.Object)
	}
	return err
}
