// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// keyHost is a host as far as its keys go, with a clock of its own.
type keyHost struct {
	*Keys
	t        *testing.T
	now      time.Time
	log      *keptLog
	events   *keptEvents
	observer *keyCounter
}

func newKeyHost(t *testing.T, namespace string, change ...func(*KeyOptions)) *keyHost {
	t.Helper()
	h := &keyHost{t: t, now: keysNow, log: &keptLog{}, events: &keptEvents{}, observer: &keyCounter{}}
	o := KeyOptions{
		Client: direct, Namespace: namespace, RotateEvery: DefaultKeyRotation, Events: h.events, Observer: h.observer,
		Log: h.log.logger(), Now: func() time.Time { return h.now },
	}
	for _, f := range change {
		f(&o)
	}
	var err error
	h.Keys, err = NewKeys(o)
	must(t, err)
	t.Cleanup(h.neverShown)
	return h
}

// started is a host that has its keys.
func started(t *testing.T, namespace string, change ...func(*KeyOptions)) *keyHost {
	t.Helper()
	h := newKeyHost(t, namespace, change...)
	_, err := h.Load(t.Context())
	must(t, err)
	return h
}

// later is one look after d.
func (h *keyHost) later(d time.Duration) {
	h.t.Helper()
	h.now = h.now.Add(d)
	must(h.t, h.look(h.t.Context()))
}

// neverShown: whatever happened, neither log nor Events have a key.
func (h *keyHost) neverShown() {
	said := h.log.text() + strings.Join(h.events.all(), "\n")
	for i := range h.ring.keys {
		if key := h.ring.keys[i].key; strings.Contains(said, base64.StdEncoding.EncodeToString(key[:])[:16]) || strings.Contains(said, fmt.Sprintf("%x", key[:8])) {
			h.t.Errorf("a key was shown in:\n%s", said)
		}
	}
}

func secretOf(t *testing.T, namespace string) *corev1.Secret {
	t.Helper()
	var s corev1.Secret
	must(t, direct.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: KeysSecret}, &s))
	return &s
}

func ringIn(t *testing.T, namespace string) keyring {
	t.Helper()
	ring, err := decodeKeyring(secretOf(t, namespace).Data[keysEntry])
	must(t, err)
	return ring
}

// wantStates checks the Secret, and that all hosts have what is in it and seal with its current key.
func wantStates(t *testing.T, what, namespace, states string, hosts ...*keyHost) {
	t.Helper()
	ring := ringIn(t, namespace)
	if got := ring.states(); got != states {
		t.Errorf("%s: the Secret has %q, want %q", what, got, states)
	}
	for i, h := range hosts {
		if h.ring.states() != ring.states() || h.ring.current().key != ring.current().key {
			t.Errorf("%s: host %d has %q", what, i, h.ring.states())
		}
	}
}

func TestTheFirstHostMakesTheKeysAndOthersReadThem(t *testing.T) {
	namespace := newNamespace(t)
	a := started(t, namespace)
	b := started(t, namespace)
	wantStates(t, "after the start", namespace, "current", a, b)
	if s := secretOf(t, namespace); s.Type != keysType || len(s.Data) != 1 {
		t.Errorf("the Secret is of type %s with %d entries", s.Type, len(s.Data))
	}
	version := secretOf(t, namespace).ResourceVersion
	a.later(time.Minute)
	b.later(time.Minute)
	if now := secretOf(t, namespace).ResourceVersion; now != version {
		t.Error("looks at keys that are well have written the Secret")
	}
	if said := a.events.all(); len(said) > 0 {
		t.Errorf("Events without a reason: %q", said)
	}
}

