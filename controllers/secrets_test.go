// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
)

// countingSecrets is an API server that needs a second for each answer.
type countingSecrets struct {
	client.Reader
	mu    sync.Mutex
	reads map[string]int
	err   error
}

func (c *countingSecrets) Get(ctx context.Context, key client.ObjectKey, o client.Object, _ ...client.GetOption) error {
	c.mu.Lock()
	c.reads[key.Name]++
	n, err := c.reads[key.Name], c.err
	c.mu.Unlock()
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return ctx.Err()
	}
	o.(*corev1.Secret).Data = map[string][]byte{"n": fmt.Append(nil, n)}
	return err
}

func (c *countingSecrets) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

func TestASecretIsReadOnceForAllObjectsThatNameIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &countingSecrets{reads: map[string]int{}}
		secrets, began := newSharedSecrets(api), time.Now()
		read := func(name string) string {
			data, err := secrets.get(t.Context(), client.ObjectKey{Namespace: "shop", Name: name}, began)
			if err != nil {
				t.Error(err)
			}
			return string(data["n"])
		}
		var all sync.WaitGroup
		for i := range 1000 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				if got := read("acl"); got != "1" {
					t.Errorf("read %d got the answer of read %s", i, got)
				}
			})
		}
		all.Go(func() { read("other") })
		all.Wait()
		if api.reads["acl"] != 1 || api.reads["other"] != 1 {
			t.Errorf("the API server was asked %v times, want once for each Secret", api.reads)
		}
		time.Sleep(secretShared)
		if got := read("acl"); got != "2" {
			t.Errorf("after %s the old answer %s still counts", secretShared, got)
		}
		if len(secrets.reads) != 1 {
			t.Errorf("%d answers are kept, want that of the last read only", len(secrets.reads))
		}
	})
}

func TestAReaderWhoGoesAwayTakesNoAnswerFromOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &countingSecrets{reads: map[string]int{}}
		api.fail(apierrors.NewNotFound(corev1.Resource("secrets"), "acl"))
		secrets, key := newSharedSecrets(api), client.ObjectKey{Namespace: "shop", Name: "acl"}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { _, _ = secrets.get(ctx, key, time.Time{}) })
		synctest.Wait()
		all.Go(func() {
			if _, err := secrets.get(t.Context(), key, time.Time{}); !apierrors.IsNotFound(err) {
				t.Errorf("the second reader got %v, want that there is no such Secret", err)
			}
		})
		impatient, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer stop()
		all.Go(func() {
			if _, err := secrets.get(impatient, key, time.Time{}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the impatient reader got %v", err)
			}
		})
		synctest.Wait()
		cancel()
		all.Wait()
		if api.reads["acl"] != 1 {
			t.Errorf("the API server was asked %d times, want once", api.reads["acl"])
		}
	})
}

// TestWhoHeardOfAChangeGetsNoAnswerFromBefore: neither one that is kept nor one that is under way, as both may show the Secret as it was before its change.
func TestWhoHeardOfAChangeGetsNoAnswerFromBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &countingSecrets{reads: map[string]int{}}
		secrets, key := newSharedSecrets(api), client.ObjectKey{Namespace: "shop", Name: "acl"}
		read := func(since time.Time) string {
			data, err := secrets.get(t.Context(), key, since)
			if err != nil {
				t.Error(err)
			}
			return string(data["n"])
		}
		var all sync.WaitGroup
		all.Go(func() { read(time.Time{}) })
		time.Sleep(100 * time.Millisecond)
		heard := time.Now()
		for range 100 { // objects that were all changed, whose passes come one after the other
			all.Go(func() {
				if got := read(heard); got != "2" {
					t.Errorf("got the answer of read %s, want that of the first one after the change", got)
				}
			})
			time.Sleep(time.Millisecond)
		}
		all.Wait()
		if got := read(heard); got != "2" {
			t.Errorf("got the answer of read %s, want the one that is kept", got)
		}
		if got := read(time.Now()); got != "3" {
			t.Errorf("after another change got the answer of read %s, want a new one", got)
		}
		if got := read(time.Time{}); got != "3" {
			t.Errorf("who heard of no change got the answer of read %s, want the one that is kept", got)
		}
	})
}

func TestAFailureIsNotSharedForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &countingSecrets{reads: map[string]int{}}
		secrets, key := newSharedSecrets(api), client.ObjectKey{Namespace: "shop", Name: "acl"}
		api.fail(apierrors.NewNotFound(corev1.Resource("secrets"), "acl"))
		for range 2 {
			if _, err := secrets.get(t.Context(), key, time.Time{}); !apierrors.IsNotFound(err) {
				t.Errorf("got %v, want that there is no such Secret", err)
			}
		}
		if n := api.reads["acl"]; n != 1 {
			t.Errorf("the API server was asked %d times in a second, want once", n)
		}
		api.fail(nil) // somebody makes it
		time.Sleep(secretFailureShared)
		if data, err := secrets.get(t.Context(), key, time.Time{}); err != nil || string(data["n"]) != "2" {
			t.Errorf("got %s, %v; want the Secret that is there now", data["n"], err)
		}
	})
}

func TestOnlyChangesOfObjectsThatNameASecretAreRemembered(t *testing.T) {
	c := newChanges()
	named := &proxyv1alpha1.Producer{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "named", Generation: 1}}
	named.Spec.Connection.CredentialsSecretRef = &proxyv1alpha1.CredentialsSecretRef{Name: "acl"}
	plain := &proxyv1alpha1.Consumer{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "plain"}}
	filter := c.noting(worthAPass())
	for _, o := range []object{named, plain} {
		if !filter.Create(event.CreateEvent{Object: o}) {
			t.Errorf("the event of %s was dropped", o.GetName())
		}
	}
	made := c.of(client.ObjectKeyFromObject(named))
	if made.IsZero() || len(c.heard) != 1 {
		t.Errorf("remembered are %v, want the object that names a Secret", c.heard)
	}
	reported := named.DeepCopy()
	reported.Status.Group = "g"
	if filter.Update(event.UpdateEvent{ObjectOld: named, ObjectNew: reported}) || c.of(client.ObjectKeyFromObject(named)) != made {
		t.Error("a status write is taken for a change")
	}
	changed := reported.DeepCopy()
	changed.Generation++
	if !filter.Update(event.UpdateEvent{ObjectOld: reported, ObjectNew: changed}) || !c.of(client.ObjectKeyFromObject(named)).After(made) {
		t.Error("a change is not remembered")
	}
	if filter.Delete(event.DeleteEvent{Object: changed}); len(c.heard) != 0 {
		t.Errorf("%v is remembered of objects that are gone", c.heard)
	}
}
