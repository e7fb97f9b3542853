// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// TestTransactionsSurviveKills: applications begin, decide, die between the steps, end through any host and on both at once, answer checks or do not,
// while hosts and the broker are killed. In the end RocketMQ has each message that the applications' database committed, once, and no other.
func TestTransactionsSurviveKills(t *testing.T) {
	if !long() {
		t.Skip("with LONG=1; TestATransactionIsDeliveredByItsCommitAndOnce is the short form")
	}
	const load, between = 90 * time.Second, 6 * time.Second
	d := startDeals(t, 2, "transactions: {}")
	b := &bank{d: d, ops: [2]*localenv.Operator(d.ops), decided: map[string]string{}}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var responders, workers sync.WaitGroup
	for range 3 {
		responders.Go(func() { b.respond(ctx) })
	}
	until := time.Now().Add(load)
	for range 6 {
		workers.Go(func() {
			for time.Now().Before(until) {
				b.deal()
			}
		})
	}
	kills := 0
	for ; time.Now().Add(between).Before(until); kills++ {
		time.Sleep(between) // the load in between is the test
		if kills == 6 {
			// The broker too, once: it forgets what it had not written down, and asks again.
			must(t, d.broker.KillBroker())
			must(t, d.broker.StartBroker(t.Context()))
			continue
		}
		victim := kills % 2
		must(t, d.ops[victim].Kill())
		d.again(victim)
		b.set(victim, d.ops[victim])
	}
	workers.Wait()

	client := wire.New(driver.Connection{NameServers: d.broker.NameServers(), AllowAddress: func(string) error { return nil }}, wire.Options{})
	defer client.Close()
	eventually(t, 2*time.Minute, "every transaction is as its application decided", func() error { return b.compare(t, client) })
	// What was settled stays so, although RocketMQ may still ask.
	time.Sleep(10 * time.Second)
	if err := b.compare(t, client); err != nil {
		t.Error(err)
	}
	stop()
	responders.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	t.Logf("%d kills; %d transactions, %d committed, %d ended by the application, %d checks answered", kills, len(b.decided), b.committed(), b.ended, b.answered)
	if b.answered == 0 || b.ended == 0 {
		t.Error("the load did not do what it should")
	}
	d.done()
}

// bank is the applications with the database that they share.
type bank struct {
	d *deals

	mu              sync.Mutex // guards what follows
	ops             [2]*localenv.Operator
	decided         map[string]string // id to COMMIT, ROLLBACK, or nothing yet
	answered, ended int
}

func (b *bank) set(i int, op *localenv.Operator) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ops[i] = op
}

func (b *bank) op(i int) *localenv.Operator {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ops[i]
}

// decide writes a decision into the database, which keeps the first one, and answers what it has.
func (b *bank) decide(id, decision string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.decided[id] == "" {
		b.decided[id] = decision
	}
	return b.decided[id]
}

func (b *bank) committed() (n int) {
	for _, decision := range b.decided {
		if decision == "COMMIT" {
			n++
		}
	}
	return n
}

func (b *bank) post(host int, call, body string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	return b.op(host).Post(ctx, b.d.c.appToken, "/v1alpha1/namespaces/"+namespace+"/producers/"+b.d.name+":"+call, body)
}

// deal is one transaction of an application.
func (b *bank) deal() {
	id := "deal-" + uuid.NewString()
	b.mu.Lock()
	b.decided[id] = ""
	b.mu.Unlock()
	code, answer, err := b.post(rand.IntN(2), "beginTransaction", fmt.Sprintf(`{"message": {"id": %q, "text": "x"}}`, id))
	var begun struct{ Transaction string }
	if err != nil || code != http.StatusOK || json.Unmarshal(answer, &begun) != nil {
		b.decide(id, "ROLLBACK") // nothing has happened, as far as the application knows
		return
	}
	luck := rand.IntN(100)
	if luck < 10 {
		return // it dies before its own transaction
	}
	decision := "COMMIT"
	if luck < 30 {
		decision = "ROLLBACK"
	}
	decision = b.decide(id, decision)
	switch {
	case luck < 50: // it dies before the end
	case luck < 65: // it is impatient, and ends on both hosts at once
		var both sync.WaitGroup
		for host := range 2 {
			both.Go(func() { b.end(host, begun.Transaction, decision) })
		}
		both.Wait()
	default:
		b.end(rand.IntN(2), begun.Transaction, decision)
	}
}

