// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package deadletter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// morgue is a small working driver.DeadLetters: queues of letters, copies, marks. It can fail or die at any call.
type morgue struct {
	mu      sync.Mutex
	letters [][]*driver.DeadLetter // by queue
	oldest  []int64
	marked  []int64
	copies  map[string]int // by place
	shown   map[string]bool
	// late: copies do not show to look-ups.
	late bool
	// on is called at the start of each call; an error is the call's answer.
	on    func(call string) error
	calls map[string]int
}

// newMorgue has queues of n letters each; ids are queue-offset, topics t0 and t1 in turn, a second between two.
func newMorgue(sizes ...int) *morgue {
	m := &morgue{copies: map[string]int{}, shown: map[string]bool{}, calls: map[string]int{}}
	for q, n := range sizes {
		var letters []*driver.DeadLetter
		for i := range n {
			letters = append(letters, &driver.DeadLetter{
				Message: driver.Message{ID: fmt.Sprintf("%d-%d", q, i), Topic: fmt.Sprintf("t%d", i%2), Body: []byte("body")},
				Broker:  "b", Queue: q, Offset: int64(i), DeadTime: epoch.Add(time.Duration(i) * time.Second),
			})
		}
		m.letters = append(m.letters, letters)
		m.oldest, m.marked = append(m.oldest, 0), append(m.marked, 0)
	}
	return m
}

var epoch = time.Unix(1_700_000_000, 0)

func (m *morgue) begin(ctx context.Context, call string) error {
	m.mu.Lock()
	m.calls[call]++
	on := m.on
	m.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if on != nil {
		return on(call)
	}
	return nil
}

func (m *morgue) DeadLetterQueues(ctx context.Context) (all []driver.DeadLetterQueue, err error) {
	if err := m.begin(ctx, "look"); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.letters {
		all = append(all, driver.DeadLetterQueue{Broker: "b", ID: i, Oldest: m.oldest[i], End: int64(len(m.letters[i])), Marked: m.marked[i]})
	}
	return all, nil
}

func (m *morgue) ReadDeadLetters(ctx context.Context, q driver.DeadLetterQueue, offset int64, n int) ([]*driver.DeadLetter, int64, error) {
	if err := m.begin(ctx, "read"); err != nil {
		return nil, 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []*driver.DeadLetter
	end := min(offset+int64(n), int64(len(m.letters[q.ID])))
	for _, l := range m.letters[q.ID][offset:end] {
		c := *l
		found = append(found, &c)
	}
	return found, end, nil
}

func (m *morgue) Redriven(ctx context.Context, letters []*driver.DeadLetter) ([]bool, error) {
	if err := m.begin(ctx, "find"); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	found := make([]bool, len(letters))
	for i, l := range letters {
		found[i] = m.shown[l.Place()]
	}
	return found, nil
}

func (m *morgue) Redrive(ctx context.Context, l *driver.DeadLetter) error {
	if err := m.begin(ctx, "redrive"); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.copies[l.Place()]++
	m.shown[l.Place()] = !m.late
	return nil
}

func (m *morgue) MarkRedriven(ctx context.Context, q driver.DeadLetterQueue, offset int64) error {
	if err := m.begin(ctx, "mark"); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.marked[q.ID] = max(m.marked[q.ID], offset)
	return nil
}

// twice lists the letters that have more than one copy.
func (m *morgue) twice() (all []string) {
	for place, n := range m.copies {
		if n > 1 {
			all = append(all, place)
		}
	}
	return all
}

// everything repeats a redrive as a caller does, with or without the tokens, and sums up.
func (m *morgue) everything(t *testing.T, o Order, tokens bool) (sum Progress, calls int) {
	t.Helper()
	if o.Limit == 0 {
		o.Limit = 1 << 20
	}
	for calls < 10_000 {
		calls++
		p, err := Redrive(t.Context(), m, o)
		if err != nil {
			t.Fatal(err)
		}
		sum.Redriven += p.Redriven
		sum.Skipped += p.Skipped
		sum.Left, sum.Problem = p.Left, p.Problem
		if p.Next == "" {
			return sum, calls
		}
		if tokens {
			o.Token = p.Next
		}
	}
	t.Fatal("it does not come to an end")
	return
}

func TestEveryChosenLetterIsRedrivenOnce(t *testing.T) {
	at := func(s int) time.Time { return epoch.Add(time.Duration(s) * time.Second) }
	cases := []struct {
		name   string
		order  Order
		want   int
		marked []int64
		calls  int
	}{
		{"all", Order{}, 300, []int64{200, 100}, 1},
		{"all, in small parts", Order{Limit: 7}, 300, []int64{200, 100}, 43},
		{"a topic", Order{Selection: Selection{Topic: "t1"}}, 150, []int64{0, 0}, 1},
		{"a topic, in small parts", Order{Selection: Selection{Topic: "t1"}, Limit: 40}, 150, []int64{0, 0}, 4},
		{"ids, one of which there is not", Order{Selection: Selection{IDs: []string{"0-0", "0-1", "1-99", "2-0"}}}, 3, []int64{2, 0}, 1},
		{"from a time on", Order{Selection: Selection{From: at(90)}}, 120, []int64{0, 0}, 1},
		{"until a time, which is not in it", Order{Selection: Selection{Until: at(10)}}, 20, []int64{10, 10}, 1},
		{"between two times, of a topic", Order{Selection: Selection{From: at(10), Until: at(20), Topic: "t0"}}, 10, []int64{0, 0}, 1},
		{"nothing fits", Order{Selection: Selection{Topic: "t2"}}, 0, []int64{0, 0}, 1},
	}
	for _, c := range cases {
		for _, tokens := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, tokens %v", c.name, tokens), func(t *testing.T) {
				m := newMorgue(200, 100)
				sum, calls := m.everything(t, c.order, tokens)
				if sum.Redriven != c.want || len(m.copies) != c.want || len(m.twice()) > 0 || calls != c.calls {
					t.Errorf("%d redriven, %d copies, twice %v, in %d calls; want %d in %d", sum.Redriven, len(m.copies), m.twice(), calls, c.want, c.calls)
				}
				if !slices.Equal(m.marked, c.marked) {
					t.Errorf("marks %v, want %v", m.marked, c.marked)
				}
				again, _ := m.everything(t, c.order, false)
				if again.Redriven != 0 || len(m.twice()) > 0 {
					t.Errorf("done again it redrives %d, twice %v", again.Redriven, m.twice())
				}
			})
		}
	}
}

