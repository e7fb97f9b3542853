// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// clientLabel is the pprof label that names the client whose goroutine it is.
const clientLabel = "client"

// auditMemory is what one audit leaves for the next.
type auditMemory struct {
	running bool
	// strays counts by client and function the goroutines that the last audit found without an entry; reported by function those that
	// were counted as leaks already.
	strays   map[stray]int
	reported map[string]int
}

// Audit compares what runs with what should, and repairs: an entry whose object is gone is counted as a leak and released; an object
// without an entry is notified; goroutines of clients that no entry has, in two audits in a row, are counted by function.
//
// live answers every object that exists, dying ones too, from an uncached list; it is called after the registry was looked at, so that
// what it misses was really gone. It blocks as long as live does. When live fails, its error is answered and only goroutines are audited. Only
// one audit runs at a time (ErrAuditRunning).
func (r *Registry) Audit(ctx context.Context, live func(ctx context.Context) (map[Key]struct{}, error)) (AuditReport, error) {
	before, ok := r.beginAudit()
	if !ok {
		return AuditReport{}, ErrAuditRunning
	}
	var report AuditReport
	objects, err := live(ctx)
	if err != nil {
		err = fmt.Errorf("list the objects for the audit: %w", err)
	} else {
		report.EntriesWithoutObject = r.releaseLost(before, objects)
		report.ObjectsWithoutEntry = r.notifyMissing(objects)
	}
	report.Leftovers = r.opts.Opener.Leftovers()
	report.Goroutines = r.endAudit(readStrays(r.opts.Incarnation, r.opts.Opener), report.Leftovers)
	return report, err
}

// beginAudit lists the entries that an object must stand behind: all that are not on their way out.
func (r *Registry) beginAudit() ([]Key, bool) {
	r.state.mu.Lock()
	defer r.state.mu.Unlock()
	if r.state.audit.running {
		return nil, false
	}
	r.state.audit.running = true
	var keys []Key
	for key, e := range r.state.entries {
		if !e.releasing {
			keys = append(keys, key)
		}
	}
	return keys, true
}

func (r *Registry) releaseLost(before []Key, objects map[Key]struct{}) []Key {
	var lost []Key
	r.turn(func(t *turn) {
		for _, key := range before {
			e := t.entries[key]
			if _, exists := objects[key]; exists || e == nil || e.releasing {
				continue
			}
			lost = append(lost, key)
			t.release(e, "the audit found no object")
		}
		// Receipts of objects that are gone will be asked for by nobody.
		maps.DeleteFunc(t.receipts, func(key Key, _ Receipt) bool {
			_, exists := objects[key]
			return !exists
		})
	})
	for _, key := range lost {
		r.opts.Observer.LeakDetected(string(key.Kind), 1)
		r.opts.Log.Error(nil, "client without an object: releasing it", "kind", key.Kind, "uid", key.UID)
	}
	return lost
}

func (r *Registry) notifyMissing(objects map[Key]struct{}) []Key {
	var missing []Key
	r.state.mu.Lock()
	for key := range objects {
		if r.state.entries[key] == nil && !r.state.gateClosed {
			missing = append(missing, key)
		}
	}
	r.state.mu.Unlock()
	slices.SortFunc(missing, func(a, b Key) int { return strings.Compare(a.String(), b.String()) })
	for _, key := range missing {
		r.opts.Notify(key)
	}
	return missing
}

// endAudit keeps what this audit saw for the next one and answers what both saw.
func (r *Registry) endAudit(seen map[stray]int, leftovers map[string]int) map[string]int {
	r.state.mu.Lock()
	memory := &r.state.audit
	known := r.state.knownClients()
	maps.DeleteFunc(seen, func(s stray, _ int) bool {
		_, ours := known[s.client]
		return ours
	})
	leaked := map[string]int{}
	for s, n := range seen {
		if both := min(n, memory.strays[s]); both > 0 {
			leaked[s.function] += both
		}
	}
	subtractLeftovers(leaked, leftovers)
	news := 0
	for function, n := range leaked {
		news += max(n-memory.reported[function], 0)
	}
	memory.strays, memory.reported, memory.running = seen, maps.Clone(leaked), false
	r.state.mu.Unlock()
	if news > 0 {
		r.opts.Observer.LeakDetected("Goroutine", news)
		r.opts.Log.Error(nil, "goroutines of clients that were closed", "new", news, "byFunction", leaked)
	}
	return leaked
}

// knownClients lists the clients that an entry has: being opened, running, draining or closing.
func (s *lockedState) knownClients() map[string]struct{} {
	known := map[string]struct{}{}
	for _, e := range s.entries {
		if e.attempt != nil {
			known[string(e.attempt.id)] = struct{}{}
		}
		if e.live != nil {
			known[string(e.live.id)] = struct{}{}
		}
		for l := range e.closing {
			known[string(l.id)] = struct{}{}
		}
	}
	return known
}

// subtractLeftovers takes away what the drivers have said that their libraries leave behind.
func subtractLeftovers(leaked, leftovers map[string]int) {
	for _, name := range slices.Sorted(maps.Keys(leftovers)) {
		rest := leftovers[name]
		for _, function := range slices.Sorted(maps.Keys(leaked)) {
			if !strings.Contains(function, name) {
				continue
			}
			take := min(rest, leaked[function])
			rest -= take
			if leaked[function] -= take; leaked[function] == 0 {
				delete(leaked, function)
			}
		}
	}
}
