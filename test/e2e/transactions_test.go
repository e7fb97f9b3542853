// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
)

// deals is what the tests of transactions share: hosts on a RocketMQ of their own, because a broker keeps a core busy after its first transaction, and because
// this one asks for undecided transactions every 2 s.
type deals struct {
	t       *testing.T
	c       *cluster
	name    string
	broker  *rocketmq.Cluster
	options []localenv.OperatorOptions
	ops     []*localenv.Operator
}

// dealer is the RocketMQ of these tests, started by the first one.
var dealer struct {
	once   sync.Once
	broker *rocketmq.Cluster
	err    error
}

func startDeals(t *testing.T, hosts int, spec ...string) *deals {
	t.Helper()
	d := &deals{t: t, c: start(t), name: unique(t)}
	dealer.once.Do(func() {
		dealer.broker, dealer.err = rocketmq.Start(context.WithoutCancel(t.Context()), rocketmq.Options{Log: os.Stderr, ExtraBrokerConf: map[string]string{
			"transactionTimeOut": "1500", "transactionCheckInterval": "2000", "transactionCheckMax": "100",
		}})
		if dealer.err == nil {
			shared.stops = append(shared.stops, dealer.broker.Stop)
		}
	})
	must(t, dealer.err)
	d.broker = dealer.broker
	for i := range hosts {
		o := localenv.OperatorOptions{HostID: fmt.Sprintf("%s-%c", d.name, 'a'+i), NameServers: d.broker.NameServers()}
		op := d.c.operator(t, o)
		o.Ports = op.Ports
		d.options, d.ops = append(d.options, o), append(d.ops, op)
	}
	must(t, d.broker.CreateTopic(t.Context(), d.name, 2, nil))
	d.c.apply(t,
		producer(d.name, d.name, append([]string{"driver: Remoting", "drainTimeoutSeconds: 1"}, spec...)...),
		consumer(d.name, "g_"+d.name, d.name, "driver: Remoting", "drainTimeoutSeconds: 1"))
	d.c.waitReady(t, "rmqp/"+d.name, "rmqc/"+d.name)
	return d
}

// done deletes the objects while their hosts run.
func (d *deals) done() {
	d.t.Helper()
	d.c.delete(d.t, "rmqp/"+d.name, "rmqc/"+d.name)
}

// again starts a host that has ended.
func (d *deals) again(i int) {
	d.t.Helper()
	d.ops[i] = d.c.operator(d.t, d.options[i])
}

func (d *deals) post(host int, path, body string) (int, string) {
	d.t.Helper()
	code, answer, err := d.ops[host].Post(d.t.Context(), d.c.appToken, "/v1alpha1/namespaces/"+namespace+path, body)
	must(d.t, err)
	return code, string(answer)
}

// begin answers the transaction of a message that is begun through a host.
func (d *deals) begin(host int, id string) string {
	d.t.Helper()
	var begun struct{ Transaction string }
	code, answer := d.post(host, "/producers/"+d.name+":beginTransaction", fmt.Sprintf(`{"message": {"id": %q, "json": {"order": 4711}, "tag": "paid"}}`, id))
	must(d.t, json.Unmarshal([]byte(answer), &begun))
	if code != http.StatusOK || begun.Transaction == "" {
		d.t.Fatalf("begin %s: %d %s", id, code, answer)
	}
	d.t.Logf("begin %s through host %d: %s", id, host, answer)
	return begun.Transaction
}

// end demands an answer of that HTTP code.
func (d *deals) end(host int, transaction, decision string, want int) {
	d.t.Helper()
	code, answer := d.post(host, "/producers/"+d.name+":endTransaction", fmt.Sprintf(`{"transaction": %q, "decision": %q}`, transaction, decision))
	d.t.Logf("%s through host %d: %d %s", decision, host, code, answer)
	if code != want {
		d.t.Errorf("%s through host %d: %d %s, want %d", decision, host, code, answer, want)
	}
}

