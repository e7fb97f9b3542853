// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"testing"
	"time"
)

// TestARestartWritesNothingAboutObjectsThatStayReady: neither the stop of a host nor its next start may cost writes for each object, or ten thousand
// objects would make every roll-out a storm.
func TestARestartWritesNothingAboutObjectsThatStayReady(t *testing.T) {
	t.Parallel()
	first := startOperator(t, operatorOptions{namespace: newNamespace(t)})
	producer, consumer := first.apply("Producer", "x", goodProducer), first.apply("Consumer", "x", goodConsumer)
	first.waitReady(producer, "x")
	first.waitReady(consumer, "x")
	first.stop()

	second := newOperator(t, operatorOptions{namespace: first.options.namespace, incarnates: first})
	second.start()
	eventually(t, 10*time.Second, "both clients run again", func() bool { return second.opener.runningNow("") == 2 })
	eventually(t, 10*time.Second, "the host is ready", func() bool { return second.controls.Primed(nil) == nil })
	second.stop()
	for _, o := range []object{producer, consumer} {
		before := o.GetResourceVersion()
		must(t, second.get(o, "x"))
		if now := o.GetResourceVersion(); now != before {
			t.Errorf("%T: version %s became %s over a restart; the status is %+v", o, before, now, o.Reported())
		}
	}
}

func TestAHostIsReadyWhenItHasTriedWhatExists(t *testing.T) {
	t.Parallel()
	first := startOperator(t, operatorOptions{namespace: newNamespace(t)})
	first.waitReady(first.apply("Producer", "x", goodProducer), "x")
	first.apply("Producer", "suspended", goodProducer+"\nsuspend: true")
	first.stop()

	second := newOperator(t, operatorOptions{namespace: first.options.namespace})
	second.opener.block = make(chan struct{})
	second.start()
	eventually(t, 10*time.Second, "the client is being opened", func() bool { return len(second.registry.List()) == 1 })
	time.Sleep(3 * primeLook) // a look that comes too early would have come by now
	if second.controls.Primed(nil) == nil {
		t.Error("the host calls itself ready while the client of an object that exists is being opened")
	}
	close(second.opener.block)
	eventually(t, 10*time.Second, "the host is ready", func() bool { return second.controls.Primed(nil) == nil })
	if n := second.opener.runningNow(""); n != 1 {
		t.Errorf("%d clients run when the host calls itself ready, want 1", n)
	}
}
