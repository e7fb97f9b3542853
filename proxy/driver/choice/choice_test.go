// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package choice

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// brokers stand for real ones: they answer what they are told to, after took.
type brokers struct {
	mu       sync.Mutex
	line     Line
	err      error
	took     time.Duration
	asked    int
	at       []time.Time
	now, max int
}

func (b *brokers) set(line Line, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.line, b.err = line, err
}

func (b *brokers) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked
}

func (b *brokers) probe(ctx context.Context, _ driver.Connection) (Finding, error) {
	b.mu.Lock()
	b.asked++
	b.now++
	b.max = max(b.max, b.now)
	b.at = append(b.at, time.Now())
	took := b.took
	b.mu.Unlock()
	timer := time.NewTimer(took)
	defer timer.Stop()
	var ended error
	select {
	case <-timer.C:
	case <-ctx.Done():
		ended = driver.Errorf(driver.Timeout, "", "no answer: %w", ctx.Err())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now--
	if ended != nil {
		return Finding{}, ended
	}
	return Finding{Line: b.line, Evidence: "broker-a is " + b.line.String()}, b.err
}

// woken counts who was woken.
type woken struct {
	mu  sync.Mutex
	who []string
}

func (w *woken) wake(who string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.who = append(w.who, who)
}

func (w *woken) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	who := w.who
	w.who = nil
	slices.Sort(who)
	return who
}

func at(servers ...string) driver.Connection { return driver.Connection{NameServers: servers} }

// inBubble runs a story in virtual time with a Chooser that is closed at its end.
func inBubble(t *testing.T, b *brokers, story func(t *testing.T, c *Chooser[string], w *woken)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &woken{}
		c := New(Options[string]{Probe: b.probe, Wake: w.wake})
		defer c.Close()
		story(t, c, w)
	})
}

func wantLine(t *testing.T, c *Chooser[string], who string, connection driver.Connection, want Line) {
	t.Helper()
	if found, err := c.Ask(who, connection); found.Line != want || err != nil {
		t.Errorf("%s is answered %v, %v; want %v", who, found, err, want)
	}
}

func TestAnAnswerThatIsNotKnownIsFoundOutAndTheAskersAreWoken(t *testing.T) {
	b := &brokers{line: Line5, took: 3 * time.Second}
	inBubble(t, b, func(t *testing.T, c *Chooser[string], w *woken) {
		began := time.Now()
		wantLine(t, c, "a", at("ns:1"), Unknown)
		wantLine(t, c, "b", at("ns:1"), Unknown)
		if took := time.Since(began); took != 0 {
			t.Errorf("Ask took %v", took)
		}
		time.Sleep(b.took)
		synctest.Wait()
		if who := w.take(); !slices.Equal(who, []string{"a", "b"}) {
			t.Errorf("woken are %v, want both", who)
		}
		wantLine(t, c, "a", at("ns:1"), Line5)
		if found, _ := c.Ask("a", at("ns:1")); found.Evidence != "broker-a is 5.x" {
			t.Errorf("the evidence is %q", found.Evidence)
		}
	})
}