func TestHostsThatStartAtOnceShareOneKey(t *testing.T) {
	namespace := newNamespace(t)
	var hosts []*keyHost
	for range 8 {
		hosts = append(hosts, newKeyHost(t, namespace))
	}
	var wg sync.WaitGroup
	for _, h := range hosts {
		wg.Go(func() {
			if _, err := h.Load(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wantStates(t, "after the start", namespace, "current", hosts...)
}

// A whole rotation: at each moment every host opens what any host seals.
func TestARotationHasNoGap(t *testing.T) {
	namespace := newNamespace(t)
	a, b := started(t, namespace), started(t, namespace)
	hosts := []*keyHost{a, b}
	first := a.ring.current().key
	accepts := func(what string) {
		t.Helper()
		for i, from := range hosts {
			for j, to := range hosts {
				if !to.ring.has(from.ring.current().key.ID()) {
					t.Errorf("%s: host %d does not know the key that host %d seals with", what, j, i)
				}
			}
		}
	}
	for _, h := range hosts {
		h.now = h.now.Add(DefaultKeyRotation)
	}
	a.later(0)
	accepts("published")
	wantStates(t, "published by a", namespace, "current next", a)
	for minute := range 3 { // b reads late, in the last minute
		if minute == 2 {
			b.later(3 * time.Minute)
		}
		wantStates(t, fmt.Sprint("minute ", minute), namespace, "current next", a)
		a.later(time.Minute)
		accepts(fmt.Sprint("minute ", minute))
	}
	wantStates(t, "promoted by a", namespace, "old current", a)
	if b.ring.current().key != first {
		t.Error("b seals with the new key before it has read the Secret")
	}
	b.later(time.Minute)
	wantStates(t, "read by b", namespace, "old current", a, b)
	for _, h := range hosts {
		h.now = keysNow.Add(DefaultKeyRotation + 12*time.Hour)
		h.later(0)
		if !h.ring.has(first.ID()) {
			t.Error("the old key was dropped while a token of it can live")
		}
	}
	b.later(10 * time.Minute)
	a.later(10 * time.Minute)
	wantStates(t, "dropped by b", namespace, "current", a, b)
}

// A host whose clock is a day ahead does not promote a key before others could read it.
func TestAWrongClockDoesNotPromoteEarly(t *testing.T) {
	namespace := newNamespace(t)
	a, fast := started(t, namespace), started(t, namespace)
	a.later(DefaultKeyRotation)
	fast.later(DefaultKeyRotation + 24*time.Hour)
	fast.later(2 * time.Minute)
	wantStates(t, "two minutes after it was seen", namespace, "current next", fast)
	fast.later(time.Minute)
	wantStates(t, "three minutes after it was seen", namespace, "old current", fast)
}

func TestHostsThatRotateAtOnceDoEachStepOnce(t *testing.T) {
	namespace := newNamespace(t)
	hosts := []*keyHost{started(t, namespace), started(t, namespace), started(t, namespace)}
	all := func(d time.Duration) {
		var wg sync.WaitGroup
		for _, h := range hosts {
			h.now = h.now.Add(d)
			wg.Go(func() {
				if err := h.look(t.Context()); err != nil && !outrun(err) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, h := range hosts {
			h.later(0) // reads what the fastest wrote
		}
	}
	for i, want := range []string{"current next", "old current", "current", "current next", "old current"} {
		all([]time.Duration{DefaultKeyRotation, 3 * time.Minute, 13 * time.Hour, DefaultKeyRotation, 3 * time.Minute}[i])
		wantStates(t, fmt.Sprint("step ", i), namespace, want, hosts...)
	}
}

// beforeWrite is a client in whose way somebody else comes, once.
type beforeWrite struct {
	client.Client
	do func()
}

func (c *beforeWrite) Update(ctx context.Context, o client.Object, opts ...client.UpdateOption) error {
	if do := c.do; do != nil {
		c.do = nil
		do()
	}
	return c.Client.Update(ctx, o, opts...)
}

func TestAStepThatMeetsAnotherHostsWriteLooksAgain(t *testing.T) {
	namespace := newNamespace(t)
	slow := &beforeWrite{Client: direct}
	a, b := started(t, namespace, func(o *KeyOptions) { o.Client = slow }), started(t, namespace)
	slow.do = func() { b.later(DefaultKeyRotation) }
	a.later(DefaultKeyRotation)
	wantStates(t, "after both wanted to publish", namespace, "current next", a, b)
	if a.ring.next().key != b.ring.next().key {
		t.Error("the hosts have different next keys")
	}
	if n := a.observer.troubles(); n != 0 {
		t.Errorf("a conflict was counted as trouble %d times", n)
	}
}

func TestADeletedSecretIsMadeAnewWithTheSameKeys(t *testing.T) {
	namespace := newNamespace(t)
	a, b := started(t, namespace), started(t, namespace)
	a.later(DefaultKeyRotation)
	before := ringIn(t, namespace)
	must(t, direct.Delete(t.Context(), secretOf(t, namespace)))
	if err := a.look(t.Context()); err == nil || !strings.Contains(err.Error(), "was deleted") {
		t.Errorf("the look that made the Secret anew said %v", err)
	}
	wantStates(t, "made anew", namespace, "current next", a)
	if ringIn(t, namespace).current().key != before.current().key {
		t.Error("the key is another one")
	}
	b.later(0)
	wantStates(t, "read by the other", namespace, "current next", a, b)
	wantEvents(t, a, "Warning AckKeysMissing")
	a.later(time.Minute)
	wantEvents(t, a, "Warning AckKeysMissing", "Normal AckKeysGood")
	wantEvents(t, b)
}

// Somebody deletes the Secret, and a host that has no keys yet is the first to see it: the running ones add theirs, so that nothing that is out
// becomes useless.
func TestRunningHostsAddTheirKeysToASecretThatWasMadeAnew(t *testing.T) {
	namespace := newNamespace(t)
	a, b := started(t, namespace), started(t, namespace)
	must(t, direct.Delete(t.Context(), secretOf(t, namespace)))
	fresh := started(t, namespace)
	a.later(0)
	b.later(0)
	fresh.later(0)
	wantStates(t, "all have looked", namespace, "current old", a, b, fresh)
}

func TestADamagedSecretIsPutRightByAHostThatHasKeys(t *testing.T) {
	namespace := newNamespace(t)
	a := started(t, namespace)
	good := ringIn(t, namespace)
	s := secretOf(t, namespace)
	s.Data = map[string][]byte{keysEntry: []byte("{}")}
	must(t, direct.Update(t.Context(), s))

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	starting := newKeyHost(t, namespace)
	if _, err := starting.Load(ctx); err == nil || !strings.Contains(err.Error(), "delete it") {
		t.Errorf("a host without keys started on a damaged Secret, or does not say what to do: %v", err)
	}
	if err := a.look(t.Context()); err == nil || !strings.Contains(err.Error(), "was damaged") {
		t.Errorf("the look at a damaged Secret said %v", err)
	}
	if now := ringIn(t, namespace); now.current().key != good.current().key {
		t.Error("the Secret has other keys than before")
	}
	wantEvents(t, a, "Warning AckKeysDamaged")
	_, err := starting.Load(t.Context())
	must(t, err)
	wantStates(t, "put right", namespace, "current", a, starting)
}

func TestASecretOfALaterVersionIsLeftAlone(t *testing.T) {
	namespace := newNamespace(t)
	a := started(t, namespace)
	s := secretOf(t, namespace)
	s.Data[keysEntry] = []byte(`{"version":2}`)
	must(t, direct.Update(t.Context(), s))
	if err := a.look(t.Context()); !errors.Is(err, errNewerKeyring) {
		t.Errorf("the look said %v", err)
	}
	if now := secretOf(t, namespace); string(now.Data[keysEntry]) != `{"version":2}` {
		t.Error("the Secret was overwritten")
	}
	if _, err := newKeyHost(t, namespace).Load(t.Context()); !errors.Is(err, errNewerKeyring) {
		t.Errorf("a host started: %v", err)
	}
}

// clientWith has the rights of rules in the namespace only.
func clientWith(t *testing.T, namespace string, rules ...rbacv1.PolicyRule) client.Client {
	t.Helper()
	user := "host-of-" + namespace
	meta := metav1.ObjectMeta{Namespace: namespace, Name: "host"}
	if len(rules) > 0 {
		must(t, direct.Create(t.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: rules}))
		must(t, direct.Create(t.Context(), &rbacv1.RoleBinding{
			ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "host"},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}},
		}))
	}
	config := rest.CopyConfig(restConfig)
	config.Impersonate = rest.ImpersonationConfig{UserName: user}
	c, err := client.New(config, client.Options{Scheme: testScheme})
	must(t, err)
	return c
}

func TestAHostWithoutTheRightFailsAtOnceAndNamesIt(t *testing.T) {
	get := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{KeysSecret}, Verbs: []string{"get"}}
	for verb, rules := range map[string][]rbacv1.PolicyRule{"get": nil, "create": {get}} {
		t.Run("no right to "+verb, func(t *testing.T) {
			namespace := newNamespace(t)
			c := clientWith(t, namespace, rules...)
			eventually(t, 10*time.Second, "the role counts", func() bool {
				err := c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: KeysSecret}, &corev1.Secret{})
				return len(rules) == 0 || apierrors.IsNotFound(err)
			})
			h := newKeyHost(t, namespace, func(o *KeyOptions) { o.Client = c })
			began := time.Now()
			_, err := h.Load(t.Context())
			for _, part := range []string{"may not " + verb, namespace + "/" + KeysSecret, "config/rbac"} {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("the error is %v; it lacks %q", err, part)
				}
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it took %s to fail", took)
			}
		})
	}
}

