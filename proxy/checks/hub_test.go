// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a hub over a driver that is a function.
type rig struct {
	t    *testing.T
	hub  *Hub
	fail error

	mu       sync.Mutex
	take     func(driver.Check) bool
	watched  int
	ended    map[string]driver.Decision
	outcomes []string
	troubles []string
	answered int // posts that were
}

func newRig(t *testing.T, post *Poster) *rig {
	r := &rig{t: t, ended: map[string]driver.Decision{}}
	r.hub = New(Options{
		Watch: r.watch, Seal: func(c driver.Check) string { return "sealed " + string(c.Handle) }, End: r.end, Post: post, Observer: r,
		Trouble: func(err error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if err == nil {
				r.answered++
				return
			}
			r.troubles = append(r.troubles, err.Error())
		},
	})
	t.Cleanup(r.hub.Close)
	return r
}

func (r *rig) watch(take func(driver.Check) bool) func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.take = take
	r.watched++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.take = nil
	}
}

func (r *rig) end(_ context.Context, transaction string, d driver.Decision) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return "", r.fail
	}
	r.ended[transaction] = d
	return strings.TrimPrefix(transaction, "sealed "), nil
}

func (r *rig) CheckEnded(o Outcome, times int, id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outcomes = append(r.outcomes, fmt.Sprintf("%s %s %d", id, o, times))
}

// ask is a check of the driver.
func (r *rig) ask(id string) bool {
	r.mu.Lock()
	take := r.take
	r.mu.Unlock()
	if take == nil {
		return false
	}
	return take(driver.Check{Message: driver.Message{ID: id}, Handle: driver.TransactionHandle(id), Times: 1})
}

func (r *rig) watches() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.take != nil
}

func (r *rig) want(outcomes ...string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.Sort(r.outcomes)
	slices.Sort(outcomes)
	if !slices.Equal(r.outcomes, outcomes) {
		r.t.Errorf("outcomes %q, want %q", r.outcomes, outcomes)
	}
}

func ids(cs []*Check) (all []string) {
	for _, c := range cs {
		all = append(all, c.ID)
	}
	return all
}

func TestAHubWatchesWhileSomebodyCanBeAsked(t *testing.T) {
	r := newRig(t, nil)
	if r.watches() || r.ask("x") {
		t.Error("it watches although nobody can be asked")
	}
	a, b := r.hub.Attach(), r.hub.Attach()
	if !r.watches() || r.watched != 1 {
		t.Errorf("with two receivers it watches: %v, begun %d times", r.watches(), r.watched)
	}
	a.Close()
	a.Close()
	if !r.watches() {
		t.Error("it stopped although one receiver is left")
	}
	b.Close()
	if r.watches() {
		t.Error("it watches for nobody")
	}
	c := r.hub.Attach()
	r.hub.Drain()
	if r.watches() {
		t.Error("it watches while it drains")
	}
	select {
	case <-c.Draining():
	default:
		t.Error("the receiver is not told")
	}
	r.hub.Attach().Close()
	if r.watches() {
		t.Error("a receiver that came late made it watch again")
	}
}

