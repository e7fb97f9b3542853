// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// The states of a transaction in sysFlags and in END_TRANSACTION (MessageSysFlag, 5.5.0).
const (
	stateCommit   = 2 << 2
	stateRollback = 3 << 2
	stateMask     = 3 << 2
)

// SysPrepared in a send's sysFlag stores a half message, which consumers do not see.
const SysPrepared = sysPrepared

// Properties of half messages.
const (
	propertyPrepared      = "TRAN_MSG"
	propertyProducerGroup = "PGROUP"
	propertyCheckTimes    = "TRANSACTION_CHECK_TIMES"
)

// HalfMessage is half of what makes a send a half message of producerGroup, to stand before its other properties; the other half is SysPrepared. It must
// not go in a batch.
func HalfMessage(producerGroup string) string {
	return propertyPrepared + nameEnd + "true" + valueEnd + propertyProducerGroup + nameEnd + producerGroup + valueEnd
}

// Half says where a broker keeps a half message. Each check stores it once more: the message has then several places, and each of them can be ended.
type Half struct {
	// Topic is the one that it is for, with its namespace.
	Topic, Broker string
	// ID is its UNIQ_KEY. Born is the sender's time in ms; with it two messages under one id are told apart.
	ID   string
	Born int64
	// Offset is the place in the queue of half messages, CommitLog the one in the broker's log.
	Offset, CommitLog int64
	// Checked: this place is that of a check and not that of the send.
	Checked bool
}

// CommitLogOffset is the place in the broker's log, which the last 16 digits of the broker's own id say.
func (s Stored) CommitLogOffset() (int64, error) {
	const digits = 16
	if len(s.OffsetID) < digits {
		return 0, frameErrorf("the message id %q of a broker has no place in its log", s.OffsetID)
	}
	at, err := strconv.ParseInt(s.OffsetID[len(s.OffsetID)-digits:], 16, 64)
	if err != nil {
		return 0, frameErrorf("the message id %q of a broker does not end with a place in its log", s.OffsetID)
	}
	return at, nil
}

// errHalfGone is CodeSystemError's text when the log has no message at the place any more (TransactionalMessageServiceImpl, 5.5.0).
const errHalfGone = "Find prepared transaction message failed"

// IsHalfGone reports whether err of EndTransaction says that the broker does not have the half message any more.
func IsHalfGone(err error) bool {
	var answer *AnswerError
	return errors.As(err, &answer) && answer.Code == CodeSystemError && strings.Contains(answer.Remark, errHalfGone)
}

// EndTransaction commits or rolls back the half message at h, and waits for the broker's answer (clients of RocketMQ do not; the broker answers all the
// same). The broker does not look whether it did so before: a second commit delivers a second time, of the same place as well as of another one. A
// rollback says no more than that this place is not asked for again, so it also ends what was committed at another place, without an effect on that.
// See Copies. It waits until ctx ends, or for RequestTimeout when it has no end.
func (c *Client) EndTransaction(ctx context.Context, address, producerGroup string, h Half, commit bool) error {
	state := stateRollback
	if commit {
		state = stateCommit
	}
	_, err := c.invokeSend(ctx, address, &Command{Code: reqEndTransaction, Fields: map[string]string{
		"topic": h.Topic, "producerGroup": producerGroup, "bname": h.Broker, "msgId": h.ID, "transactionId": h.ID,
		"tranStateTableOffset": strconv.FormatInt(h.Offset, 10), "commitLogOffset": strconv.FormatInt(h.CommitLog, 10),
		"commitOrRollback": strconv.Itoa(state), "fromTransactionCheck": strconv.FormatBool(h.Checked),
	}})
	return err
}

// Copies counts the messages under id in topic, by the broker's index, which is some milliseconds behind what the broker stores: with born = 0 all of them, else
// those that a commit stored and that were born at that time (in ms). A commit leaves its state in the message's sysFlag (EndTransactionProcessor, 5.5.0), which
// tells it from one that was simply sent in the same millisecond. Where there is ACL it needs the right Get or Sub on the topic.
func (c *Client) Copies(ctx context.Context, address, topic, id string, born int64) (int, error) {
	found, err := c.FindByID(ctx, address, topic, id, time.UnixMilli(0), time.Time{})
	if err != nil {
		return 0, err
	}
	n := 0
	for i := range found {
		m := &found[i] // the index is by hash
		if m.Topic == topic && m.Properties[driver.PropertyID] == id && (born == 0 || m.Born.UnixMilli() == born && m.SysFlag&stateMask == stateCommit) {
			n++
		}
	}
	return n, nil
}

