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
	"sigs.k8s.io/controller-runtime/pkg/client"
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
		secrets := newSharedSecrets(api)
		read := func(name string) string {
			data, err := secrets.get(t.Context(), client.ObjectKey{Namespace: "shop", Name: name})
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
		all.Go(func() { _, _ = secrets.get(ctx, key) })
		synctest.Wait()
		all.Go(func() {
			if _, err := secrets.get(t.Context(), key); !apierrors.IsNotFound(err) {
				t.Errorf("the second reader got %v, want that there is no such Secret", err)
			}
		})
		impatient, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer stop()
		all.Go(func() {
			if _, err := secrets.get(impatient, key); !errors.Is(err, context.DeadlineExceeded) {
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
