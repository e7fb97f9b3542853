// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"math/rand/v2"
	"os"
	"testing"
	"time"
)

// TestSoakUnderRandomFaults is tests.md D12, and the stress and 24-hour tests that the seed report asks for: random faults for SOAK_DURATION (a minute
// when it is not set), nothing lost, and memory that does not climb. It runs with LONG=1 only; TestChaos... is its short form.
func TestSoakUnderRandomFaults(t *testing.T) {
	if !long() {
		t.Skip("LONG=1 runs it; TestChaosEachFaultInTurnLosesNothing is the short form")
	}
	length := time.Minute
	if text := os.Getenv("SOAK_DURATION"); text != "" {
		var err error
		length, err = time.ParseDuration(text)
		must(t, err)
	}
	s := newSoak(t, "Remoting", "ClientGo")
	s.frozen, s.away, s.fault = 3*time.Second, 3*time.Second, 4*time.Second // many short ones; the chaos tests have the long ones
	var memory []sample
	// 64 messages a second: the ledger keeps each id, and a day of them must fit into memory.
	s.send(500 * time.Millisecond)
	for began := time.Now(); time.Since(began) < length; {
		d := around[rand.IntN(len(around))]
		s.disturb(d, 100)
		memory = append(memory, s.c.sample(t, s.loads[0].op))
		t.Logf("%s: %s, %+v", time.Since(began).Round(time.Second), d.name, s.loads[0].ledger.Counts())
	}
	s.end()
	s.delete()
	if len(memory) < 8 {
		return // too short for a slope
	}
	half := memory[len(memory)/2:]
	if climb := slope(half, func(m sample) float64 { return m.heap }) * float64(len(half)); climb > 16<<20 {
		t.Errorf("the heap climbed by %.0f bytes over the second half", climb)
	}
}
