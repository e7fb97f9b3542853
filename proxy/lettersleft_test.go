// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// counted is a box that counts how often it is asked.
type counted struct {
	driver.DeadLetters
	asked atomic.Int32
	end   int64
	err   error
	hangs bool
}

func (c *counted) DeadLetterQueues(ctx context.Context) ([]driver.DeadLetterQueue, error) {
	c.asked.Add(1)
	if c.hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return []driver.DeadLetterQueue{{Oldest: 2, Marked: 5, End: c.end}, {ID: 1, Oldest: 2, End: 3}}, c.err
}

func TestDeadLettersAreAskedForOnceAMinuteAndOnlyOfConsumersInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		life, stop := context.WithCancel(t.Context())
		box := &counted{end: 15}
		l := lettersLeft{box: box, life: life}
		// scrapes for a while, every 10 s.
		scrape := func(times int, inUse bool) (left int64, known bool) {
			for range times {
				left, known = l.read(inUse)
				synctest.Wait()
				time.Sleep(10 * time.Second)
			}
			return left, known
		}
		check := func(what string, left int64, known bool, wantLeft int64, wantKnown bool, asked int32) {
			t.Helper()
			if left != wantLeft || known != wantKnown || box.asked.Load() != asked {
				t.Errorf("%s: %d, %v after %d questions; want %d, %v after %d", what, left, known, box.asked.Load(), wantLeft, wantKnown, asked)
			}
		}
		left, known := scrape(20, false)
		check("while nobody uses it", left, known, 0, false, 0)
		left, known = scrape(2, true)
		check("once it is used", left, known, 11, true, 1)
		left, known = scrape(4, false)
		check("within the minute", left, known, 11, true, 1)
		l.learn(4)
		left, known = scrape(6, false)
		check("after a list", left, known, 4, true, 1)
		box.err = driver.Errorf(driver.Unavailable, "", "the broker is away")
		left, known = scrape(2, false)
		check("while the broker is away", left, known, 11, false, 2)
		box.err = driver.Errorf(driver.Unauthorized, "", "no right")
		_, known = scrape(60, false)
		check("without the right", 0, known, 0, false, 3)
		stop()
		l.close()
	})
}

func TestAQuestionAboutDeadLettersIsBoundedAndJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		life, stop := context.WithCancel(t.Context())
		box := &counted{hangs: true}
		l := lettersLeft{box: box, life: life}
		l.read(true)
		synctest.Wait()
		if l.read(true); box.asked.Load() != 1 {
			t.Errorf("%d questions at once", box.asked.Load())
		}
		time.Sleep(leftTimeout)
		synctest.Wait()
		time.Sleep(leftEvery)
		l.read(true)
		synctest.Wait()
		began := time.Now()
		stop()
		l.close()
		if l.read(true); box.asked.Load() != 2 || time.Since(began) != 0 {
			t.Errorf("%d questions, closed in %s", box.asked.Load(), time.Since(began))
		}
	})
}
