// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/checks"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/metrics"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

// transactionPurpose marks the envelopes that name transactions.
const transactionPurpose = "transaction 1"

// newHub is the hub of a Producer that declares transactions, nil for others.
func (c *Clients) newHub(p *ProducerClient, spec registry.Spec, log logr.Logger) *checks.Hub {
	t, ok := p.producer.(driver.Transactional)
	if !ok || !spec.Producer.Config.Transactions {
		return nil
	}
	told := &checkObserver{spec: spec, undecided: c.o.Undecided, metrics: c.o.Metrics, log: log}
	o := checks.Options{
		Watch: t.WatchChecks, End: p.EndTransaction, Observer: told, Trouble: told.notPosted,
		Seal: func(c driver.Check) string { return p.sealTransaction(c.ID, c.Handle) },
	}
	if url := spec.Producer.CheckURL; url != "" {
		o.Post = checks.NewPoster(url, spec.Producer.Config.Connection.AllowAddress, func(c *checks.Check) ([]byte, error) {
			return server.CheckJSON(c, spec.Namespace, spec.Name)
		})
	}
	return checks.New(o)
}

// transactional is the driver's side of transactions.
func (p *ProducerClient) transactional() (driver.Transactional, error) {
	if p.hub == nil {
		return nil, driver.ErrNoTransactions()
	}
	return p.producer.(driver.Transactional), nil
}

// WatchChecks makes a receiver of checks. Its caller holds the client and closes the receiver.
func (p *ProducerClient) WatchChecks() (*checks.Receiver, error) {
	if p.hub == nil {
		return nil, driver.ErrNoTransactions()
	}
	return p.hub.Attach(), nil
}

// BeginTransaction stores a message that nobody gets before it is committed, and answers a sealed name of the transaction that every host opens.
func (p *ProducerClient) BeginTransaction(ctx context.Context, m *driver.Message) (transaction string, err error) {
	t, err := p.transactional()
	if err != nil {
		return "", err
	}
	begun, err := t.Begin(ctx, m)
	if err != nil {
		return "", err
	}
	return p.sealTransaction(begun.MessageID, begun.Handle), nil
}

// EndTransaction commits or rolls back and answers the message's id. Errors are those of driver.Transactional; InvalidHandle is also what was not sealed by a
// host of this operator for this Producer.
func (p *ProducerClient) EndTransaction(ctx context.Context, transaction string, d driver.Decision) (messageID string, err error) {
	t, err := p.transactional()
	if err != nil {
		return "", err
	}
	id, handle, err := p.openTransaction(transaction)
	if err != nil {
		return "", err
	}
	return id, t.End(ctx, handle, d)
}

// sealTransaction joins the Producer's UID, the message's id and the driver's handle.
func (p *ProducerClient) sealTransaction(id string, handle driver.TransactionHandle) string {
	var plain []byte
	for _, part := range []string{p.uid(), id} {
		plain = append(binary.AppendUvarint(plain, uint64(len(part))), part...)
	}
	return p.sealer.SealText(transactionPurpose, append(plain, handle...))
}

func (p *ProducerClient) openTransaction(transaction string) (id string, handle driver.TransactionHandle, err error) {
	plain, err := p.sealer.OpenText(transactionPurpose, transaction)
	switch {
	case delivery.IsPending(err):
		return "", "", driver.Errorf(driver.Unavailable, "transaction", "it was %w", err)
	case err != nil:
		return "", "", driver.Errorf(driver.InvalidHandle, "transaction", "not a transaction that this operator began: %w", err)
	}
	uid, rest := cutPart(plain)
	text, rest := cutPart(rest)
	if uid != p.uid() {
		return "", "", driver.Errorf(driver.InvalidHandle, "transaction", "it was begun through another Producer, or through an earlier one of this name")
	}
	return text, driver.TransactionHandle(rest), nil
}

// cutPart takes a text with its length before it off the front; what has none was sealed by another version, and is empty.
func cutPart(b []byte) (part string, rest []byte) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)-size) {
		return "", nil
	}
	b = b[size:]
	return string(b[:n]), b[n:]
}

func (p *ProducerClient) uid() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.spec.UID
}

const (
	// tellEvery is how often somebody is told about one Producer's undecided transactions.
	tellEvery = 10 * time.Minute
	// worthTelling is the check from which on an application that cannot tell is told of: RocketMQ gives up after 15 unless it was told otherwise. One
	// that nobody answered is told of from the second check on; the first may fall between two streams.
	worthTelling = 8
)

// checkObserver counts how checks end and tells of those that go wrong. It is safe for concurrent use.
type checkObserver struct {
	spec      registry.Spec
	undecided func(registry.Spec, string)
	metrics   *metrics.Metrics
	log       logr.Logger

	mu    sync.Mutex // guards what follows
	told  time.Time
	cause string // why the last request could not be posted
}

// CheckEnded implements checks.Observer.
func (o *checkObserver) CheckEnded(outcome checks.Outcome, times int, id string) {
	if o.metrics != nil {
		o.metrics.CheckEnded(o.spec.Namespace, o.spec.Name, string(outcome))
	}
	var note string
	switch {
	case outcome == checks.Unanswered && times > 1:
		note = "got no answer"
	case outcome == checks.Failed && times > 1:
		note = "was answered, but RocketMQ did not take the answer"
	case outcome == checks.Unknown && times >= worthTelling:
		note = "was answered with UNKNOWN"
	default:
		return
	}
	o.mu.Lock()
	now, cause := time.Now(), o.cause
	due := o.told.IsZero() || now.Sub(o.told) >= tellEvery
	if due {
		o.told = now
	}
	o.mu.Unlock()
	if !due {
		return
	}
	text := fmt.Sprintf("check %d of the transaction of message %q %s", times, id, note)
	if cause != "" && outcome == checks.Unanswered {
		text += " (" + cause + ")"
	}
	text += "; RocketMQ gives up after some (transactionCheckMax, 15 unless changed), and the message is then never delivered"
	o.log.Info("A transaction stays undecided", "check", times, "id", id, "outcome", outcome, "cause", cause)
	if o.undecided != nil {
		o.undecided(o.spec, text)
	}
}

// notPosted keeps why spec.transactions.checkURL could not be asked; nil = it was.
func (o *checkObserver) notPosted(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err == nil {
		o.cause = ""
		return
	}
	o.cause = "spec.transactions.checkURL: " + err.Error()
}
