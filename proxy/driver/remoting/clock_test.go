// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// brokerTime is a broker whose clock is ahead of ours by skew, as seen through requests with the given delays.
type brokerTime struct {
	*clocks
	skew time.Duration
}

func (b *brokerTime) ms() int64 { return time.Now().Add(b.skew).UnixMilli() }

// hear makes one request: there is the way to the broker's work on it, back the way of the answer.
func (b *brokerTime) hear(there, back time.Duration) {
	sent := time.Now()
	time.Sleep(there)
	at := b.ms()
	time.Sleep(back)
	b.heard("b", at, sent, time.Now())
}

// off is how much the estimate is ahead of the broker's clock.
func (b *brokerTime) off(t *testing.T) time.Duration {
	t.Helper()
	now, known := b.broker("b", time.Now())
	if !known {
		t.Fatal("the clock is not known")
	}
	return time.Duration(now-b.ms()) * time.Millisecond
}

func TestTheBrokersClockIsEstimated(t *testing.T) {
	for _, c := range []struct {
		name string
		skew time.Duration
		// ways are those of the requests: there and back.
		ways      [][2]time.Duration
		low, high time.Duration
	}{
		{"one quick answer", time.Hour, [][2]time.Duration{{time.Millisecond, time.Millisecond}}, 0, 3 * time.Millisecond},
		{"a broker that is behind", -time.Hour, [][2]time.Duration{{time.Millisecond, time.Millisecond}}, 0, 3 * time.Millisecond},
		{"a long poll only", 0, [][2]time.Duration{{5 * time.Second, time.Millisecond}}, 0, clockSlack},
		{"a slow way back only", 0, [][2]time.Duration{{time.Millisecond, 300 * time.Millisecond}}, -300 * time.Millisecond, 3 * time.Millisecond},
		{"the quickest of many counts", time.Minute, [][2]time.Duration{
			{5 * time.Second, 100 * time.Millisecond}, {2 * time.Millisecond, time.Millisecond}, {time.Second, 50 * time.Millisecond},
		}, 0, 4 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := brokerTime{newClocks(), c.skew}
			for _, w := range c.ways {
				b.hear(w[0], w[1])
			}
			if off := b.off(t); off < c.low || off > c.high {
				t.Errorf("%s: the estimate is off by %v, want %v to %v", c.name, off, c.low, c.high)
			}
		})
	}
}

func TestAClockThatIsSetIsNoticedAtOnce(t *testing.T) {
	for _, jump := range []time.Duration{time.Hour, -time.Hour, 200 * time.Millisecond, -200 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			b := brokerTime{newClocks(), 0}
			for range 10 {
				b.hear(time.Millisecond, time.Millisecond)
				time.Sleep(10 * time.Second)
			}
			b.skew += jump
			b.hear(time.Millisecond, time.Millisecond)
			if off := b.off(t); off < 0 || off > 3*time.Millisecond {
				t.Errorf("after a jump of %v the estimate is off by %v", jump, off)
			}
		})
	}
}

func TestAClockThatDriftsIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := brokerTime{newClocks(), 0}
		for range 2000 {
			b.hear(time.Millisecond, time.Millisecond)
			time.Sleep(time.Second)
			b.skew -= 100 * time.Microsecond // 100 ppm
		}
		if off := b.off(t); off < -time.Millisecond || off > 30*time.Millisecond {
			t.Errorf("the estimate is off by %v", off)
		}
	})
}

func TestAHostThatNeverHeardTheClockJudgesByTheHandle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here := brokerTime{newClocks(), 10 * time.Minute}
		here.hear(time.Millisecond, time.Millisecond)
		l := lease{pop: wire.PopHandle{Broker: "b", PopTime: here.ms(), Invisible: 5000}, skew: here.clocks.skew("b", time.Now())}
		elsewhere := newClocks()
		for _, c := range []*clocks{here.clocks, elsewhere} {
			if left := l.left(c, time.Now()); left < 4990*time.Millisecond || left > 5*time.Second {
				t.Errorf("%v are left of 5 s", left)
			}
		}
		time.Sleep(5 * time.Second)
		for _, c := range []*clocks{here.clocks, elsewhere} {
			if left := l.left(c, time.Now()); left > 0 {
				t.Errorf("%v are left of a lease that is over", left)
			}
		}
	})
}