// checks opens a TransactionChecks stream at a host.
func (d *deals) checks(host int) *asked {
	d.t.Helper()
	ctx, cancel := context.WithCancel(d.t.Context())
	stream, err := pb.NewProducerServiceClient(d.c.dial(d.t, d.ops[host])).TransactionChecks(ctx)
	if err == nil {
		err = stream.Send(&pb.TransactionChecksRequest{Namespace: namespace, Producer: d.name})
	}
	must(d.t, err)
	d.t.Cleanup(cancel)
	return &asked{d.t, stream, cancel, map[string]*pb.TransactionCheck{}}
}

// asked is a TransactionChecks stream.
type asked struct {
	t      *testing.T
	stream pb.ProducerService_TransactionChecksClient
	kill   func()
	// seen are checks that came while another one was waited for.
	seen map[string]*pb.TransactionCheck
}

// next waits for a check of the message.
func (a *asked) next(id string) *pb.TransactionCheck {
	a.t.Helper()
	for a.seen[id] == nil {
		res, err := a.stream.Recv()
		if err != nil {
			a.t.Fatalf("wait for a check of %s: %v", id, err)
		}
		a.see(res)
	}
	c := a.seen[id]
	delete(a.seen, id)
	a.t.Logf("check: %v", c)
	return c
}

func (a *asked) see(res *pb.TransactionChecksResponse) {
	for _, c := range res.GetChecks() {
		a.seen[c.GetMessage().GetId()] = c
	}
}

// answer demands that it is taken.
func (a *asked) answer(c *pb.TransactionCheck, decision pb.Decision) {
	a.t.Helper()
	must(a.t, a.stream.Send(&pb.TransactionChecksRequest{Resolutions: []*pb.TransactionResolution{{Transaction: c.GetTransaction(), Decision: decision}}}))
	for {
		res, err := a.stream.Recv()
		if err != nil {
			a.t.Fatalf("wait for the result of %s: %v", decision, err)
		}
		a.see(res)
		for _, r := range res.GetResults() {
			if r.GetTransaction() == c.GetTransaction() {
				a.t.Logf("result: %v", r)
				if r.GetError() != nil {
					a.t.Errorf("%s: %v", decision, r.GetError())
				}
				return
			}
		}
	}
}

// delivered takes what comes, until quiet has passed without anything, and answers how often each id came.
func (d *deals) delivered(host int, quiet time.Duration) map[string]int {
	d.t.Helper()
	came := map[string]int{}
	for {
		code, answer := d.post(host, "/consumers/"+d.name+":pull", fmt.Sprintf(`{"max_messages": 1000, "wait": "%.0fs"}`, quiet.Seconds()))
		var got struct {
			Deliveries []struct {
				Token   string `json:"ack_token"`
				Message struct{ ID string }
			}
		}
		must(d.t, json.Unmarshal([]byte(answer), &got))
		if code != http.StatusOK {
			d.t.Fatalf("pull: %d %s", code, answer)
		}
		if len(got.Deliveries) == 0 {
			return came
		}
		var tokens []string
		for _, one := range got.Deliveries {
			came[one.Message.ID]++
			tokens = append(tokens, one.Token)
		}
		list, err := json.Marshal(tokens)
		must(d.t, err)
		if code, answer := d.post(host, "/consumers/"+d.name+":ack", fmt.Sprintf(`{"ack_tokens": %s}`, list)); code != http.StatusOK {
			d.t.Fatalf("ack: %d %s", code, answer)
		}
	}
}

