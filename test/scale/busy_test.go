// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package scale

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/test/load"
)

// busyPairs is how many of the objects are under load.
const busyPairs = 10

func busyName(i int) string { return fmt.Sprintf("busy-%d", i) }

// rate is what went through all busy pairs, in messages a second.
type rate struct{ sent, acked float64 }

// compare drives the busy objects through the crowded operator, and objects like them through one that serves nothing else, in turns, and judges the
// ratio. Who is not measured is frozen, so that it costs nothing; that is why they share no topic and no group.
func (r *trial) compare(crowded *localenv.Operator) {
	// In the short form other packages' tests take a core now and then, for longer than a window: there the best of the rounds is judged, in which two
	// neighbouring windows had most alike. What slows busy objects down slows them in every round.
	rounds, window, limit := 4, 2*time.Second, 0.6
	if long() {
		rounds, window, limit = 8, 5*time.Second, 0.9
	}
	o := r.options
	o.HostID, o.Ports, o.ExtraArgs = "alone", localenv.Ports{}, []string{"--watch-namespaces=" + lone, "--namespace=" + loneSystem}
	alone := r.operator(r.t, o)
	r.declare(r.t, busyPairs, func(i int) (*v1alpha1.Producer, *v1alpha1.Consumer) {
		return pair(lone, busyName(i), loneTopic(i), loneTopic(i), r.driver)
	})
	r.watch.await(r.t, time.Now(), time.Minute, 2*(r.pairs+busyPairs), 2*(r.pairs+busyPairs))
	var with, without []rate
	for round := range rounds {
		turns := []func(){
			func() { without = append(without, r.drive(lone, alone, crowded, window)) },
			func() { with = append(with, r.drive(busy, crowded, alone, window)) },
		}
		if round%2 == 1 {
			slices.Reverse(turns)
		}
		for _, turn := range turns {
			turn()
		}
	}
	r.deleteIn(lone)
	r.watch.await(r.t, time.Now(), 2*time.Minute, 2*r.pairs, 2*r.pairs)
	must(r.t, alone.Stop())
	r.judgeRates(with, without, limit)
}

func (r *trial) judgeRates(with, without []rate, limit float64) {
	sentOf, ackedOf := func(r rate) float64 { return r.sent }, func(r rate) float64 { return r.acked }
	sent, acked := ratio(with, without, sentOf), ratio(with, without, ackedOf)
	if !long() {
		sent, acked = bestRatio(with, without, sentOf), bestRatio(with, without, ackedOf)
	}
	r.t.Logf("%d busy pairs among %d against alone: sent %.2f (%.0f/s against %.0f/s), acknowledged %.2f (%.0f/s against %.0f/s)",
		busyPairs, r.pairs, sent, middle(with, sentOf), middle(without, sentOf), acked, middle(with, ackedOf), middle(without, ackedOf))
	if sent < limit || acked < limit {
		r.t.Errorf("busy objects among idle ones send %.2f and acknowledge %.2f times as fast as alone, want %.2f", sent, acked, limit)
	}
}

func ratio(a, b []rate, of func(rate) float64) float64 { return middle(a, of) / middle(b, of) }

// bestRatio is the best of the rounds.
func bestRatio(a, b []rate, of func(rate) float64) (best float64) {
	for i := range a {
		best = max(best, of(a[i])/of(b[i]))
	}
	return best
}

// middle is the median.
func middle(rates []rate, of func(rate) float64) float64 {
	values := make([]float64, len(rates))
	for i, r := range rates {
		values[i] = of(r)
	}
	slices.Sort(values)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

// drive loads the busy pairs of a namespace through op while other is frozen.
func (r *trial) drive(namespace string, op, other *localenv.Operator, window time.Duration) rate {
	must(r.t, other.Signal(syscall.SIGSTOP))
	defer func() { must(r.t, other.Signal(syscall.SIGCONT)) }()
	connection, err := op.Dial(r.appToken)
	must(r.t, err)
	defer func() { must(r.t, connection.Close()) }()
	ctx, cancel := context.WithCancel(r.t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	ledger := load.NewLedger()
	prefix := fmt.Sprint(time.Now().UnixNano())
	failed, enough := make(chan error, 2*busyPairs), make(chan struct{})
	for i := range busyPairs {
		object := load.Object{Namespace: namespace, Name: busyName(i)}
		running.Go(func() {
			failed <- load.Receive(ctx, connection, ledger, load.ReceiveOptions{Consumer: object, Outstanding: 100, Handle: nil})
		})
		running.Go(func() {
			failed <- load.Send(ctx, connection, ledger, load.SendOptions{
				Producer: object, Prefix: fmt.Sprint(prefix, "-", i), Messages: 1 << 30, Callers: 4, Bytes: 1024, Enough: enough,
			})
		})
	}
	time.Sleep(window / 2) // until everything is warm
	before := ledger.Counts()
	select {
	case <-time.After(window):
	case err := <-failed:
		r.t.Fatalf("the load ended early: %v", err)
	}
	after := ledger.Counts()
	close(enough)
	settle, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	must(r.t, load.AwaitAcked(settle, ledger)) // the next turn begins without a backlog
	return rate{float64(after.Sent-before.Sent) / window.Seconds(), float64(after.Acked-before.Acked) / window.Seconds()}
}
