// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"math"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func TestAHandleSaysWhatWasSealedToItsOwnBrokerOnly(t *testing.T) {
	broker, other := NewBroker(Options{}), NewBroker(Options{})
	for _, want := range []ticket{
		{}, {1, 2, place{3, 4}, 5, time.Hour}, {math.MaxInt64, math.MaxInt64, place{math.MaxInt32, math.MaxInt64}, math.MaxInt64, math.MaxInt64},
	} {
		h := broker.seal(want)
		if got, err := broker.unseal(h); err != nil || got != want {
			t.Errorf("%q means %+v, sealed was %+v; %v", h, got, want, err)
		}
		if _, err := other.unseal(h); driver.ReasonOf(err) != driver.InvalidHandle {
			t.Errorf("another broker took %q: %v", h, err)
		}
		for i := range h {
			changed := []byte(h)
			changed[i] ^= 1
			if got, err := broker.unseal(driver.Handle(changed)); err == nil {
				t.Errorf("%q with character %d changed means %+v", h, i, got)
			}
		}
	}
}

func FuzzUnseal(f *testing.F) {
	broker := NewBroker(Options{})
	f.Add(string(broker.seal(ticket{1, 2, place{3, 4}, 5, time.Hour})))
	f.Add("mem1.1.2.3.4.5.6.7")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := broker.unseal(driver.Handle(text)); err == nil && broker.seal(got) != driver.Handle(text) {
			t.Errorf("%q means %+v, which is written %q", text, got, broker.seal(got))
		}
	})
}