func TestChecksGoToReceiversInTurnAndAnswersDecide(t *testing.T) {
	r := newRig(t, nil)
	a, b := r.hub.Attach(), r.hub.Attach()
	for i := range 4 {
		if !r.ask(fmt.Sprint(i)) {
			t.Fatalf("check %d was not taken", i)
		}
	}
	first, second := a.Take(10), b.Take(10)
	if len(first) != 2 || len(second) != 2 || a.Open() != 2 {
		t.Fatalf("a has %q, b %q, %d open", ids(first), ids(second), a.Open())
	}
	resolve := func(r *Receiver, c *Check, d driver.Decision) {
		t.Helper()
		if id, err := r.Resolve(t.Context(), c.Transaction, d); err != nil || d != "" && id != c.ID {
			t.Errorf("resolve %s: %q, %v", c.ID, id, err)
		}
	}
	resolve(a, first[0], driver.Commit)
	resolve(a, first[1], driver.Rollback)
	resolve(b, second[0], "")
	r.fail = errors.New("no")
	if _, err := b.Resolve(t.Context(), second[1].Transaction, driver.Commit); err == nil {
		t.Error("an end that failed is told as done")
	}
	r.fail = nil
	// Whoever knows the transaction may decide, also twice; the account has one end for each check.
	resolve(b, first[0], driver.Commit)
	r.want(first[0].ID+" committed 1", first[1].ID+" rolled_back 1", second[0].ID+" unknown 1", second[1].ID+" failed 1")
	want := map[string]driver.Decision{first[0].Transaction: driver.Commit, first[1].Transaction: driver.Rollback}
	if !maps.Equal(r.ended, want) {
		t.Errorf("ended %v, want %v", r.ended, want)
	}
}

func TestWhatWasNotTakenGoesToAnotherReceiver(t *testing.T) {
	r := newRig(t, nil)
	a := r.hub.Attach()
	for _, id := range []string{"taken", "waits"} {
		if !r.ask(id) {
			t.Fatal(id)
		}
	}
	a.Take(1)
	b := r.hub.Attach()
	a.Close()
	if got := ids(b.Take(10)); !slices.Equal(got, []string{"waits"}) {
		t.Errorf("b got %q", got)
	}
	r.want("taken unanswered 1")
	b.Close()
	r.want("taken unanswered 1", "waits unanswered 1")
}

func TestAReceiverHasRoomForSoMany(t *testing.T) {
	r := newRig(t, nil)
	a := r.hub.Attach()
	for i := range maxOpen {
		if !r.ask(fmt.Sprint(i)) {
			t.Fatalf("check %d was not taken", i)
		}
	}
	if r.ask("one too many") {
		t.Error("more than maxOpen were taken")
	}
	r.want("one too many unanswered 1")
	a.Take(1)
	if _, err := a.Resolve(t.Context(), "sealed 0", ""); err != nil {
		t.Fatal(err)
	}
	if !r.ask("fits again") {
		t.Error("an answer made no room")
	}
}

func TestAnswersThatDoNotComeAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		a := r.hub.Attach()
		r.ask("slow")
		late := a.Take(1)[0]
		time.Sleep(AnswerTime - time.Second)
		a.Expire()
		r.want()
		time.Sleep(time.Second)
		a.Expire()
		r.want("slow unanswered 1")
		if _, err := a.Resolve(t.Context(), late.Transaction, driver.Commit); err != nil {
			t.Error(err)
		}
		if r.ended[late.Transaction] != driver.Commit {
			t.Error("an answer that came late did not decide")
		}
		r.want("slow unanswered 1")
		r.hub.Close()
	})
}