// TransactionCheck is a broker's question what became of a transaction.
type TransactionCheck struct {
	Half
	// Group is the producer group, with its namespace.
	Group   string
	Message StoredMessage
	// Times counts the checks, this one included.
	Times int
}

// IsTransactionCheck reports whether a request of a broker is one for DecodeTransactionCheck. Brokers send them one-way.
func IsTransactionCheck(cmd *Command) bool { return cmd.Code == reqCheckTransaction }

// DecodeTransactionCheck reads CHECK_TRANSACTION_STATE (AbstractTransactionalMessageCheckListener, 5.5.0): the header has the new place of the half message,
// the body the message with the name of the topic that it is for.
func DecodeTransactionCheck(cmd *Command) (TransactionCheck, error) {
	found, err := DecodeMessages(cmd.Body)
	if err != nil {
		return TransactionCheck{}, err
	}
	if len(found) != 1 {
		return TransactionCheck{}, frameErrorf("a check of a transaction with %d messages", len(found))
	}
	m := found[0]
	check := TransactionCheck{
		Half:    Half{Topic: m.Topic, Broker: cmd.Fields["bname"], ID: m.Properties[driver.PropertyID], Born: m.Born.UnixMilli(), Checked: true},
		Group:   m.Properties[propertyProducerGroup],
		Message: m,
	}
	for name, into := range map[string]*int64{"tranStateTableOffset": &check.Offset, "commitLogOffset": &check.CommitLog} {
		if *into, err = strconv.ParseInt(cmd.Fields[name], 10, 64); err != nil {
			return TransactionCheck{}, frameErrorf("a check of a transaction has the %s %q", name, cmd.Fields[name])
		}
	}
	if check.ID == "" || check.Group == "" || check.Topic == "" {
		return TransactionCheck{}, frameErrorf("a check of a transaction without an id, a group or a topic")
	}
	// Brokers with their half messages in RocksDB do not say how often.
	check.Times, err = strconv.Atoi(m.Properties[propertyCheckTimes])
	if err != nil || check.Times < 1 {
		check.Times = 1
	}
	return check, nil
}

// UnregisterProducer takes the client out of the producer group at the broker, so that no check for it comes here any more.
func (c *Client) UnregisterProducer(ctx context.Context, address, clientID, producerGroup string) error {
	fields := map[string]string{"clientID": clientID, "producerGroup": producerGroup}
	_, err := c.Invoke(ctx, address, &Command{Code: reqUnregisterClient, Fields: fields})
	return err
}

// LockLife is how long a broker keeps a lock that nobody takes again (rocketmq.broker.rebalance.lockMaxLiveTime, 60 s unless changed).
const LockLife = time.Minute

// Lock is a lock that a broker lends. Brokers lend locks of queues to ordered consumers, and do not look whether there is such a queue (RebalanceLockManager,
// 5.5.0): the name stands where that of a broker would.
type Lock struct {
	Topic string `json:"topic"`
	Name  string `json:"brokerName"`
	Queue int    `json:"queueId"`
}

type lockRequest struct {
	Space  string `json:"consumerGroup"`
	Holder string `json:"clientId"`
	Locks  []Lock `json:"mqSet"`
}

// Lock takes l for holder at the broker, in a space of names; false = another holder has it. Who has it gets it again. It lives in the broker's memory: for
// LockLife after it was last taken, until Unlock, or until the broker restarts. Where there is ACL it needs the right Sub on the topic and on the group that
// is called like the space.
func (c *Client) Lock(ctx context.Context, address, space, holder string, l Lock) (bool, error) {
	answer, err := c.invokeLock(ctx, address, reqLockQueues, lockRequest{Space: space, Holder: holder, Locks: []Lock{l}})
	if err != nil {
		return false, err
	}
	var got struct {
		Locked []Lock `json:"lockOKMQSet"`
	}
	if err := unmarshalLoose(answer.Body, &got); err != nil {
		return false, frameErrorf("the answer to a lock: %v", err)
	}
	return len(got.Locked) == 1, nil
}

// Unlock gives locks of holder back; those that it does not have stay as they are.
func (c *Client) Unlock(ctx context.Context, address, space, holder string, locks []Lock) error {
	_, err := c.invokeLock(ctx, address, reqUnlockQueues, lockRequest{Space: space, Holder: holder, Locks: locks})
	return err
}

func (c *Client) invokeLock(ctx context.Context, address string, code int, request lockRequest) (*Command, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, frameErrorf("encode a lock: %v", err)
	}
	return c.Invoke(ctx, address, &Command{Code: code, Body: body})
}
