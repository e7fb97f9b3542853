// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package peers_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/peer/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/peers"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// leases is a Directory that a test writes.
type leases struct {
	mu            sync.Mutex
	known, actual []peers.Member
	looks         int
	err           error
	forgets       bool // what Look has found is not remembered
}

func (l *leases) Members() []peers.Member {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.known)
}

func (l *leases) Look(context.Context) ([]peers.Member, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.looks++
	switch {
	case l.err != nil:
		return nil, l.err
	case !l.forgets:
		l.known = l.actual
	}
	return slices.Clone(l.actual), nil
}

func (l *leases) looked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.looks
}

// window answers what it is told to, and remembers the question.
type window struct {
	mu       sync.Mutex
	asked    []delivery.Settlement
	results  []delivery.Result
	hang     chan struct{} // closed by the test's end
	hangs    chan struct{} // one for each question that hangs
	released int
}

func (w *window) Settle(ctx context.Context, s delivery.Settlement) []delivery.Result {
	w.mu.Lock()
	w.asked = append(w.asked, s)
	w.mu.Unlock()
	if w.hang != nil {
		select {
		case w.hangs <- struct{}{}:
		default:
		}
		select {
		case <-w.hang:
		case <-ctx.Done():
		}
	}
	return w.results
}

// waitAsked waits for one more question, while the window hangs.
func (w *window) waitAsked(t *testing.T) {
	t.Helper()
	select {
	case <-w.hangs:
	case <-time.After(5 * time.Second):
		t.Error("no question came")
	}
}

func (w *window) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.released++
}

func (w *window) count() (asked, released int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.asked), w.released
}

// nothing is a registry without entries: the server is here for its peer service only.
type nothing struct{}

func (nothing) Use(_ context.Context, kind registry.Kind, namespace, name string) (server.Use, error) {
	return nil, &registry.NotFoundError{Kind: kind, Namespace: namespace, Name: name}
}

func (n nothing) UseDraining(kind registry.Kind, namespace, name string) (server.Use, error) {
	return n.Use(context.Background(), kind, namespace, name)
}

// world is host A, which asks, and host B, which is asked, on a real port.
type world struct {
	t       *testing.T
	leases  *leases
	window  *window
	a       *peers.Peers
	address string
	b       *server.Server
	mu      sync.Mutex
	ends    []peers.Outcome
	key     delivery.Key
	lines   atomic.Int64 // of A's log
}

func newWorld(t *testing.T, results ...delivery.Result) *world {
	t.Helper()
	w := &world{t: t, leases: &leases{}, window: &window{results: results, hangs: make(chan struct{}, 100)}, key: delivery.RandomKey()}
	w.serve("host-b", "2", w.key)
	w.a = peers.New(peers.Options{
		Host: "host-a", Incarnation: "1", Sealer: sealer(t, w.key), Directory: w.leases, Plaintext: true,
		Log:    funcr.New(func(string, string) { w.lines.Add(1) }, funcr.Options{}),
		Window: func(string) (peers.Window, func(), bool) { return nil, nil, false },
		Asked: func(o peers.Outcome) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.ends = append(w.ends, o)
		},
	})
	t.Cleanup(w.a.Close)
	w.leases.known = []peers.Member{{Host: "host-a", Incarnation: "1"}, {Host: "host-b", Incarnation: "2", Address: w.address}}
	w.leases.actual = w.leases.known
	return w
}