// TestATransactionIsDeliveredByItsCommitAndOnce is a user's way through docs/api.md, on two hosts: commit, rollback, unknown, an application and a host that die
// between the steps, and a commit after a check.
func TestATransactionIsDeliveredByItsCommitAndOnce(t *testing.T) {
	d := startDeals(t, 2, "transactions: {}")
	want := map[string]int{}
	id := func(what string, times int) string {
		id := what + "-" + uuid.NewString()[:8]
		want[id] = times
		return id
	}

	yes, no := d.begin(0, id("committed", 1)), d.begin(0, id("rolled-back", 0))
	for range 2 {
		d.end(1, yes, "COMMIT", http.StatusOK)
		d.end(0, no, "ROLLBACK", http.StatusOK)
	}
	d.end(0, yes, "ROLLBACK", http.StatusBadRequest)
	d.end(0, no, "COMMIT", http.StatusBadRequest)

	// The host that began it is killed; the other one ends it.
	orphan := d.begin(0, id("host-killed", 1))
	must(t, d.ops[0].Kill())
	d.end(1, orphan, "COMMIT", http.StatusOK)

	// The application is killed before it answers; its successor is asked, cannot tell, and decides when it is asked again.
	undecided, answeredNo, trap := id("application-killed", 1), id("answered-no", 0), id("committed-after-a-check", 1)
	d.begin(1, undecided)
	d.begin(1, answeredNo)
	late := d.begin(1, trap)
	d.again(0) // so that deleting need not wait for a dead host
	first := d.checks(1)
	first.next(undecided)
	first.kill()
	second := d.checks(1)
	second.answer(second.next(undecided), pb.Decision_UNKNOWN)
	second.answer(second.next(undecided), pb.Decision_COMMIT)

	// A commit by the transaction's first name after a check, and then the answer to that check: RocketMQ alone would deliver it twice.
	check := second.next(trap)
	d.end(1, late, "COMMIT", http.StatusOK)
	second.answer(check, pb.Decision_COMMIT)
	second.answer(second.next(answeredNo), pb.Decision_ROLLBACK)
	d.end(1, late, "COMMIT", http.StatusOK)

	d.same(d.delivered(1, 4*time.Second), want)
	d.done()
}

func (d *deals) same(came, want map[string]int) {
	d.t.Helper()
	for id, n := range want {
		if came[id] != n {
			d.t.Errorf("%s came %d times, want %d", id, came[id], n)
		}
	}
	for id, n := range came {
		if _, known := want[id]; !known {
			d.t.Errorf("%s came %d times and was never begun", id, n)
		}
	}
}

// TestAnAddressIsAskedAndSilenceIsTold: spec.transactions.checkURL decides a transaction, and while it does not answer an Event of the Producer and a metric
// say so.
func TestAnAddressIsAskedAndSilenceIsTold(t *testing.T) {
	var mu sync.Mutex
	works, bodies := false, []string{}
	application := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		mu.Lock()
		defer mu.Unlock()
		if err != nil || !works {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		bodies = append(bodies, string(body))
		_, _ = w.Write([]byte(`{"decision": "COMMIT"}`)) // the operator asks again when it does not arrive
	}))
	t.Cleanup(application.Close)
	d := startDeals(t, 1, "transactions: {checkURL: '"+application.URL+"/checks'}")
	id := "asked-" + uuid.NewString()[:8]
	d.begin(0, id)
	eventually(t, 60*time.Second, "an Event tells of it", func() error {
		out, err := d.c.control.Output(t.Context(), "get", "events", "-n", namespace, "--field-selector=reason=TransactionUndecided", "-o", "jsonpath={.items[*].note}{.items[*].message}")
		if err == nil && !strings.Contains(out, id) {
			err = fmt.Errorf("events: %q", out)
		}
		if err == nil {
			t.Log(out)
		}
		return err
	})
	mu.Lock()
	works = true
	mu.Unlock()
	d.same(d.delivered(0, 4*time.Second), map[string]int{id: 1})
	mu.Lock()
	defer mu.Unlock()
	if len(bodies) != 1 || !strings.Contains(bodies[0], id) {
		t.Errorf("asked: %q", bodies)
	}
	t.Log(bodies)
	unanswered := 0.0
	for _, op := range d.ops {
		samples, err := op.Metrics(t.Context(), d.c.monToken)
		must(t, err)
		unanswered += samples[fmt.Sprintf(`rocketmq_proxy_transaction_checks_total{name=%q,namespace=%q,outcome="unanswered"}`, d.name, namespace)]
	}
	if unanswered < 2 {
		t.Errorf("%v checks were counted as unanswered", unanswered)
	}
	d.done()
}
