// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"encoding/binary"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// transactionPurpose marks the envelopes that name transactions.
const transactionPurpose = "transaction 1"

// transactional is the driver's side of transactions.
func (p *ProducerClient) transactional() (driver.Transactional, error) {
	p.mu.Lock()
	asked := p.spec.Producer.Config.Transactions
	p.mu.Unlock()
	t, ok := p.producer.(driver.Transactional)
	if !ok || !asked {
		return nil, driver.ErrNoTransactions()
	}
	return t, nil
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
