// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

// expected is an object that wants a client which this host cannot run, or not yet.
type expected struct {
	key             Key
	reason, message string
}

// Expect states that an object is there and wants a client which cannot be described yet, and why (its Secret is missing, the driver is not known), or
// which another host runs: a Use of its name is answered by a *NotReadyError with that reason rather than by "does not exist". Nothing else follows from
// it: there is no entry. It is repeated on every pass, ends with Acquire or Release of the key, and never blocks.
func (r *Registry) Expect(key Key, namespace, name, reason, message string) {
	r.state.mu.Lock()
	defer r.state.mu.Unlock()
	r.state.unexpect(key)
	if r.state.gateClosed {
		return
	}
	of := objectName{key.Kind, namespace, name}
	r.state.expected[of] = expected{key, reason, message}
	r.state.expectedNames[key] = of
}

// unexpect takes an Expect back.
func (s *lockedState) unexpect(key Key) {
	of, found := s.expectedNames[key]
	if !found {
		return
	}
	delete(s.expectedNames, key)
	if s.expected[of].key == key { // another UID may have the name by now
		delete(s.expected, of)
	}
}

// absent answers a Use of a name without an entry.
func (s *lockedState) absent(of objectName) error {
	if e, found := s.expected[of]; found {
		return &NotReadyError{Kind: of.kind, Namespace: of.namespace, Name: of.name, State: Starting, Reason: e.reason, Message: e.message}
	}
	return &NotFoundError{Kind: of.kind, Namespace: of.namespace, Name: of.name}
}
