// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// KeyTrouble says in a word what is wrong with the keys' Secret; it is a label of a metric and the reason of Events.
type KeyTrouble string

// The troubles. While one lasts, a host that runs goes on with the keys that it has.
const (
	KeysMissing    KeyTrouble = "AckKeysMissing"    // the Secret was deleted; it was made anew
	KeysDamaged    KeyTrouble = "AckKeysDamaged"    // its content makes no sense; it was put right, where this host has keys
	KeysForbidden  KeyTrouble = "AckKeysForbidden"  // a right is missing
	KeysUnreadable KeyTrouble = "AckKeysUnreadable" // the API server gives no answer
)

// KeyObserver counts for metrics. It must not block.
type KeyObserver interface {
	// KeysRead: the keys were read at t and are good.
	KeysRead(t time.Time)
	// KeysTroubled: a look at the Secret met trouble.
	KeysTroubled(KeyTrouble)
}

// keyError is trouble with the keys' Secret. Its text has no part of a key.
type keyError struct {
	trouble KeyTrouble
	err     error
}

func (e *keyError) Error() string { return e.err.Error() }
func (e *keyError) Unwrap() error { return e.err }

// failed explains an answer of the API server to a verb on the Secret. Somebody else's faster write is passed on as it is.
func (k *Keys) failed(verb string, err error) error {
	switch {
	case outrun(err):
		return err
	case apierrors.IsNotFound(err): // between read and write; made anew by the next look
		return &keyError{KeysMissing, fmt.Errorf("the Secret %s was deleted just now: %w", k.key(), err)}
	case apierrors.IsForbidden(err):
		return &keyError{KeysForbidden, fmt.Errorf("the operator may not %s the Secret %s, which has the keys of ack tokens; config/rbac has the right, apply it: %w",
			verb, k.key(), err)}
	default:
		return &keyError{KeysUnreadable, fmt.Errorf("%s the Secret %s with the keys of ack tokens: %w", verb, k.key(), err)}
	}
}

// report counts trouble, and tells of it once: a log line, and an Event where the API server can be reached at all.
func (k *Keys) report(err error) {
	if err == nil {
		if k.trouble != "" {
			k.o.Log.Info("the Secret with the keys of ack tokens is well again")
			k.event(corev1.EventTypeNormal, "AckKeysGood", "hosts share the keys of ack tokens again")
		}
		k.trouble = ""
		return
	}
	trouble := KeysUnreadable
	var known *keyError
	if errors.As(err, &known) {
		trouble = known.trouble
	}
	k.o.Observer.KeysTroubled(trouble)
	if trouble == k.trouble {
		return
	}
	k.trouble = trouble
	going := "this host has no keys yet and does not serve"
	if k.sealer != nil {
		going = "this host goes on with the keys that it has"
	}
	k.o.Log.Info("trouble with the keys of ack tokens", "trouble", trouble, "reason", err.Error(), "effect", going)
	k.event(corev1.EventTypeWarning, string(trouble), tidy(err.Error()+"; "+going))
}

func (k *Keys) event(kind, reason, note string) {
	if k.o.Events == nil {
		return
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: k.o.Namespace, Name: KeysSecret}}
	k.o.Events.Eventf(secret, nil, kind, reason, "ShareAckKeys", "%s", note)
}