func TestASelectionThatIsCompletedLaterMovesTheMark(t *testing.T) {
	m := newMorgue(10)
	m.everything(t, Order{Selection: Selection{Topic: "t1"}}, true)
	sum, _ := m.everything(t, Order{}, true)
	if sum.Redriven != 5 || sum.Left != 0 || m.marked[0] != 10 || len(m.twice()) > 0 {
		t.Errorf("%+v, marks %v, twice %v", sum, m.marked, m.twice())
	}
}

// TestACrashAtAnyCallLosesNothingAndRepeatsNothing kills the caller's host before each call in turn, and before its answer.
func TestACrashAtAnyCallLosesNothingAndRepeatsNothing(t *testing.T) {
	dead := errors.New("the host has died")
	const letters = 2*markEvery + 10
	for _, o := range []Order{{Limit: letters}, {Selection: Selection{Topic: "t1"}, Limit: letters}} {
		for at := 1; ; at++ {
			m := newMorgue(letters)
			n := 0
			m.on = func(string) error {
				if n++; n >= at {
					return dead
				}
				return nil
			}
			before, err := Redrive(t.Context(), m, o)
			alive := n < at
			if !alive && err == nil && before.Problem == "" {
				t.Fatalf("dead at call %d, and the answer is %+v", at, before)
			}
			m.on = nil
			after, _ := m.everything(t, o, false)
			want := letters
			if o.Topic != "" {
				want /= 2
			}
			if before.Redriven+after.Redriven != want || len(m.copies) != want || len(m.twice()) > 0 {
				t.Fatalf("dead at call %d: %d redriven before and %d after, %d copies, twice %v", at, before.Redriven, after.Redriven, len(m.copies), m.twice())
			}
			if alive {
				break
			}
		}
	}
}

func TestTheRateAndTheTimeOfACallAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMorgue(1000)
		began := time.Now()
		p, err := Redrive(t.Context(), m, Order{Limit: 1000, Rate: 10})
		if err != nil || p.Redriven != 201 || p.Next == "" || time.Since(began) != 20*time.Second {
			t.Errorf("%+v, %v, after %s; want 20 s of 10 a second and the first", p, err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		began = time.Now()
		p, err = Redrive(ctx, m, Order{Limit: 1000, Rate: 10})
		if err != nil || p.Redriven != 51 || time.Since(began) != 5*time.Second {
			t.Errorf("%+v, %v, after %s; want 5 s of the caller's 7", p, err, time.Since(began))
		}
		began = time.Now()
		if sum, _ := m.everything(t, Order{Rate: 1000}, true); sum.Redriven != 748 || time.Since(began) != 747*time.Millisecond {
			t.Errorf("%+v after %s", sum, time.Since(began))
		}
	})
}

func TestADryRunCountsAndChangesNothing(t *testing.T) {
	m := newMorgue(100, 50)
	m.everything(t, Order{Limit: 30, Selection: Selection{IDs: []string{"0-3", "0-4"}}}, true)
	m.calls = map[string]int{}
	for _, c := range []struct {
		order Order
		want  int
	}{{Order{}, 148}, {Order{Selection: Selection{Topic: "t1"}}, 74}, {Order{Selection: Selection{IDs: []string{"0-3", "0-5"}}}, 1}, {Order{Limit: 10}, 148}} {
		c.order.DryRun = true
		if sum, _ := m.everything(t, c.order, true); sum.Redriven != c.want {
			t.Errorf("%+v: %d, want %d", c.order, sum.Redriven, c.want)
		}
	}
	if m.calls["redrive"] > 0 || m.calls["mark"] > 0 || len(m.copies) != 2 {
		t.Errorf("it has changed something: %v", m.calls)
	}
}

func TestALetterThatCannotBeRedrivenHoldsUpNoOther(t *testing.T) {
	m := newMorgue(10)
	m.letters[0][2].Problem = "of a topic that is not subscribed"
	n := 0
	m.on = func(call string) error {
		if n++; call == "redrive" && m.calls["redrive"] == 5 {
			return driver.Errorf(driver.InvalidMessage, "", "it is too large")
		}
		return nil
	}
	p, err := Redrive(t.Context(), m, Order{Limit: 100})
	if err != nil || p.Redriven != 8 || p.Skipped != 2 || p.Next != "" || !strings.Contains(p.Problem, "too large") || m.marked[0] != 2 {
		t.Errorf("%+v, %v, marks %v", p, err, m.marked)
	}
}

func TestABrokerThatFailsEndsTheCallWithWhatWasDone(t *testing.T) {
	m := newMorgue(10)
	m.on = func(call string) error {
		if call == "redrive" && m.calls["redrive"] > 4 {
			return driver.Errorf(driver.Unavailable, "", "the broker is away")
		}
		return nil
	}
	p, err := Redrive(t.Context(), m, Order{Limit: 100})
	if err != nil || p.Redriven != 4 || p.Next == "" || !strings.Contains(p.Problem, "away") || m.marked[0] != 4 {
		t.Errorf("%+v, %v, marks %v", p, err, m.marked)
	}
	if _, err = Redrive(t.Context(), m, Order{Limit: 100}); driver.ReasonOf(err) != driver.Unavailable {
		t.Errorf("a call that did nothing: %v", err)
	}
}

func TestCopiesThatDoNotShowAreWaitedForAndThenTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMorgue(10)
		m.late = true
		began := time.Now()
		p, err := Redrive(t.Context(), m, Order{Selection: Selection{Topic: "t1"}, Limit: 100})
		if err != nil || p.Redriven != 5 || !strings.Contains(p.Problem, "messageIndexEnable") || time.Since(began) != showTimeout {
			t.Errorf("%+v, %v after %s", p, err, time.Since(began))
		}
		// What a mark covers need not show.
		began = time.Now()
		if p, err = Redrive(t.Context(), newLate(10), Order{Limit: 100}); err != nil || p.Problem != "" || p.Redriven != 10 || time.Since(began) != 0 {
			t.Errorf("all: %+v, %v after %s", p, err, time.Since(began))
		}
	})
}

func newLate(n int) *morgue {
	m := newMorgue(n)
	m.late = true
	return m
}