// end tries some times, on one host and the other.
func (b *bank) end(host int, transaction, decision string) {
	for try := range 5 {
		code, answer, err := b.post((host+try)%2, "endTransaction", fmt.Sprintf(`{"transaction": %q, "decision": %q}`, transaction, decision))
		switch {
		case err != nil:
		case code == http.StatusOK:
			b.mu.Lock()
			b.ended++
			b.mu.Unlock()
			return
		case code == http.StatusBadRequest:
			b.d.t.Errorf("%s: %d %s", decision, code, answer)
			return
		}
		time.Sleep(100 * time.Millisecond) // an application's back-off
	}
}

// respond answers checks by the database until ctx ends.
func (b *bank) respond(ctx context.Context) {
	for ctx.Err() == nil {
		connection, err := b.op(rand.IntN(2)).Dial(b.d.c.appToken)
		if err == nil {
			err = b.answer(ctx, pb.NewProducerServiceClient(connection))
			_ = connection.Close() // its streams have ended
		}
		if err != nil && ctx.Err() == nil {
			time.Sleep(100 * time.Millisecond)
		}
	}
}

func (b *bank) answer(ctx context.Context, producers pb.ProducerServiceClient) error {
	stream, err := producers.TransactionChecks(ctx)
	if err == nil {
		err = stream.Send(&pb.TransactionChecksRequest{Namespace: namespace, Producer: b.d.name})
	}
	for err == nil {
		var res *pb.TransactionChecksResponse
		if res, err = stream.Recv(); err != nil || res.GetDraining() {
			return err
		}
		req := &pb.TransactionChecksRequest{}
		for _, c := range res.GetChecks() {
			luck, decision := rand.IntN(10), pb.Decision_UNKNOWN
			if luck > 1 {
				decision = pb.Decision(pb.Decision_value[b.decide(c.GetMessage().GetId(), "ROLLBACK")])
			}
			if luck > 0 { // or it says nothing
				req.Resolutions = append(req.Resolutions, &pb.TransactionResolution{Transaction: c.GetTransaction(), Decision: decision})
			}
		}
		b.mu.Lock()
		b.answered += len(req.Resolutions)
		b.mu.Unlock()
		if len(req.Resolutions) > 0 {
			err = stream.Send(req)
		}
		for _, r := range res.GetResults() {
			if e := r.GetError(); e != nil && !e.GetRetryable() {
				b.d.t.Errorf("a resolution was refused: %v", e)
			}
		}
	}
	return err
}

// compare asks the broker's index for each transaction. One without a decision is of an application that died before it had any: nobody may get it.
func (b *bank) compare(t *testing.T, client *wire.Client) error {
	b.mu.Lock()
	decided := make(map[string]string, len(b.decided))
	for id, decision := range b.decided {
		decided[id] = decision
	}
	b.mu.Unlock()
	missing := 0
	for id, decision := range decided {
		n, err := client.Copies(t.Context(), b.d.broker.BrokerAddr(), b.d.name, id, 0)
		if err != nil {
			return err
		}
		switch {
		case n > 1, n == 1 && decision != "COMMIT":
			t.Fatalf("%s was decided %q and is there %d times", id, decision, n)
		case n == 0 && decision == "COMMIT":
			missing++
		}
	}
	if missing > 0 {
		return fmt.Errorf("%d of %d transactions were committed and are not there", missing, len(decided))
	}
	return nil
}
