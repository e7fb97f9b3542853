// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"slices"
	"testing"
)

// testCase is one promise. Its name is a sentence.
type testCase struct {
	name string
	// alone: the case counts goroutines or restarts the broker, so nothing else may run beside it.
	alone bool
	// long: the case takes more than a few seconds on a real broker; -short leaves it out.
	long bool
	run  func(k *kit)
}

// Run runs every case against h. Cases that must be alone run first, the others side by side: give `go test -parallel 16` where most of
// the time is waiting for a broker.
func Run(t *testing.T, h Harness) {
	t.Helper()
	facts := h.Facts().withDefaults()
	all := slices.Concat(openCases, sendCases, sizeCases, laterCases, deadLetterCases, orderedSendCases, fetchCases, startCases, seekCases, filterCases, leaseCases, orderedCases, groupCases, broadcastCases, closeCases, walkCases)
	for _, alone := range []bool{true, false} {
		name := map[bool]string{true: "alone", false: "side by side"}[alone]
		t.Run(name, func(t *testing.T) {
			for _, c := range all {
				if c.alone == alone {
					t.Run(c.name, func(t *testing.T) { c.start(t, h, facts) })
				}
			}
		})
	}
	transactions(t, h, facts)
}

// transactions come last, and a new broker after them: since 5.0 a broker keeps a core busy from its first transaction until it is started anew
// (TransactionalOpBatchService waits for no time at all; seen on 5.5.0).
func transactions(t *testing.T, h Harness, facts Facts) {
	t.Run("transactions", func(t *testing.T) {
		for _, c := range transactionCases {
			t.Run(c.name, func(t *testing.T) { c.start(t, h, facts) })
		}
	})
	if facts.RestartBroker != nil && h.Driver().Capabilities().Transactions {
		facts.RestartBroker(t)
	}
}

func (c testCase) start(t *testing.T, h Harness, facts Facts) {
	if c.long && testing.Short() {
		t.Skip("takes long on a real broker; run without -short")
	}
	if !c.alone && !facts.Serial {
		t.Parallel()
	}
	c.run(newKit(t, h, facts))
}