func TestACallerWhoHasGoneLeavesAMark(t *testing.T) {
	m := newMorgue(10)
	ctx, cancel := context.WithCancel(t.Context())
	m.on = func(call string) error {
		if call == "redrive" && m.calls["redrive"] == 4 {
			cancel()
		}
		return nil
	}
	p, err := Redrive(ctx, m, Order{Limit: 100})
	if err != nil || p.Redriven != 4 || m.marked[0] != 4 || p.Next == "" {
		t.Errorf("%+v, %v, marks %v", p, err, m.marked)
	}
}

func TestAListHasWhatIsLeftPageByPage(t *testing.T) {
	m := newMorgue(50, 20)
	m.everything(t, Order{Selection: Selection{IDs: []string{"0-0", "0-1", "0-7", "1-19"}}}, true)
	var ids []string
	q := Query{Limit: 9, MaxBytes: 1 << 20}
	for pages := 1; ; pages++ {
		p, err := List(t.Context(), m, q)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range p.Letters {
			ids = append(ids, l.ID)
			if l.Body != nil || l.BodyBytes != 4 {
				t.Errorf("%s: a body of %d bytes, of %d", l.ID, len(l.Body), l.BodyBytes)
			}
		}
		if p.Left != 68 {
			t.Errorf("left: %d, want 68: the mark covers two", p.Left)
		}
		if q.Token = p.Next; q.Token == "" {
			if pages != 8 {
				t.Errorf("%d pages", pages)
			}
			break
		}
	}
	if len(ids) != 66 || ids[0] != "0-2" || ids[5] != "0-8" || ids[65] != "1-18" {
		t.Errorf("%d letters: %v", len(ids), ids)
	}
	if unique := slices.Compact(slices.Sorted(slices.Values(ids))); len(unique) != len(ids) {
		t.Errorf("of %d letters only %d are different", len(ids), len(unique))
	}
	if m.calls["redrive"] != 4 || m.calls["mark"] != 1 {
		t.Errorf("a list has changed something: %v", m.calls)
	}
}

func TestAPageWithBodiesIsBounded(t *testing.T) {
	m := newMorgue(3)
	m.letters[0][1].Body = make([]byte, 100<<10)
	for i, want := range []int{1, 1, 1} {
		p, err := List(t.Context(), m, Query{Limit: 10, MaxBytes: 50 << 10, Bodies: true, Token: cursor{"b/0": int64(i)}.token()})
		if err != nil || len(p.Letters) != want || len(p.Letters[0].Body) != p.Letters[0].BodyBytes || (p.Next == "") != (i == 2) {
			t.Errorf("from %d on: %+v, %v", i, p, err)
		}
	}
}

func TestTokensThatSomebodyMadeUpHarmNothing(t *testing.T) {
	m := newMorgue(10)
	for name, token := range map[string]string{
		"not base64": "???", "not JSON": "aGVsbG8", "not numbers": "eyJiLzAiOiJ4In0", "null": "bnVsbA", "too long": strings.Repeat("a", maxTokenBytes+1),
	} {
		if _, err := List(t.Context(), m, Query{Token: token, Limit: 1}); driver.ReasonOf(err) != driver.InvalidMessage || !strings.Contains(err.Error(), "page_token") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]cursor{"before the beginning": {"b/0": -5}, "of another queue": {"x/7": 3}, "nothing": {}} {
		if p, err := List(t.Context(), m, Query{Token: c.token(), Limit: 100, MaxBytes: 1 << 20}); err != nil || len(p.Letters) != 10 {
			t.Errorf("%s: %d letters, %v", name, len(p.Letters), err)
		}
	}
	if p, err := List(t.Context(), m, Query{Token: cursor{"b/0": 99}.token(), Limit: 100}); err != nil || len(p.Letters) > 0 || p.Next != "" {
		t.Errorf("behind the end: %+v, %v", p, err)
	}
	// A forged token makes a redrive leave letters out, and the mark tells nothing wrong.
	p, err := Redrive(t.Context(), m, Order{Token: cursor{"b/0": 5}.token(), Limit: 100})
	if err != nil || p.Redriven != 5 || m.marked[0] != 0 {
		t.Errorf("%+v, %v, marks %v", p, err, m.marked)
	}
}

func TestAMarkOfADeletedTopicIsNotBelieved(t *testing.T) {
	m := newMorgue(3)
	m.marked[0] = 500
	if p, err := List(t.Context(), m, Query{Limit: 10, MaxBytes: 1 << 20}); err != nil || len(p.Letters) != 3 {
		t.Errorf("%+v, %v", p, err)
	}
}
