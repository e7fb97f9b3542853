// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package version

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/choice"
)

var shared = rocketmq.NewShared(rocketmq.Options{ACL: true})

func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }

func noLeaks(t *testing.T) {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t, goleak.IgnoreAnyFunction(rocketmq.WaitFunction)) })
}

func to(servers ...string) driver.Connection {
	return driver.Connection{NameServers: servers, AllowAddress: func(string) error { return nil }}
}

func TestARealBroker5IsFoundWhateverTheCredentialsAre(t *testing.T) {
	cluster := shared.Cluster(t)
	noLeaks(t)
	admin := cluster.Administrator()
	for name, credentials := range map[string]driver.Credentials{
		"right":   {AccessKey: admin.AccessKey, SecretKey: admin.SecretKey},
		"wrong":   {AccessKey: admin.AccessKey, SecretKey: "wrong"},
		"missing": {},
	} {
		t.Run(name, func(t *testing.T) {
			c := to(cluster.NameServers()...)
			c.Credentials = credentials
			found, err := Probe(t.Context(), c)
			if err != nil || found.Line != choice.Line5 || !strings.Contains(found.Evidence, "version number 5") {
				t.Errorf("found %+v, %v", found, err)
			}
		})
	}
}

func TestABrokerThatMayNotBeDialledIsNoAnswer(t *testing.T) {
	cluster := shared.Cluster(t)
	noLeaks(t)
	c := to(cluster.NameServers()...)
	c.AllowAddress = func(address string) error {
		if address == cluster.NameServers()[0] {
			return nil
		}
		return errors.New("not here")
	}
	if found, err := Probe(t.Context(), c); driver.ReasonOf(err) != driver.AddressRefused || found.Line != choice.Unknown {
		t.Errorf("found %+v, %v; want a refused address", found, err)
	}
}

// TestARealBroker4IsFound needs a broker of its own.
func TestARealBroker4IsFound(t *testing.T) {
	if os.Getenv("LONG") == "" {
		t.Skip("LONG is not set: RocketMQ 4.9.7 is for the long tests")
	}
	cluster := rocketmq.StartForTest(t, rocketmq.Options{Version: rocketmq.Version4})
	found, err := Probe(t.Context(), to(cluster.NameServers()...))
	if err != nil || found.Line != choice.Line4 || !strings.Contains(found.Evidence, "version number 4") {
		t.Errorf("found %+v, %v", found, err)
	}
}

func TestNobodyAtHomeIsAnErrorAndLeavesNothing(t *testing.T) {
	noLeaks(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if found, err := Probe(t.Context(), to(address)); driver.ReasonOf(err) != driver.Unavailable || found.Line != choice.Unknown {
		t.Errorf("found %+v, %v", found, err)
	}
}

func TestASilentServerHoldsTheProbeOnlyToItsDeadline(t *testing.T) {
	noLeaks(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := Probe(ctx, to(l.Addr().String())); err == nil {
		t.Error("a silent server gave an answer")
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the probe took %v", took)
	}
}

func TestAllAnswersMakeOneFinding(t *testing.T) {
	four := answer{broker: broker{"a", "1:1"}, version: 407}
	five := answer{broker: broker{"b", "2:2"}, version: 513, five: true}
	down := answer{broker: broker{"c", "3:3"}, err: driver.Errorf(driver.Unavailable, "", "refused")}
	for _, c := range []struct {
		name     string
		answers  []answer
		want     choice.Line
		evidence string
		fails    bool
	}{
		{name: "all are new", answers: []answer{five, five}, want: choice.Line5, evidence: "b, b"},
		{name: "one is old", answers: []answer{five, four}, want: choice.Line4, evidence: "a at 1:1"},
		{name: "one is old and another does not answer", answers: []answer{down, five, four}, want: choice.Line4, evidence: "407"},
		{name: "one does not answer", answers: []answer{five, down}, fails: true},
		{name: "many", answers: []answer{five, five, five, five, five}, want: choice.Line5, evidence: "and 2 more"},
	} {
		t.Run(c.name, func(t *testing.T) {
			found, err := judge(c.answers)
			if found.Line != c.want || (err != nil) != c.fails || !strings.Contains(found.Evidence, c.evidence) {
				t.Errorf("found %+v, %v", found, err)
			}
		})
	}
}

func TestTheMasterIsAskedOrItsFirstSlave(t *testing.T) {
	for want, byID := range map[string]map[string]string{
		"m:1": {"2": "s:2", "0": "m:1", "10": "s:3"}, "s:2": {"10": "s:3", "2": "s:2"}, "": {"x": "y:1", "0": ""},
	} {
		if got := first(byID); got != want {
			t.Errorf("of %v it is %q, want %q", byID, got, want)
		}
	}
}
