// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// TestDriver_AConsumerIsProbedDrainedAndThenOpenedWithTheOther: the world of these tests breaks on two clients of one Consumer in its group.
func TestDriver_AConsumerIsProbedDrainedAndThenOpenedWithTheOther(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.w.update = func(*fakeClient, Spec) bool {
			t.Error("a client was asked to become one of another driver")
			return true
		}
		r.w.onDrain = func(context.Context, *fakeClient) DrainReport { time.Sleep(5 * time.Second); return DrainReport{} }
		spec := consumer("billing", "uid-1")
		r.acquire(spec)
		after(time.Second)
		for generation, name := range []string{"Other", "Fake", "Other"} {
			spec.Driver, spec.Generation = name, int64(generation)+2
			r.acquire(spec)
			after(time.Second)
			if n := r.w.opened(); n != generation+1 {
				t.Errorf("%d clients were opened while the one of the other driver drains, want %d", n, generation+1)
			}
			after(10 * time.Second)
			r.wantState(spec.Key, Running)
			if status, _ := r.Status(spec.Key); status.Driver != name || status.Generation != spec.Generation || r.w.count() != 1 {
				t.Errorf("%d clients, status %+v; want one of %s", r.w.count(), status, name)
			}
		}
		if r.w.probes != 3 {
			t.Errorf("%d probes, want one before each change", r.w.probes)
		}
	})
}

func TestDriver_AProbeThatFailsLeavesTheOldOneServing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := consumer("billing", "uid-1")
		r.acquire(spec)
		after(time.Second)
		r.w.onProbe = func(context.Context, Spec) error {
			return driver.Errorf(driver.Unsupported, "", "request type 200050 not supported")
		}
		spec.Driver, spec.Generation = "Other", 2
		r.acquire(spec)
		after(time.Minute)
		status, _ := r.Status(spec.Key)
		if status.State != Running || status.Driver != "Fake" || driver.ReasonOf(status.Err) != driver.Unsupported {
			t.Errorf("status %+v; want the old client with the error of the probe", status)
		}
		use, err := r.Use(t.Context(), Consumer, "shop", "billing")
		if err != nil {
			t.Fatalf("the old client does not serve: %v", err)
		}
		use.Release()
	})
}

func TestDriver_AProducersNewClientIsUpBeforeTheOldOneDrains(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := producer("orders", "uid-1")
		r.acquire(spec)
		after(time.Second)
		old := r.w.running(spec.Key)[0]
		r.w.onOpen = func(context.Context, Spec) error {
			if old.Err() != nil || len(r.w.running(spec.Key)) == 0 {
				t.Error("nothing serves while the new client opens")
			}
			return nil
		}
		spec.Driver, spec.Generation = "Other", 2
		r.acquire(spec)
		after(time.Minute)
		if status, _ := r.Status(spec.Key); status.Driver != "Other" || status.State != Running || r.w.count() != 1 {
			t.Errorf("%d clients, status %+v", r.w.count(), status)
		}
	})
}

func TestGroup_AnotherDriverIsNoOtherGroup(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		older, younger := pair()
		younger.Driver = "Other"
		r.acquire(older)
		after(time.Second)
		wantInUse(t, r.acquire(younger), "shop/older")
		after(time.Minute)
		if n := r.w.opened(); n != 1 {
			t.Errorf("%d clients were opened in one group", n)
		}
	})
}

func TestExpect_AnObjectWithoutAnEntryIsNotReadyForItsReason(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		spec := consumer("billing", "uid-1")
		use := func() error {
			u, err := r.Use(t.Context(), Consumer, "shop", "billing")
			if err == nil {
				u.Release()
			}
			return err
		}
		wantReason := func(reason string) {
			t.Helper()
			var notReady *NotReadyError
			if err := use(); !errors.As(err, &notReady) || notReady.Reason != reason {
				t.Errorf("a use is answered %v, want not ready: %s", err, reason)
			}
		}
		wantAbsent := func() {
			t.Helper()
			var notFound *NotFoundError
			if err := use(); !errors.As(err, &notFound) {
				t.Errorf("a use is answered %v, want not found", err)
			}
		}
		wantAbsent()
		r.Expect(spec.Key, "shop", "billing", "SecretNotFound", "there is no Secret")
		wantReason("SecretNotFound")
		r.Expect(spec.Key, "shop", "billing", "BrokerVersionUnknown", "nobody answers")
		wantReason("BrokerVersionUnknown")
		r.acquire(spec)
		after(time.Second)
		if err := use(); err != nil {
			t.Errorf("a use of a running client is answered %v", err)
		}
		r.Release(spec.Key, "deleted")
		after(time.Minute)
		wantAbsent()
		// A name that went over to another object: what is over does not take the other one's away.
		other := consumer("billing", "uid-2")
		r.Expect(spec.Key, "shop", "billing", "SecretNotFound", "x")
		r.Expect(other.Key, "shop", "billing", "BrokerVersionUnknown", "y")
		r.Release(spec.Key, "gone")
		wantReason("BrokerVersionUnknown")
		r.Release(other.Key, "gone")
		wantAbsent()
		if len(r.state.expected) != 0 || len(r.state.expectedNames) != 0 {
			t.Errorf("left are %v and %v", r.state.expected, r.state.expectedNames)
		}
	})
}
