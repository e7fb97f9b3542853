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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	keysType  corev1.SecretType = "proxy.rocketmq.io/ack-keys"
	keysEntry                   = "keys.json"

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

// String and GoString hide the keys.
func (k *Keys) String() string   { return "ack keys of " + k.key().String() }
func (k *Keys) GoString() string { return k.String() }

// NewKeys checks the options; nothing is read yet.
func NewKeys(o KeyOptions) (*Keys, error) {
	if o.Client == nil || o.Namespace == "" || o.Observer == nil {
		return nil, errors.New("ack keys: Client, Namespace and Observer must be set")
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

func (k *Keys) rotation() rotation {
	return rotation{every: k.o.RotateEvery, lead: leadIntervals * k.o.Interval}
}

func (k *Keys) nextKnown() time.Duration { return k.o.Now().Sub(k.nextSince) }

func (k *Keys) key() client.ObjectKey {
	return client.ObjectKey{Namespace: k.o.Namespace, Name: KeysSecret}
}