func sealer(t *testing.T, key delivery.Key) *delivery.Sealer {
	t.Helper()
	s, err := delivery.NewSealer(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serve starts host B, or another one in its place.
func (w *world) serve(host, incarnation string, key delivery.Key) {
	w.t.Helper()
	answers := peers.New(peers.Options{
		Host: host, Incarnation: incarnation, Sealer: sealer(w.t, key), Directory: w.leases, Plaintext: true, Log: logr.Discard(),
		Window: func(uid string) (peers.Window, func(), bool) { return w.window, w.window.release, uid == "uid" },
	})
	b, err := server.New(server.Options{Registry: nothing{}, Peers: answers, Limits: server.Limits{MaxCallsPerCaller: 1}, Log: logr.Discard()})
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.address, w.b = l.Addr().String(), b
	done := make(chan error, 1)
	go func() { done <- b.ServeGRPC(l) }()
	w.t.Cleanup(func() {
		w.kill(b)
		if err := <-done; err != nil {
			w.t.Error(err)
		}
		answers.Close()
	})
}

// replace starts another process behind the address that the Lease of host B names.
func (w *world) replace(host, incarnation string, key delivery.Key) {
	w.serve(host, incarnation, key)
	w.leases.known[1].Address = w.address
}

// kill ends host B without patience.
func (w *world) kill(b *server.Server) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	b.Close(ctx)
}

func (w *world) ask(incarnation string, action delivery.Action, items ...delivery.SettlementItem) ([]delivery.Result, error) {
	return w.a.Settle(w.t.Context(), "host-b", incarnation, delivery.Settlement{ConsumerUID: "uid", Action: action, Items: items})
}

func (w *world) want(what string, err, want error, end peers.Outcome) {
	w.t.Helper()
	if !errors.Is(err, want) {
		w.t.Errorf("%s: %v, want %v", what, err, want)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if last := w.ends[len(w.ends)-1]; last != end {
		w.t.Errorf("%s: counted as %s, want %s", what, last, end)
	}
}

func TestAHostAnswersWithTheWindowThatMadeTheToken(t *testing.T) {
	deadline := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	results := []delivery.Result{
		{Outcome: delivery.OK, NewToken: "new", Deadline: deadline},
		{Outcome: delivery.Expired, Detail: "replaced by a newer token \xff"},
		{Outcome: delivery.Retry, Detail: "busy", EffectiveDelay: 3 * time.Second},
		{Outcome: delivery.Invalid, Detail: "not a token"},
	}
	w := newWorld(t, results...)
	items := []delivery.SettlementItem{{Token: "t1", Duration: time.Minute}, {Token: "t2", ByBackoff: true, Reason: "why"}, {Token: "t3", Duration: -time.Second}, {}}
	for _, action := range []delivery.Action{delivery.ActionAck, delivery.ActionNack, delivery.ActionModify} {
		got, err := w.ask("2", action, items...)
		w.want("a question", err, nil, peers.Answered)
		want := slices.Clone(results)
		want[1].Detail = "replaced by a newer token ?"
		if !slices.Equal(got, want) {
			t.Errorf("answered %+v, want %+v", got, want)
		}
		last := w.window.asked[len(w.window.asked)-1]
		if last.Action != action || last.ConsumerUID != "uid" || !slices.Equal(last.Items, items) {
			t.Errorf("the window was asked %+v", last)
		}
	}
	if asked, released := w.window.count(); asked != 3 || released != 3 {
		t.Errorf("asked %d times, released %d times, want 3 and 3", asked, released)
	}
}

func TestWhatIsSurelyNotDoneIsToldApartFromWhatMayBe(t *testing.T) {
	ack := func(w *world) error {
		_, err := w.ask("2", delivery.ActionAck, delivery.SettlementItem{Token: "t"})
		return err
	}
	cases := []struct {
		name string
		// before prepares; then the question is asked.
		before func(w *world)
		want   error
		end    peers.Outcome
		asked  int
	}{
		{"the port is closed", func(w *world) { w.kill(w.b) }, delivery.ErrNotAsked, peers.NotAsked, 0},
		{"the port is closed and the Lease is stale", func(w *world) { w.kill(w.b); w.leases.known[1].Stale = true }, delivery.ErrPeerGone, peers.Gone, 0},
		{"a stale Lease whose host lives", func(w *world) { w.leases.known[1].Stale = true }, nil, peers.Answered, 1},
		{"it names no address", func(w *world) { w.leases.known[1].Address = "" }, delivery.ErrNotAsked, peers.NotAsked, 0},
		// Its deliveries come again, so that with drivers of one host RETRY would be wrong, and last until the deadline.
		{"the window that made the token has ended", func(w *world) { w.window = nil }, delivery.ErrPeerGone, peers.Gone, 0},
		{"its Lease has gone", func(w *world) { w.leases.known = w.leases.known[:1]; w.leases.actual = w.leases.known }, delivery.ErrPeerGone, peers.Gone, 0},
		{"a list that is too old to have it", func(w *world) { w.leases.known = w.leases.known[:1] }, nil, peers.Answered, 1},
		{"the Leases cannot be read", func(w *world) { w.leases.known, w.leases.err = nil, errors.New("the API server is away") }, delivery.ErrNotAsked, peers.NotAsked, 0},
		{"another process has its address", func(w *world) { w.replace("host-b", "3", w.key) }, delivery.ErrPeerGone, peers.Gone, 0},
		// As when all hosts name a Service, or their own loopback: that says nothing about the life of the one that is meant.
		{"another host has its address", func(w *world) { w.replace("host-c", "2", w.key) }, delivery.ErrNotAsked, peers.NotAsked, 0},
		{"it has other keys", func(w *world) { w.replace("host-b", "2", delivery.RandomKey()) }, delivery.ErrNotAsked, peers.NotAsked, 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, delivery.Result{Outcome: delivery.OK})
			kept := w.window
			if c.before(w); w.window == nil {
				w.window = kept
				_, err := w.a.Settle(t.Context(), "host-b", "2", delivery.Settlement{ConsumerUID: "another"})
				w.want("the question", err, c.want, c.end)
				return
			}
			w.want("the question", ack(w), c.want, c.end)
			if asked, _ := kept.count(); asked != c.asked {
				t.Errorf("the window was asked %d times, want %d", asked, c.asked)
			}
		})
	}
}

func TestAnAnswerThatDoesNotComeLeavesTheEffectOpen(t *testing.T) {
	w := newWorld(t)
	w.window.hang = make(chan struct{})
	defer close(w.window.hang)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := w.a.Settle(ctx, "host-b", "2", delivery.Settlement{ConsumerUID: "uid"})
	if err == nil || errors.Is(err, delivery.ErrNotAsked) || errors.Is(err, delivery.ErrPeerGone) {
		t.Errorf("no answer: %v, which says more than anybody knows", err)
	}
	w.want("no answer", err, err, peers.Unknown)
}