// A host that runs and loses the right to write, or the API server, goes on with its keys.
func TestTroubleDoesNotStopAHostThatHasKeys(t *testing.T) {
	namespace := newNamespace(t)
	broken := &failing{Client: direct}
	a := started(t, namespace, func(o *KeyOptions) { o.Client = broken })
	for _, c := range []struct {
		trouble KeyTrouble
		err     error
	}{
		{KeysForbidden, apierrors.NewForbidden(corev1.Resource("secrets"), KeysSecret, errors.New("no"))},
		{KeysUnreadable, errors.New("connection refused")},
	} {
		broken.err = c.err
		if err := a.look(t.Context()); !errors.Is(err, c.err) {
			t.Errorf("%s: the look said %v", c.trouble, err)
		}
		_ = a.look(t.Context()) // the same again is no news, but counted
		if n := a.observer.count(c.trouble); n != 2 {
			t.Errorf("%s was counted %d times", c.trouble, n)
		}
		if a.ring.states() != "current" {
			t.Errorf("%s: the host has lost its key", c.trouble)
		}
	}
	broken.err = nil
	a.later(0)
	wantEvents(t, a, "Warning AckKeysForbidden", "Warning AckKeysUnreadable", "Normal AckKeysGood")
}

// Start looks by itself, and soon when a token named an unknown key, but not as fast as such tokens come.
func TestAnUnknownKeyIsReadSoonAndNotTooOften(t *testing.T) {
	namespace := newNamespace(t)
	counting := &failing{Client: direct}
	a := started(t, namespace, func(o *KeyOptions) { o.Client, o.Interval = counting, time.Hour })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Start(ctx) }()
	before, began := counting.gets(), time.Now()
	for time.Since(began) < keysPause+keysPause/2 {
		a.ask()
		time.Sleep(time.Millisecond) // callers who make tokens up, for a while
	}
	eventually(t, 10*time.Second, "the keys were read", func() bool { return counting.gets() > before })
	cancel()
	must(t, <-ended)
	if n := counting.gets() - before; n > 2 {
		t.Errorf("%d reads in %s of questions", n, time.Since(began))
	}
}

