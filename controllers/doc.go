// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package controllers makes every host run the clients that Producers and Consumers ask for, and proves their shutdown.
//
// START HERE. How an object becomes a client: reconciler.go (Reconcile, reconcileNormal, run, desired) -> producer_controller.go or
// consumer_controller.go (fill) -> connection.go -> registry.Acquire. What the user sees: facts.go and status.go compute it, status_writer.go
// writes it. What delete does: delete.go (reconcileDelete) -> registry.Release -> the registry wakes us when the client is closed ->
// the own report -> the finalizer. Who the hosts are: hosts.go. What they share besides: the keys of ack tokens, keyring.go (the rules) and keys.go.
//
// # The host protocol
//
// Every host reconciles every object; there is no leader. A leader that loses its lease is killed by controller-runtime without a drain, and
// the proxy must live on while the API server is away. What must happen once is a compare-and-set. The rules, with where they are kept:
//
//  1. A host is its Lease; creating it, or taking it over with its resourceVersion, comes first (Host.Acquire).
//  2. The finalizer is added in a pass of its own (addFinalizer).
//  3. The registry makes the entry first and then asks the API server whether the object is still live (confirm). The other way round, this
//     host could report "released" between look and start. Very many objects are confirmed by one list (confirm.go).
//  4. The registry's entry lives until the client's shutdown has returned; so "no entry" is the proof.
//  5. A view that says dying, gone, or another UID, releases (letGoOfOthers, reconcileDelete).
//  6. Without an entry this host reports Released with the object's UID (ensureReleased), also if it never ran the object. The UID is there
//     because a late patch by name can land on a recreated object.
//  7. The dying object is read first and the Leases after it; when every Lease's holder has released this UID, the finalizer goes with the
//     resourceVersion that was read (reconcileDelete). Leases first would miss a host that starts in between.
//  8. At exit: gate, all clients closed, last reports, own Lease deleted (Leave).
//  9. Nobody deletes another host's Lease; Kubernetes collects it with its pod.
//  10. A host whose Lease is gone or held by another stops everything and exits (Host.Run, keepLease).
//  11. Ten seconds after the drain deadline, hosts that do not renew their Lease are no longer waited for (force).
//
// protocol_test.go drives these functions through interleavings of two hosts; the accidents behind the rules are tests with names.
//
// # Status
//
// conditions and the rest are a function of the object, status.hosts and this host's own client, written under one field manager with the
// resourceVersion. status.hosts is one list item per host, each with its host's field manager. A healthy object costs one write per change
// of its spec, not one per host. Others' status writes wake nobody; a dying object is looked at every 2 s.
//
// A Consumer's status has two more parts with managers of their own: seek (seek.go), by which it is moved once over all hosts, and whose change wakes every
// host; and lag (lag.go), which is absent for whoever keeps up.
//
// # Trade-offs
//
// Secrets are read by name, at each change of an object and at least every minute, rather than watched: a watch needs the right to list all Secrets.
// One read serves all objects that ask within 5 s of it, but never one that was changed after it (secrets.go).
// The first pass after a start trusts the cache for what it states and the API server for what it starts, so a cache that lags costs a
// read and never a client that nobody stops.
package controllers
