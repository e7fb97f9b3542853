// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
)

func TestPacedMessagesAreTimedFromSenderToReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPaced()
		var onTheWay sync.WaitGroup
		send := func(_ context.Context, body []byte) error {
			onTheWay.Go(func() {
				time.Sleep(3 * time.Millisecond)
				p.arrived(body)
			})
			return nil
		}
		began := false
		f, err := p.run(t.Context(), 2*time.Second, parties{tested: os.Getpid()}, func() { began = true }, send)
		if err != nil {
			t.Fatal(err)
		}
		onTheWay.Wait()
		if !began {
			t.Error("nobody was told that the window began")
		}
		if f.P50 != 3 || f.P99 != 3 {
			t.Errorf("p50 %v ms, p99 %v ms; each message took 3 ms", f.P50, f.P99)
		}
		if f.Rate < 999 || f.Rate > 1001 {
			t.Errorf("%v messages a second, want 1,000", f.Rate)
		}
		if n := p.count(); n != 2*pacedRate {
			t.Errorf("%d messages were counted; the warm-up's must not be, so %d", n, 2*pacedRate)
		}
	})
}

func TestPacedMessagesThatDoNotArriveAreAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, err := newPaced().run(t.Context(), time.Second, parties{tested: os.Getpid()}, func() {}, func(context.Context, []byte) error { return nil })
		if err == nil || !strings.Contains(err.Error(), "of 1000 messages 0 arrived") {
			t.Errorf("got %v", err)
		}
	})
}

func TestAFailedPacedSendEndsTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		_, err := newPaced().run(t.Context(), time.Second, parties{tested: os.Getpid()}, func() {}, func(context.Context, []byte) error { return broken })
		if !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	})
}

func TestAimsSayWhetherTheyAreMet(t *testing.T) {
	for _, c := range []struct {
		name   string
		aim    aim
		want   string
		margin float64
	}{
		{"at the least", aim{value: 1.4, limit: 1.4, least: true}, "met", 0},
		{"above the least", aim{value: 3, limit: 2, least: true}, "met", 50},
		{"below the least", aim{value: 1, limit: 2, least: true}, "MISSED", -50},
		{"at the most", aim{value: 3, limit: 3}, "met", 0},
		{"above the most", aim{value: 3, limit: 2}, "MISSED", -50},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.aim.verdict(); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if got := c.aim.margin(); got != c.margin {
				t.Errorf("margin %v %%, want %v", got, c.margin)
			}
		})
	}
}

func TestARatioIsTheMedianOfItsRounds(t *testing.T) {
	r := results{}
	for _, round := range []struct{ raw, echo, proxy float64 }{{10, 10, 30}, {1, 1, 4}, {100, 100, 200}} { // the machine is another one in each
		r.add(contender{row: rowUnary, who: whoRaw}, figure{P50: round.raw})
		r.add(contender{row: rowUnary, who: whoEcho}, figure{P50: round.echo})
		r.add(contender{row: rowUnary, who: "Remoting"}, figure{P50: round.proxy})
	}
	if got := r.ratio(rowUnary, p50, "Remoting", whoRaw); got != 3 {
		t.Errorf("%v, want 3", got)
	}
	if got := r.ratio(rowUnary, p50, "Remoting", whoRaw, whoEcho); got != 1.5 {
		t.Errorf("over the sum of two: %v, want 1.5", got)
	}
}

func TestEveryRowHasItsContenders(t *testing.T) {
	o, err := parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{}
	b := &bench{options: o}
	for _, c := range slices.Concat(b.contenders(), b.transacting()) {
		rows[c.row] = append(rows[c.row], c.who)
		if names[c.who] == "" {
			t.Errorf("%q has no name for the table", c.who)
		}
	}
	for row, want := range map[string]string{
		rowUnary: "raw echo least java Remoting ClientGo", rowBatch: "raw echo least Remoting ClientGo", rowSingle: "raw echo least direct Remoting ClientGo",
		rowReceive: "raw echo java Remoting ClientGo", rowPaced: "raw Remoting ClientGo",
		rowOrdered: "raw Remoting ClientGo", rowTrans: "raw Remoting",
	} {
		if got := strings.Join(rows[row], " "); got != want {
			t.Errorf("%s: %s, want %s", row, got, want)
		}
	}
}

func TestThePageHasEveryRowEachDriversAimsAndTheNotes(t *testing.T) {
	o, err := parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	b, r, once := &bench{options: o}, results{}, onceFigures{memory: map[string]memory{"Remoting": {rested: 70}, "ClientGo": {declared: 70}}, readyP50: time.Millisecond}
	for _, c := range b.contenders() {
		r.add(c, figure{Rate: 1000, P50: 1, P99: 2, CPU: 10, Broker: 20, Load: 30})
	}
	page := b.render(r, once)
	for _, want := range []string{
		"| Send, 64 callers | raw client | 1000 | 1.00 | 2.00 | 10.0 | 20.00 | 30.00 |", "## Aims of driver Remoting", "## Aims of driver ClientGo",
		"| unary Send with 64 callers: proxy / raw SendSync | 1.00 | >= 1.40 | MISSED | -29 % |", "| 1.00 | <= 3.00 | met | +67 % |", "<= 80.00 MiB | met", notes,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is missing in\n%s", want, page)
		}
	}
}

func TestFlagsThatNameNothingAreRefused(t *testing.T) {
	for _, args := range [][]string{{"--driver", "Memory"}, {"--driver", ""}, {"--only", "no such row"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}

func TestTheJavaLoadSendsAndReceivesThroughTheJavaProxy(t *testing.T) {
	if os.Getenv("LONG") != "1" {
		t.Skip("NOT RUN: it fetches another 130 MB of jars; set LONG=1")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{root: root, work: t.TempDir(), broker: rocketmq.StartForTest(t, rocketmq.Options{})}
	t.Cleanup(func() {
		if err := b.stop(); err != nil {
			t.Error(err)
		}
	})
	ctx := context.Background() // not the test's: that ends before the cleanup
	if err := b.createTopic(ctx); err != nil {
		t.Fatal(err)
	}
	if err := b.startJava(ctx); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"send", "receive"} {
		f, err := b.java.measure(ctx, command, 8, 8*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %+v", command, f)
		if f.Rate == 0 || f.CPU == 0 {
			t.Errorf("%s: %+v", command, f)
		}
	}
}
