// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
)

// tend is one try: read, take over what is good, and write at most one change.
func (k *Keys) tend(ctx context.Context) error {
	readAt := time.Now()
	var secret corev1.Secret
	err := k.o.Client.Get(ctx, k.key(), &secret)
	if apierrors.IsNotFound(err) {
		return k.create(ctx)
	}
	if err != nil {
		return k.failed("get", err)
	}
	ring, err := decodeKeyring(secret.Data[keysEntry])
	if err != nil {
		return k.repair(ctx, &secret, err)
	}
	after, inherited := ring.inherit(k.ring, k.o.Now(), k.rotation())
	if inherited {
		k.o.Log.Info("the ack keys were made anew by somebody else; adding those that this host has sealed with")
		// Not adopted before it is written: after a conflict there would be nothing left to add.
		if err := k.use(readAt, after); err != nil {
			return err
		}
		return k.update(ctx, &secret, after)
	}
	if err := k.adopt(readAt, ring); err != nil {
		return err
	}
	after, step := ring.step(k.o.Now(), k.nextKnown(), k.rotation())
	if step == "" {
		return nil
	}
	if err := k.update(ctx, &secret, after); err != nil {
		return err
	}
	k.o.Log.Info("rotated the ack keys: "+step, "keys", len(after.keys))
	return nil
}

// create makes the Secret: with the keys that this host has, so that nothing changes when somebody deleted it, or else with a first one.
func (k *Keys) create(ctx context.Context) error {
	ring, anew := k.ring, k.sealer != nil
	if !anew {
		ring = newKeyring(k.o.Now())
	}
	text, err := ring.encode()
	if err != nil {
		return err
	}
	readAt := time.Now()
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: k.o.Namespace, Name: KeysSecret, Labels: map[string]string{"app.kubernetes.io/name": "rocketmq-proxy-operator"},
		},
		Type: keysType, Data: map[string][]byte{keysEntry: text},
	}
	if err := k.o.Client.Create(ctx, secret); err != nil {
		return k.failed("create", err)
	}
	if err := k.adopt(readAt, ring); err != nil {
		return err
	}
	if anew {
		return &keyError{KeysMissing, fmt.Errorf("the Secret %s was deleted; it was made anew with the keys that this host has", k.key())}
	}
	k.o.Log.Info("made the Secret with the keys of ack tokens", "secret", k.key().String())
	return nil
}

// repair puts a damaged Secret right with the keys that this host has. One that has none leaves it to the hosts that run: what it would
// write would make their tokens useless.
func (k *Keys) repair(ctx context.Context, secret *corev1.Secret, damage error) error {
	switch {
	case errors.Is(damage, errNewerKeyring):
		return &keyError{KeysDamaged, fmt.Errorf("the Secret %s is left alone: %w", k.key(), damage)}
	case k.sealer == nil:
		return &keyError{KeysDamaged, fmt.Errorf("the Secret %s is damaged (%w); a host that runs puts it right within %s. If none runs, delete it: "+
			"it is made anew, and deliveries that are out come again", k.key(), damage, keysInterval)}
	}
	if err := k.update(ctx, secret, k.ring); err != nil {
		return err
	}
	return &keyError{KeysDamaged, fmt.Errorf("the Secret %s was damaged (%w); it was put right with the keys that this host has", k.key(), damage)}
}

// update writes the keys where resourceVersion is still the one that was read, and takes them over.
func (k *Keys) update(ctx context.Context, secret *corev1.Secret, ring keyring) error {
	text, err := ring.encode()
	if err != nil {
		return err
	}
	readAt := time.Now()
	secret.Data = map[string][]byte{keysEntry: text}
	if err := k.o.Client.Update(ctx, secret); err != nil {
		return k.failed("update", err)
	}
	return k.adopt(readAt, ring)
}

// adopt takes the keys over: they are in the Secret.
func (k *Keys) adopt(readAt time.Time, ring keyring) error {
	if err := k.use(readAt, ring); err != nil {
		return err
	}
	k.ring = ring
	if next := ring.next(); next == nil {
		k.nextID = delivery.KeyID{}
	} else if id := next.key.ID(); id != k.nextID {
		k.nextID, k.nextSince = id, k.o.Now()
	}
	k.o.Observer.KeysRead(k.o.Now())
	return nil
}

// use gives the keys to the Sealer, which the first ones make.
func (k *Keys) use(readAt time.Time, ring keyring) error {
	if k.sealer != nil {
		return k.sealer.SetKeys(readAt, ring.sealer()...)
	}
	sealer, err := delivery.NewSealer(ring.sealer()...)
	if err != nil {
		return err
	}
	sealer.ReadKeysWith(k.ask)
	k.sealer = sealer
	return nil
}
