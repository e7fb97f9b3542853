// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
)

// The keys of ack tokens are in one Secret, read by name. RBAC cannot limit create by name; get comes with the right to read the Secrets that
// objects name.
// +kubebuilder:rbac:groups="",resources=secrets,namespace=system,verbs=create
// +kubebuilder:rbac:groups="",resources=secrets,namespace=system,resourceNames=rocketmq-proxy-ack-keys,verbs=get;update

const (
	// KeysSecret is the Secret's name, in the operator's namespace.
	KeysSecret = "rocketmq-proxy-ack-keys"
	// keysType and keysEntry are its type and its only entry.
	keysType  = corev1.SecretType("proxy.rocketmq.io/ack-keys")
	keysEntry = "keys.json"

	// DefaultKeyRotation is the age at which a key is replaced, MinKeyRotation the least that may be asked for.
	DefaultKeyRotation = 30 * 24 * time.Hour
	MinKeyRotation     = time.Hour

	keysInterval = 60 * time.Second
	// leadIntervals is how many intervals of reading pass between a key's publication and its use, so that a host may miss two reads.
	leadIntervals = 3
	// keysTimeout bounds one look at the Secret, keysPause is the least time between two, keysPatience how long a starting host tries.
	keysTimeout  = 10 * time.Second
	keysPause    = 2 * time.Second
	keysPatience = 30 * time.Second
	// keysTries bounds the writes of one look when other hosts write too.
	keysTries = 5
)

// KeyOptions are what Keys are made of. Client, Namespace and Observer must be set.
type KeyOptions struct {
	// Client reads and writes the API server without a cache: a cached read would list and watch Secrets.
	Client client.Client
	// Namespace is the operator's.
	Namespace string
	// RotateEvery is the age at which the current key is replaced; 0 = never.
	RotateEvery time.Duration
	// Interval is the time between two reads. Absent: a minute.
	Interval time.Duration
	// Events of trouble and of its end go to the Secret. nil: none are written.
	Events   events.EventRecorder
	Observer KeyObserver
	Log      logr.Logger
	// Now is the clock, absent: time.Now.
	Now func() time.Time
}

// Keys keep the keys of ack tokens the same on all hosts, so that each can open what any has sealed. The first host makes the Secret; all read it
// again and again, and any of them does the steps of a rotation (see keyring), each a compare-and-set. Load comes first, then Start; they
// are not for concurrent use. The Sealer is.
type Keys struct {
	o      KeyOptions
	sealer *delivery.Sealer // nil before the first good read
	asked  chan struct{}    // a token named a key that is not known

	ring keyring // as last read or written
	// nextID is the next key and nextSince when this process first saw it.
	nextID    delivery.KeyID
	nextSince time.Time
	trouble   KeyTrouble // that was reported last, empty = none
	lastLook  time.Time
}

// String hides the keys, so that a %v in a log line cannot leak them.
func (k *Keys) String() string { return "ack keys of " + k.key().String() }

// GoString hides the keys from %#v.
func (k *Keys) GoString() string { return k.String() }

// NewKeys checks the options; nothing is read yet.
func NewKeys(o KeyOptions) (*Keys, error) {
	if o.Namespace == "" {
		return nil, errNoNamespace
	}
	if o.Client == nil || o.Observer == nil {
		return nil, errors.New("ack keys: Client and Observer must be set")
	}
	if o.RotateEvery != 0 && o.RotateEvery < MinKeyRotation {
		return nil, fmt.Errorf("ack keys: a key cannot be replaced every %s, at least every %s; 0 = never", o.RotateEvery, MinKeyRotation)
	}
	if o.Interval == 0 {
		o.Interval = keysInterval
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Keys{o: o, asked: make(chan struct{}, 1)}, nil
}

// Load gets the keys, making the Secret when there is none, and answers the Sealer that has them. It tries again for half a minute; a missing
// right is final and the error names it. A host must not serve without keys: nobody else could read its tokens.
func (k *Keys) Load(ctx context.Context) (*delivery.Sealer, error) {
	ctx, cancel := context.WithTimeout(ctx, keysPatience)
	defer cancel()
	for {
		err := k.look(ctx)
		switch {
		case k.sealer != nil:
			return k.sealer, nil
		case apierrors.IsForbidden(err) || errors.Is(err, errNewerKeyring):
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("this host got no keys for ack tokens within %s and does not serve without: %w", keysPatience, err)
		case <-time.After(time.Second):
		}
	}
}

// Start reads the keys again at each interval, and soon after a token named an unknown one, until ctx ends. Whatever goes wrong, the keys at hand
// stay good. With NeedLeaderElection it makes Keys a manager's Runnable.
func (k *Keys) Start(ctx context.Context) error {
	tick := time.NewTicker(k.o.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-k.asked:
			// Tokens are the callers' to make up: they must not drive the API server.
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(keysPause - time.Since(k.lastLook)):
			}
		}
		if err := k.look(ctx); err != nil && ctx.Err() == nil {
			k.o.Log.V(1).Info("looking after the ack keys failed, trying again", "reason", err.Error())
		}
	}
}

// NeedLeaderElection is false: every host needs the keys.
func (k *Keys) NeedLeaderElection() bool { return false }

// ask wants the keys read soon; it never blocks.
func (k *Keys) ask() {
	select {
	case k.asked <- struct{}{}:
	default:
	}
}

// look reads the Secret once and does what is due. An error is also counted and, when it is new, logged and made an Event.
func (k *Keys) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, keysTimeout)
	defer cancel()
	k.lastLook = time.Now()
	var err error
	for range keysTries {
		if err = k.tend(ctx); !outrun(err) {
			k.report(err)
			return err
		}
	}
	return err // the others are at work; the next look sees what they did
}

// outrun: another host was faster.
func outrun(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }

func (k *Keys) rotation() rotation {
	return rotation{every: k.o.RotateEvery, lead: leadIntervals * k.o.Interval}
}

func (k *Keys) nextKnown() time.Duration { return k.o.Now().Sub(k.nextSince) }

func (k *Keys) key() client.ObjectKey {
	return client.ObjectKey{Namespace: k.o.Namespace, Name: KeysSecret}
}
