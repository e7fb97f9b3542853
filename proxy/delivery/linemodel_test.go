// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// lineModel is what applications together know of some queues: it says whether a delivery may come. Nobody waits under its lock, which would stop the clock.
type lineModel struct {
	t       *testing.T
	mu      sync.Mutex
	queues  []modelQueue
	crashed bool
}

type modelQueue struct {
	// asked is how many acknowledgements are under way.
	asked map[int64]int
	acked map[int64]bool
	// last was delivered last; -1 = none.
	last int64
}

func newLineModel(t *testing.T, queues int) *lineModel {
	m := &lineModel{t: t}
	for range queues {
		m.queues = append(m.queues, modelQueue{asked: map[int64]int{}, acked: map[int64]bool{}, last: -1})
	}
	return m
}

// settled reports whether all from from to before to are acknowledged, or being.
func (q *modelQueue) settled(from, to int64) bool {
	for ; from < to; from++ {
		if q.asked[from] == 0 && !q.acked[from] {
			return false
		}
	}
	return true
}

// take takes from r, and looks: in each queue comes what follows what was delivered before, or it begins again with the first that is not acknowledged.
func (m *lineModel) take(r *Receiver, n int) []Delivery {
	m.mu.Lock()
	defer m.mu.Unlock()
	ds := r.Take(n, 0)
	for _, d := range ds {
		number, offset := lineAt(d.ID)
		q := &m.queues[number]
		if q.acked[offset] && !m.crashed {
			m.t.Errorf("%s comes again although its acknowledgement was OK", d.ID)
		}
		if follows := offset > q.last && q.settled(q.last+1, offset); !follows && !q.settled(0, offset) && !m.crashed {
			m.t.Errorf("%s comes after %d/%d", d.ID, number, q.last)
		} else if !follows && offset > q.last && !q.settled(0, offset) {
			m.t.Errorf("%s comes after %d/%d, and leaves some out", d.ID, number, q.last)
		}
		q.last = offset
	}
	return ds
}

func (m *lineModel) left(each int64) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for i := range m.queues {
		n += int(each) - len(m.queues[i].acked)
	}
	return n
}

// ack acknowledges until each token has an answer that decides: what is RETRY may be done or not.
func (m *lineModel) ack(g *lineRig, ds ...Delivery) {
	for len(ds) > 0 {
		m.note(ds, func(q *modelQueue, offset int64, _ int) { q.asked[offset]++ })
		results := g.Ack(context.Background(), tokens(ds))
		var open []Delivery
		m.note(ds, func(q *modelQueue, offset int64, i int) {
			switch results[i].Outcome {
			case OK:
				q.acked[offset] = true
				q.asked[offset]--
			case Retry:
				open = append(open, ds[i]) // it stays asked
			default:
				q.asked[offset]--
			}
		})
		m.note(open, func(q *modelQueue, offset int64, _ int) { q.asked[offset]-- })
		ds = open
		time.Sleep(50 * time.Millisecond)
	}
}

func (m *lineModel) note(ds []Delivery, fn func(q *modelQueue, offset int64, i int)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, d := range ds {
		number, offset := lineAt(d.ID)
		fn(&m.queues[number], offset, i)
	}
}

// use is an application's dealing with what it took: it acknowledges in order, out of order, one by one or together; nacks; moves deadlines; forgets.
func (m *lineModel) use(g *lineRig, ds []Delivery, rnd *rand.Rand) {
	switch rnd.IntN(8) {
	case 0:
		for _, i := range rnd.Perm(len(ds)) {
			m.ack(g, ds[i])
		}
	case 1:
		for _, d := range ds {
			m.ack(g, d)
		}
	case 2:
		cut := rnd.IntN(len(ds))
		m.ack(g, ds[:cut]...)
		g.Nack(context.Background(), []Nack{{Token: ds[cut].Token, Delay: time.Duration(rnd.IntN(5000)) * time.Millisecond}})
		m.ack(g, ds[cut:]...) // in vain
	case 3:
		i := rnd.IntN(len(ds))
		g.Modify(context.Background(), []Modify{{Token: ds[i].Token, AckDeadline: time.Duration(1+rnd.IntN(20)) * time.Second}})
		m.ack(g, ds...)
	case 4:
		m.ack(g, ds[rnd.IntN(len(ds)):]...)
	case 5:
		var wg sync.WaitGroup
		for _, d := range ds {
			wg.Go(func() { m.ack(g, d) })
		}
		wg.Wait()
	default:
		m.ack(g, ds...)
	}
}