func TestThousandsOfObjectsCauseOneDetection(t *testing.T) {
	b := &brokers{line: Line5, took: time.Second}
	inBubble(t, b, func(t *testing.T, c *Chooser[string], w *woken) {
		for i := range 5000 {
			wantLine(t, c, fmt.Sprint(i), at("ns:1", "ns:2"), Unknown)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(w.take()); n != 5000 || b.count() != 1 {
			t.Errorf("%d detections, %d woken; want 1 and 5000", b.count(), n)
		}
	})
}

func TestOtherServersOrCredentialsAreAnotherQuestion(t *testing.T) {
	b := &brokers{line: Line5, took: time.Second}
	inBubble(t, b, func(t *testing.T, c *Chooser[string], _ *woken) {
		withKey := at("ns:1")
		withKey.Credentials.AccessKey = "me"
		encrypted := at("ns:1")
		encrypted.TLS.Enabled = true
		for i, connection := range []driver.Connection{at("ns:1"), at("ns:2"), withKey, encrypted} {
			wantLine(t, c, fmt.Sprint(i), connection, Unknown)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if b.count() != 4 {
			t.Errorf("%d detections, want 4", b.count())
		}
	})
}

func TestDetectionsAreBounded(t *testing.T) {
	b := &brokers{line: Line5, took: time.Second}
	inBubble(t, b, func(t *testing.T, c *Chooser[string], w *woken) {
		for i := range 40 {
			wantLine(t, c, fmt.Sprint(i), at(fmt.Sprintf("ns:%d", i)), Unknown)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := len(w.take()); n != 40 || b.max != 4 {
			t.Errorf("%d answered in ten rounds of one second, at most %d at a time; want 40 and 4", n, b.max)
		}
	})
}

func TestAFailureIsToldOnceAndTriedAgainWithBackOff(t *testing.T) {
	b := &brokers{err: errors.New("connection refused")}
	inBubble(t, b, func(t *testing.T, c *Chooser[string], w *woken) {
		wantLine(t, c, "a", at("ns:1"), Unknown)
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if who := w.take(); !slices.Equal(who, []string{"a"}) {
			t.Errorf("woken %v, want once for the same failure", who)
		}
		if _, err := c.Ask("b", at("ns:1")); err == nil || err.Error() != "connection refused" {
			t.Errorf("who comes later is answered %v, want the failure", err)
		}
		if n := b.count(); n < 10 || n > 20 {
			t.Errorf("%d tries in five minutes, want between 10 and 20", n)
		}
		for i := range len(b.at) - 1 {
			if gap := b.at[i+1].Sub(b.at[i]); gap > lastRetry {
				t.Errorf("%v between tries %d and %d, want at most %v", gap, i, i+1, lastRetry)
			}
		}
		b.set(Line4, nil)
		time.Sleep(lastRetry)
		synctest.Wait()
		if who := w.take(); !slices.Equal(who, []string{"a", "b"}) {
			t.Errorf("woken %v, want both", who)
		}
		wantLine(t, c, "a", at("ns:1"), Line4)
	})
}

func TestAKnownAnswerOutlivesTheBrokers(t *testing.T) {
	b := &brokers{line: Line5}
	inBubble(t, b, func(t *testing.T, c *Chooser[string], w *woken) {
		wantLine(t, c, "a", at("ns:1"), Unknown)
		synctest.Wait()
		w.take()
		b.set(Unknown, errors.New("down"))
		time.Sleep(time.Hour)
		synctest.Wait()
		wantLine(t, c, "a", at("ns:1"), Line5)
		if who := w.take(); len(who) > 0 {
			t.Errorf("woken %v for brokers that are away", who)
		}
	})
}

func TestAnUpgradeIsBelievedWhenSeenTwice(t *testing.T) {
	b := &brokers{line: Line4}
	inBubble(t, b, func(t *testing.T, c *Chooser[string], w *woken) {
		wantLine(t, c, "a", at("ns:1"), Unknown)
		synctest.Wait()
		w.take()
		b.set(Line5, nil) // the last old broker is missing from the list
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		wantLine(t, c, "a", at("ns:1"), Line4)
		b.set(Line4, nil) // it is back
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		b.set(Line5, nil) // it has been upgraded
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		wantLine(t, c, "a", at("ns:1"), Line4)
		if who := w.take(); len(who) > 0 {
			t.Errorf("woken %v before the second finding", who)
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		wantLine(t, c, "a", at("ns:1"), Line5)
		if who := w.take(); !slices.Equal(who, []string{"a"}) {
			t.Errorf("woken %v, want a", who)
		}
	})
}

func TestABrokerOfTheOldLineIsBelievedAtOnce(t *testing.T) {
	b := &brokers{line: Line5}
	inBubble(t, b, func(t *testing.T, c *Chooser[string], w *woken) {
		wantLine(t, c, "a", at("ns:1"), Unknown)
		synctest.Wait()
		w.take()
		b.set(Line4, nil)
		time.Sleep(time.Minute)
		c.Recheck("a") // its client found that a broker does not know what it asks for
		synctest.Wait()
		wantLine(t, c, "a", at("ns:1"), Line4)
		if who := w.take(); !slices.Equal(who, []string{"a"}) {
			t.Errorf("woken %v, want a", who)
		}
	})
}

func TestRechecksDoNotFloodTheBrokers(t *testing.T) {
	b := &brokers{line: Line5, took: time.Millisecond}
	inBubble(t, b, func(t *testing.T, c *Chooser[string], _ *woken) {
		wantLine(t, c, "a", at("ns:1"), Unknown)
		for range 6000 {
			time.Sleep(10 * time.Millisecond)
			c.Recheck("a")
		}
		synctest.Wait()
		if n := b.count(); n < 5 || n > 7 {
			t.Errorf("%d detections in a minute of doubts, want one in ten seconds", n)
		}
		c.Recheck("nobody")
	})
}

func TestWhatNobodyAsksForIsNotLookedAtAndLeavesNothing(t *testing.T) {
	b := &brokers{line: Line5}
	inBubble(t, b, func(t *testing.T, c *Chooser[string], w *woken) {
		wantLine(t, c, "a", at("ns:1"), Unknown)
		wantLine(t, c, "b", at("ns:1"), Unknown)
		synctest.Wait()
		c.Forget("a")
		w.take()
		wantLine(t, c, "b", at("ns:1"), Line5)
		wantLine(t, c, "b", at("ns:2"), Unknown) // its connection was changed
		synctest.Wait()
		if n := len(c.state.subjects); n != 1 {
			t.Errorf("%d subjects, want the one that is asked for", n)
		}
		c.Forget("b")
		c.Forget("b")
		before := b.count()
		time.Sleep(time.Hour)
		synctest.Wait()
		if b.count() != before || len(c.state.subjects) != 0 || len(c.state.askers) != 0 || c.state.running != 0 {
			t.Errorf("%d detections for nobody, state %+v", b.count()-before, c.state)
		}
	})
}

func TestForgettingCancelsTheDetection(t *testing.T) {
	b := &brokers{line: Line5, took: 10 * time.Second}
	inBubble(t, b, func(t *testing.T, c *Chooser[string], w *woken) {
		wantLine(t, c, "a", at("ns:1"), Unknown)
		synctest.Wait()
		c.Forget("a")
		synctest.Wait() // no time passes
		if b.now != 0 || len(w.take()) != 0 {
			t.Error("the detection goes on, or somebody was woken")
		}
	})
}

func TestAHungDetectionEnds(t *testing.T) {
	b := &brokers{line: Line5, took: time.Hour}
	inBubble(t, b, func(t *testing.T, c *Chooser[string], w *woken) {
		wantLine(t, c, "a", at("ns:1"), Unknown)
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if _, err := c.Ask("a", at("ns:1")); driver.ReasonOf(err) != driver.Timeout || len(w.take()) != 1 {
			t.Errorf("answered %v, want a time-out and to be woken", err)
		}
	})
}

func TestCloseJoinsAndRefuses(t *testing.T) {
	b := &brokers{line: Line5, took: time.Hour}
	inBubble(t, b, func(t *testing.T, c *Chooser[string], w *woken) {
		for i := range 9 {
			wantLine(t, c, fmt.Sprint(i), at(fmt.Sprintf("ns:%d", i)), Unknown)
		}
		synctest.Wait()
		var both sync.WaitGroup
		for range 2 {
			both.Go(c.Close)
		}
		both.Wait()
		if b.now != 0 || len(w.take()) != 0 {
			t.Error("a detection runs after Close, or somebody was woken")
		}
		if _, err := c.Ask("a", at("ns:1")); !errors.Is(err, driver.ErrClosed) {
			t.Errorf("Ask after Close answers %v", err)
		}
		c.Recheck("1")
		c.Forget("1")
	})
}