func TestDecisionsByHTTP(t *testing.T) {
	answers := map[string]struct {
		status  int
		body    string
		outcome Outcome
		trouble string
	}{
		"commit":     {200, `{"decision": "COMMIT"}`, Committed, ""},
		"rollback":   {200, `{"decision": "rollback", "why": "no money"}`, RolledBack, ""},
		"unknown":    {200, `{"decision": "UNKNOWN"}`, Unknown, ""},
		"nonsense":   {200, `COMMIT`, Unanswered, "not the JSON"},
		"undecided":  {200, `{}`, Unanswered, "no decision"},
		"made up":    {200, `{"decision": "MAYBE"}`, Unanswered, "no decision"},
		"an error":   {500, `{"decision": "COMMIT"}`, Unanswered, "status 500"},
		"a redirect": {302, ``, Unanswered, "status 302"},
		"huge":       {200, `{"decision": "COMMIT", "x": "` + strings.Repeat("x", maxAnswerBytes) + `"}`, Unanswered, "more than"},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		a := answers[q.Header.Get("Test-Id")]
		if q.Method != http.MethodPost || q.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s with %v", q.Method, q.Header)
		}
		w.Header().Set("Location", "http://127.0.0.1:1/elsewhere")
		w.WriteHeader(a.status)
		_, _ = w.Write([]byte(a.body))
	}))
	defer server.Close()
	for name, a := range answers {
		t.Run(name, func(t *testing.T) {
			post := NewPoster(server.URL, func(string) error { return nil }, func(*Check) ([]byte, error) { return []byte("{}"), nil })
			post.client.Transport = named{name, post.client.Transport}
			r := newRig(t, post)
			if !r.ask(name) {
				t.Fatal("it was not taken")
			}
			r.hub.work.Wait()
			r.want(name + " " + string(a.outcome) + " 1")
			if r.mu.Lock(); (a.trouble != "") != (len(r.troubles) == 1) || a.trouble != "" && !strings.Contains(r.troubles[0], a.trouble) {
				t.Errorf("troubles %q, want %q", r.troubles, a.trouble)
			}
			if (r.answered == 1) != (a.trouble == "") {
				t.Errorf("%d posts are said to be answered, the trouble is %q", r.answered, a.trouble)
			}
			r.mu.Unlock()
		})
	}
}

// named adds a header, which tells the server what to answer.
type named struct {
	id string
	http.RoundTripper
}

func (n named) RoundTrip(q *http.Request) (*http.Response, error) {
	q.Header.Set("Test-Id", n.id)
	return n.RoundTripper.RoundTrip(q)
}

// CloseIdleConnections lets http.Client reach the real transport.
func (n named) CloseIdleConnections() { n.RoundTripper.(*http.Transport).CloseIdleConnections() }

func TestARefusedAddressIsNotDialled(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was called") }))
	defer server.Close()
	var asked string
	post := NewPoster(strings.Replace(server.URL, "127.0.0.1", "localhost", 1)+"/checks?key=s3cret", func(address string) error {
		asked = address
		return errors.New("loopback is not allowed")
	}, func(*Check) ([]byte, error) { return []byte("{}"), nil })
	r := newRig(t, post)
	r.ask("x")
	r.hub.work.Wait()
	r.want("x unanswered 1")
	if len(r.troubles) != 1 || !strings.Contains(r.troubles[0], "loopback is not allowed") || !strings.Contains(asked, ":") || strings.Contains(asked, "localhost") {
		t.Errorf("asked for %q, troubles %q", asked, r.troubles)
	}
	if strings.Contains(r.troubles[0], "s3cret") {
		t.Errorf("a log or an Event would have what may be a secret: %s", r.troubles[0])
	}
}

func TestPostsAreBoundedAndEndWithTheHub(t *testing.T) {
	arrived, leave := make(chan struct{}, 100), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		arrived <- struct{}{}
		select {
		case <-q.Context().Done():
		case <-leave:
		}
	}))
	defer server.Close()
	defer close(leave)
	post := NewPoster(server.URL, func(string) error { return nil }, func(*Check) ([]byte, error) { return []byte("{}"), nil })
	r := newRig(t, post)
	if !r.watches() {
		t.Fatal("a hub with an address does not watch")
	}
	for i := range maxPosts {
		if !r.ask(fmt.Sprint(i)) {
			t.Fatalf("check %d was not taken", i)
		}
	}
	for range maxPosts {
		<-arrived
	}
	if r.ask("one too many") {
		t.Error("more than maxPosts were taken")
	}
	// A stream is asked before the address is.
	a := r.hub.Attach()
	if !r.ask("by stream") || len(a.Take(10)) != 1 {
		t.Error("the stream was not asked")
	}
	a.Close()
	began := time.Now()
	r.hub.Close()
	if took := time.Since(began); took > PostTimeout/2 {
		t.Errorf("Close took %s", took)
	}
	if len(r.troubles) > 0 {
		t.Errorf("a stop is told as trouble: %q", r.troubles)
	}
}