func TestKeyOptionsAreChecked(t *testing.T) {
	good := KeyOptions{Client: direct, Namespace: "n", Observer: &keyCounter{}}
	for name, change := range map[string]func(*KeyOptions){
		"no namespace": func(o *KeyOptions) { o.Namespace = "" },
		"no observer":  func(o *KeyOptions) { o.Observer = nil },
		"too fast":     func(o *KeyOptions) { o.RotateEvery = time.Minute },
		"negative":     func(o *KeyOptions) { o.RotateEvery = -time.Hour },
	} {
		o := good
		change(&o)
		if _, err := NewKeys(o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// failing answers err to everything while it is set, and counts reads.
type failing struct {
	client.Client
	mu    sync.Mutex
	err   error
	count int
}

func (c *failing) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	c.mu.Lock()
	c.count++
	err := c.err
	c.mu.Unlock()
	if err != nil {
		return err
	}
	return c.Client.Get(ctx, key, o, opts...)
}

func (c *failing) gets() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}

type keyCounter struct {
	mu    sync.Mutex
	reads int
	by    map[KeyTrouble]int
}

func (c *keyCounter) KeysRead(time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads++
}

func (c *keyCounter) KeysTroubled(trouble KeyTrouble) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = map[KeyTrouble]int{}
	}
	c.by[trouble]++
}

func (c *keyCounter) count(trouble KeyTrouble) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.by[trouble]
}

func (c *keyCounter) troubles() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.by {
		n += m
	}
	return n
}

// keptLog keeps what was logged.
type keptLog struct {
	mu    sync.Mutex
	lines strings.Builder
}

func (l *keptLog) logger() logr.Logger {
	return funcr.New(func(prefix, text string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.lines.WriteString(prefix + text + "\n")
	}, funcr.Options{Verbosity: 1})
}

func (l *keptLog) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.String()
}

// keptEvents keeps what was recorded: type, reason, note.
type keptEvents struct {
	mu   sync.Mutex
	kept []string
}

func (e *keptEvents) Eventf(_, _ runtime.Object, kind, reason, _, note string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kept = append(e.kept, kind+" "+reason+" "+fmt.Sprintf(note, args...))
}

func (e *keptEvents) all() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.kept...)
}

func wantEvents(t *testing.T, h *keyHost, want ...string) {
	t.Helper()
	got := h.events.all()
	if len(got) != len(want) {
		t.Fatalf("the Events are %q, want %q", got, want)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]+" ") {
			t.Errorf("Event %d is %q, want %q", i, got[i], want[i])
		}
	}
}