// TestModel_Lines: receivers come, go and do what they like with what they get. Each queue comes in order, from the first that is not acknowledged on when it
// comes again; nothing comes again after its OK; nothing is lost, and nothing becomes a dead letter but what is never acknowledged, after its attempts.
func TestModel_Lines(t *testing.T) {
	for seed := range uint64(12) {
		crashes := seed%3 == 2
		t.Run(fmt.Sprintf("seed %d, the broker crashes: %v", seed, crashes), func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				const queues, each, limit = 3, 60, 6
				// Without a crash attempts are exact. A crash forgets them, and what an application was at is then another one's.
				s := Settings{AckDeadline: 10 * time.Second, MaxInFlight: 40}
				if !crashes {
					s.MaxDeliveryAttempts = 40 * limit
				}
				g := newLineRig(t, queues, each, s)
				m := newLineModel(t, queues)
				m.crashed = crashes
				fails := rand.New(rand.NewPCG(seed, 3))
				var mu sync.Mutex
				g.broker.setOn(func(_ context.Context, call string, _ []driver.Handle) error {
					mu.Lock()
					n := fails.IntN(12)
					mu.Unlock()
					time.Sleep(time.Duration(n) * 10 * time.Millisecond)
					if n == 0 && call != "Fetch" {
						return driver.ErrUnavailable
					}
					return nil
				})
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				for number := range 5 {
					wg.Go(func() { m.application(ctx, g, rand.New(rand.NewPCG(seed, uint64(10+number)))) })
				}
				for end := 0; m.left(each) > 0 && !t.Failed(); end++ {
					time.Sleep(time.Second)
					if crashes && end%20 == 0 {
						g.broker.crash()
					}
					if end > 20_000 {
						t.Errorf("%d messages are not acknowledged", m.left(each))
						break
					}
				}
				cancel()
				wg.Wait()
				time.Sleep(time.Minute)
				synctest.Wait()
				if crashes {
					return
				}
				n, size := g.InFlight()
				want(t, "in flight, dead letters", n+int(size)+len(g.broker.dead), 0)
				g.mu.Lock()
				defer g.mu.Unlock()
				for i := range queues {
					// What was acknowledged before its turn, while what was in front of it came again, waits for its own turn to come again.
					l := g.lanes[laneKey{"t", "b", i}]
					for offset := g.broker.position(i); offset < each; offset++ {
						if l == nil {
							t.Errorf("queue %d is at %d, and nothing is known of it", i, offset)
						} else if _, known := l.done[offset]; !known {
							t.Errorf("queue %d is at %d, whose acknowledgement is forgotten", i, offset)
						}
					}
				}
			})
		})
	}
}

// application has one receiver after the other.
func (m *lineModel) application(ctx context.Context, g *lineRig, rnd *rand.Rand) {
	for ctx.Err() == nil {
		r, err := g.Attach(ReceiverOptions{MaxMessages: 1 + rnd.IntN(15)})
		if err != nil {
			m.t.Error(err)
			return
		}
		for life := 1 + rnd.IntN(20); life > 0 && ctx.Err() == nil; life-- {
			select {
			case <-r.Ready():
			case <-time.After(time.Duration(rnd.IntN(3000)) * time.Millisecond):
			case <-ctx.Done():
			}
			ds := m.take(r, 1+rnd.IntN(10))
			if len(ds) == 0 {
				continue
			}
			if life == 1 {
				r.Written(ds[:len(ds)/2]) // the stream breaks
				break
			}
			r.Written(ds)
			m.use(g, ds, rnd)
		}
		r.Close()
	}
}

// TestModel_PoisonInLines: one message of each queue is never acknowledged. It is delivered as often as it may be, and nothing else is given up.
func TestModel_PoisonInLines(t *testing.T) {
	inTime(t, func(t *testing.T) {
		const queues, each, limit = 3, 30, 4
		g := newLineRig(t, queues, each, Settings{AckDeadline: 10 * time.Second, MaxDeliveryAttempts: limit})
		tries, acked := map[string]int{}, 0
		rnd := rand.New(rand.NewPCG(1, 1))
		for acked < queues*(each-1) {
			r := g.attach(t, ReceiverOptions{MaxMessages: 1 + rnd.IntN(20)})
			for _, d := range receive(t, r, 1) {
				if _, offset := lineAt(d.ID); offset != 7 {
					g.ack(t, d)
					acked++
					continue
				}
				tries[d.ID]++
				want(t, "attempt of "+d.ID, d.Attempt, tries[d.ID])
				if tries[d.ID]%2 == 0 {
					continue // it is forgotten
				}
				g.Nack(t.Context(), []Nack{{Token: d.Token}})
			}
			r.Close()
		}
		synctest.Wait()
		for i := range queues {
			want(t, "tries of the poison", tries[lineID(i, 7)], limit)
			want(t, "attempts of its dead letter", g.broker.dead[lineID(i, 7)], limit)
		}
		want(t, "dead letters", len(g.broker.dead), queues)
	})
}
