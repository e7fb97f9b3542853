// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package rocketmq

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestParseConsumeStatsReadsObjectsAsKeys(t *testing.T) {
	const body = `{"consumeTps":0.0,"offsetTable":{` +
		`{"brokerName":"broker-a","queueId":1,"topic":"orders"}:{"brokerOffset":10,"consumerOffset":4,"lastTimestamp":7,"pullOffset":4},` +
		`{"brokerName":"broker-a","queueId":0,"topic":"%RETRY%g"}:{"brokerOffset":3,"consumerOffset":3,"lastTimestamp":0}}}`
	progress, err := parseConsumeStats([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	want := Progress{
		{Topic: "orders", Queue: 1, BrokerOffset: 10, ConsumerOffset: 4},
		{Topic: "%RETRY%g", Queue: 0, BrokerOffset: 3, ConsumerOffset: 3},
	}
	if len(progress) != 2 || progress[0] != want[0] || progress[1] != want[1] {
		t.Errorf("got %+v, want %+v", progress, want)
	}
	if progress.Diff() != 6 {
		t.Errorf("Diff() = %d, want 6", progress.Diff())
	}
}

func TestParseConsumeStatsRefusesWhatItCannotRead(t *testing.T) {
	for name, body := range map[string]string{
		"no table at all":     `{}`,
		"the table is cut":    `{"offsetTable":{{"queueId":1}`,
		"a value is missing":  `{"offsetTable":{{"queueId":1}:}}`,
		"the key is a number": `{"offsetTable":{1:{}}}`,
	} {
		if got, err := parseConsumeStats([]byte(body)); err == nil {
			t.Errorf("%s: got %+v without an error", name, got)
		}
	}
}

func TestDecodeRefusesLengthsThatCannotBe(t *testing.T) {
	for name, frame := range map[string][]byte{
		"the frame is larger than the bound":   {0xff, 0, 0, 0, 0, 0, 0, 1},
		"the header is longer than the frame":  {0, 0, 0, 8, 0, 0, 0, 9},
		"the frame has no room for its header": {0, 0, 0, 0, 0, 0, 0, 1},
	} {
		if _, _, err := decode(bytes.NewReader(frame)); err == nil {
			t.Errorf("%s: decoded without an error", name)
		}
	}
}

func TestDecideWhenTestsUseARealRocketMQ(t *testing.T) {
	missing := errors.New("no java")
	for _, c := range []struct {
		name        string
		wanted, ci  bool
		unavailable error
		want        testAction
		says        string
	}{
		{name: "wanted and available runs", wanted: true, want: testRuns},
		{name: "wanted in CI runs", wanted: true, ci: true, want: testRuns},
		{name: "wanted but no Java fails", wanted: true, unavailable: missing, want: testFails, says: "no java"},
		{name: "not wanted on a laptop skips and says so", want: testSkips, says: "NOT RUN"},
		{name: "not wanted in CI fails", ci: true, want: testFails, says: "ROCKETMQ_TESTS=1"},
		{name: "no Java in CI fails", ci: true, unavailable: missing, want: testFails, says: "ROCKETMQ_TESTS=1"},
	} {
		got, message := decide(c.wanted, c.ci, c.unavailable)
		if got != c.want || !strings.Contains(message, c.says) {
			t.Errorf("%s: got action %d, %q", c.name, got, message)
		}
	}
}

func TestOptionsRefuseWhatCannotWork(t *testing.T) {
	for name, options := range map[string]Options{
		"a version that is no version":  {Version: "latest"},
		"a version with a path in it":   {Version: "../5.5.0"},
		"ACL on the 4.x line":           {Version: Version4, ACL: true},
		"a version with something else": {Version: "5.5.0-SNAPSHOT"},
	} {
		if _, err := options.withDefaults(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestTwoClustersNeverShareABlockOfPorts(t *testing.T) {
	seen := map[int]bool{}
	for range 20 {
		p, err := takePorts()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.release)
		if seen[p.nameServer] {
			t.Fatalf("block %d was handed out twice", p.nameServer)
		}
		seen[p.nameServer] = true
	}
}

func TestHomesOfTheDeadAreRemovedAndThoseOfTheLivingKept(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	living, livingOwner, err := takeHome(t.Output())
	if err != nil {
		t.Fatal(err)
	}
	dead, deadOwner, err := takeHome(t.Output())
	if err != nil {
		t.Fatal(err)
	}
	deadOwner.unlock() // what the kernel does when the owner is killed
	next, nextOwner, err := takeHome(t.Output())
	if err != nil {
		t.Fatal(err)
	}
	if isDir(dead) {
		t.Error("the home of a dead owner is still there")
	}
	if !isDir(living) || !isDir(next) {
		t.Error("the home of a living owner was removed")
	}
	for dir, owner := range map[string]*fileLock{living: livingOwner, next: nextOwner} {
		if err := removeHome(dir, owner); err != nil {
			t.Error(err)
		}
	}
}