// A look that was begun for others has the host; what the Directory remembers may be the answer of an older look, which was slower.
func TestOneLookAnswersAllWhoWaitForIt(t *testing.T) {
	w := newWorld(t, delivery.Result{Outcome: delivery.OK})
	w.leases.known, w.leases.forgets = w.leases.known[:1], true
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := w.ask("2", delivery.ActionAck); err != nil {
				t.Errorf("a process that lives: %v", err)
			}
		})
	}
	all.Wait()
}

// What one application may have under way is no measure for all that other hosts ask.
func TestHostsAreNotLimitedAsOneCaller(t *testing.T) {
	w := newWorld(t, delivery.Result{Outcome: delivery.OK})
	w.window.hang = make(chan struct{})
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			if _, err := w.ask("2", delivery.ActionAck); err != nil {
				t.Error(err)
			}
		})
	}
	for range 3 {
		w.window.waitAsked(t)
	}
	close(w.window.hang)
	all.Wait()
}

// Who acknowledges and cancels, again and again, must not fill the disk.
func TestQuestionsWithoutAnswersAreLoggedNowAndThen(t *testing.T) {
	w := newWorld(t)
	w.window.hang = make(chan struct{})
	defer close(w.window.hang)
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = w.a.Settle(ctx, "host-b", "2", delivery.Settlement{ConsumerUID: "uid"})
		}()
		w.window.waitAsked(t)
		cancel()
		<-ended
	}
	if n := w.lines.Load(); n == 0 || n > 3 {
		t.Errorf("%d lines for 20 questions", n)
	}
}

// TestTokensOfDeadProcessesDoNotDriveTheAPIServer: each process is looked for once, whoever asks and how often.
func TestTokensOfDeadProcessesDoNotDriveTheAPIServer(t *testing.T) {
	w := newWorld(t)
	for range 3 {
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if _, err := w.ask("dead", delivery.ActionAck); !errors.Is(err, delivery.ErrPeerGone) {
					t.Errorf("a dead process: %v", err)
				}
			})
		}
		all.Wait()
	}
	if n := w.leases.looked(); n > 2 {
		t.Errorf("the Leases were read %d times", n)
	}
	w.leases.mu.Lock()
	w.leases.err = errors.New("the API server is away")
	w.leases.mu.Unlock()
	before := w.leases.looked()
	for range 20 {
		if _, err := w.ask("unknown", delivery.ActionAck); !errors.Is(err, delivery.ErrNotAsked) {
			t.Errorf("an unknown process while the API server is away: %v", err)
		}
	}
	if n := w.leases.looked() - before; n > 1 {
		t.Errorf("the Leases were tried %d times while the API server was away", n)
	}
}

// TestOnlyHostsMayAsk: callers of the port without the key are refused before anything of theirs is read, and what was recorded is of no use.
func TestOnlyHostsMayAsk(t *testing.T) {
	w := newWorld(t, delivery.Result{Outcome: delivery.OK})
	conn, err := grpc.NewClient("passthrough:///"+w.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	good := sealer(t, w.key)
	now := []byte{0, 0, 0, 0, 0, 0, 0, 1} // a millisecond after 1970
	for name, credential := range map[string][]string{
		"no credential":              nil,
		"nonsense":                   {"nonsense"},
		"two":                        {"a", "b"},
		"of another key":             {string(sealer(t, delivery.RandomKey()).Seal("peer call", now))},
		"of another purpose":         {string(good.Seal("peer question", now))},
		"old":                        {string(good.Seal("peer call", now))},
		"of a length that is not it": {string(good.Seal("peer call", now[:4]))},
	} {
		ctx := metadata.NewOutgoingContext(t.Context(), metadata.MD{peers.CredentialKey: credential})
		_, err := pb.NewPeerServiceClient(conn).Settle(ctx, &pb.SettleRequest{Sealed: []byte("x")})
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
	if asked, _ := w.window.count(); asked != 0 {
		t.Errorf("a window was asked %d times", asked)
	}
}

func TestConnectionsEndWithTheirHostAndWithClose(t *testing.T) {
	w := newWorld(t, delivery.Result{Outcome: delivery.OK})
	if _, err := w.ask("2", delivery.ActionAck); err != nil {
		t.Fatal(err)
	}
	w.leases.mu.Lock()
	w.leases.known = w.leases.known[:1]
	w.leases.mu.Unlock()
	before := goleak.IgnoreCurrent()
	w.a.HostsChanged()
	w.leases.mu.Lock()
	w.leases.known = w.leases.actual
	w.leases.mu.Unlock()
	goleak.VerifyNone(t, before)
	if _, err := w.ask("2", delivery.ActionAck); err != nil {
		t.Errorf("a host that is back: %v", err)
	}
	w.a.Close()
	_, err := w.ask("2", delivery.ActionAck)
	if !errors.Is(err, delivery.ErrNotAsked) || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("after Close: %v", err)
	}
}
