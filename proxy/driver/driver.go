// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"strings"
	"time"
)

// Driver is one way to talk to RocketMQ. A process has one value of each driver; it is safe for concurrent use and holds nothing
// open by itself: everything that lives belongs to a Producer or a Consumer that it opened.
type Driver interface {
	// Name is what `spec.driver` and `status.driver` call it, for example "ClientGo".
	Name() string

	// Capabilities says what this driver can promise. It never changes for the life of the process.
	Capabilities() Capabilities

	// OpenProducer starts a client that can send to cfg.Topics and returns when that is proven: the route of every topic was fetched
	// with the credentials, and each broker address was checked. It blocks for at most ctx. On an error nothing is left running.
	// Errors: see Reason; a configuration that can never work is ErrInvalid with the field's name.
	OpenProducer(ctx context.Context, cfg ProducerConfig) (Producer, error)

	// OpenConsumer starts a client of cfg.Group and returns when it is proven that it can receive: routes, credentials, filters and
	// the group's start position (written before the first fetch). It takes no message before the first Fetch, but for the bounded
	// prefetch that Capabilities names. It blocks for at most ctx. On an error nothing is left running.
	OpenConsumer(ctx context.Context, cfg ConsumerConfig) (Consumer, error)

	// ProbeConsumer proves everything that OpenConsumer proves without joining the group. It is how a changed connection is tested
	// while the client in use keeps running (two members of one group with different subscriptions lose messages).
	ProbeConsumer(ctx context.Context, cfg ConsumerConfig) error

	// Leftovers counts by name what closed clients left behind and this process cannot free (goroutines of a library). A driver
	// that leaves nothing returns an empty map.
	Leftovers() map[string]int
}

// Capabilities is what a driver promises; the table is in docs/drivers.md and is enforced by drivertest.
type Capabilities struct {
	// AckFromAnyHost: a delivery's handle can be acknowledged by a process that did not fetch it.
	AckFromAnyHost bool
	// AckConfirmed: a nil error of Ack means that the broker itself has stored the acknowledgement. Otherwise it means that this
	// process took it: the message may come again after a crash or a rebalance and is never lost.
	AckConfirmed bool
	// Prefetch describes what is fetched beyond the credit of receivers, in words for the user; empty = nothing.
	Prefetch string
	// ExactAttempts: Received.Attempt is exact; otherwise it is a lower bound.
	ExactAttempts bool
	// ExactNackDelay: Nack keeps the delay that was asked for; otherwise it is rounded up to MinNackDelay or a level, and the
	// effective delay is answered.
	ExactNackDelay bool
	// GiveBackToBroker: GiveBack returns messages to the broker at once; otherwise to this process, and to the broker when the
	// client stops.
	GiveBackToBroker bool
	// KeepsLeases: Close leaves what Fetch has handed out leased to its deadline, because it can still be acknowledged through another
	// host, and the broker would not tell that host if it had been given back. Otherwise Close gives it back.
	KeepsLeases bool
	// MaxLease is the longest lease Fetch and Extend can give. Longer requests are clamped and the answer shows the real deadline.
	MaxLease time.Duration
	// Delays says what Message.When can ask for, in words for the user.
	Delays string
	// MaxDelay is the longest that this driver knows of; 0 = the broker says.
	MaxDelay time.Duration
	// Recall: a delayed message can be cancelled.
	Recall bool
	// Transactions: Producers whose configuration asks for them implement Transactional. Otherwise OpenProducer refuses such a configuration as Unsupported.
	Transactions bool
	// Seek: a group can be moved while its clients run.
	Seek bool
	// Ordered: ConsumerConfig.Ordered is kept. Otherwise a configuration that asks for it is refused as Unsupported.
	Ordered bool
	// SingleHost: a Consumer of this driver must run on one host only.
	SingleHost bool
	// TLS: Connection.TLS is kept. Otherwise a connection that asks for it is refused as Unsupported, never made in plain text.
	TLS bool
	// Broadcast: each receiver of a Consumer can have a group of its own; the driver is a GroupKeeper.
	Broadcast bool
	// IdleConsumers: a Consumer may be closed and reopened by an idle time-out without leaving something behind each time.
	IdleConsumers bool
}

// Connection says where RocketMQ is and who we are there. It holds a secret: never log or print it.
type Connection struct {
	// NameServers are host:port, at least one, sorted by the caller. Host names are resolved again and again by the driver.
	NameServers []string
	// Namespace is the RocketMQ namespace that prefixes topics and groups ("ns%topic"), empty = none.
	Namespace string
	// Credentials of RocketMQ's ACL; the zero value = none.
	Credentials Credentials
	// TLS encrypts the connections; the zero value = plain TCP.
	TLS TLS
	// AllowAddress is asked before each connection is dialled, with the resolved IP:port. An error refuses the connection. Never nil.
	AllowAddress func(addr string) error
}

// Credentials are the keys of RocketMQ's ACL. They print as "REDACTED".
type Credentials struct {
	AccessKey     string
	SecretKey     string
	SecurityToken string
}

// String hides the keys, so that a %v in a log line cannot leak them.
func (c Credentials) String() string { return redacted(c) }

// GoString hides the keys from %#v.
func (c Credentials) GoString() string { return redacted(c) }

// IsZero reports whether no credentials are set.
func (c Credentials) IsZero() bool { return c == Credentials{} }

func redacted(c Credentials) string {
	if c.IsZero() {
		return "none"
	}
	return "REDACTED"
}

// ClientID identifies a client towards RocketMQ: unique in the world for each started client, short, and readable by the one on
// call in the broker's connection list. The registry makes it: <object's namespace>_<name>_<8 hex of UID>_<host's incarnation>_<start number>.
type ClientID string

// Object is the part of id that all clients of one object have in common, on whatever host and of whatever driver; empty when id does not
// have the form.
func (id ClientID) Object() string {
	parts := strings.Split(string(id), "_") // names of Kubernetes have no "_"
	if len(parts) != 5 {
		return ""
	}
	return strings.Join(parts[:3], "_")
}

// ProducerConfig is everything a Producer's client needs. Equal values mean the same client; the registry compares them.
type ProducerConfig struct {
	Connection Connection
	ClientID   ClientID
	Group      string
	// Topics that may be sent to, at least one, without the namespace prefix.
	Topics []string
	// SendTimeout bounds one try towards one broker; Retries is how many more brokers or tries may follow inside the caller's deadline.
	SendTimeout time.Duration
	Retries     int
	// CompressAbove: bodies larger than this many bytes are compressed where the driver can; 0 = never.
	CompressAbove int
	// MaxMessageBytes is the limit of one message, body and properties, that the caller has already enforced.
	MaxMessageBytes int
	// Transactions asks for a Transactional producer; opening proves the rights that it needs.
	Transactions bool
}

// StartFrom is where a group begins in a queue in which it has no position yet.
type StartFrom string

// The start positions. A group that has a position in a queue continues there.
const (
	Latest   StartFrom = "Latest"
	Earliest StartFrom = "Earliest"
	// Timestamp is the first message that was stored at a time or later, by the broker's clock; see ConsumerConfig.StartTime.
	Timestamp StartFrom = "Timestamp"
)

// Subscription is one topic of a Consumer and its filter: Tag ("a || b", empty or "*" = all) or SQL, never both.
type Subscription struct {
	Topic string
	Tag   string
	SQL   string
}

// ConsumerConfig is everything a Consumer's client needs.
type ConsumerConfig struct {
	Connection    Connection
	ClientID      ClientID
	Group         string
	Subscriptions []Subscription
	StartFrom     StartFrom
	// StartTime is set with Timestamp and only then. It counts to the millisecond, which is what brokers keep.
	StartTime time.Time
	// Ordered lends each queue's messages in order and to one at a time. The messages of a queue that are lent together are a batch (Received.Batch).
	// Nothing of that queue is lent to anybody of the group before all of the batch are acknowledged, or the leases of those that are not have ended,
	// nacked and given back ones at their time. Then the queue comes again from the first that is not acknowledged on; of those behind it that are
	// acknowledged, some may come again. So whoever ends, nacks or extends the lease of one means those behind it too, and acknowledges in order. All
	// members of a group must be ordered, or none.
	Ordered bool
}

// Producer sends. All methods are safe for concurrent use.
type Producer interface {
	// Send stores msgs, all of one topic, at least one, and answers one result per message in the same order. It returns by ctx's
	// end. It never panics on bad input: each message has its own error. More than one message may be stored in one request (all or
	// none of that request); Limits says what fits in one.
	//
	// Messages with a sharding key go to the queue that Shard names, and to no other: when it cannot be reached they fail. Those with equal keys are
	// stored in their order, and after one of a key failed the later ones of that key in this call are not stored: their error is EarlierFailed. Calls
	// that run at the same time have no order between them.
	Send(ctx context.Context, topic string, msgs []*Message) []SendResult

	// Recall cancels a message that was to be delivered later, by the handle that its Send answered, and answers its id. Cancelling again answers the
	// same. Errors: Unsupported (Capabilities.Recall, or switched off at the broker), InvalidHandle (not a handle of a message of one of this
	// producer's topics), TooLate (it was delivered, or the broker does not have it), or a retryable one.
	Recall(ctx context.Context, handle string) (messageID string, err error)

	// Lane says which keys go to one queue at present, as far as is known without asking: equal numbers, from 0. It does not block. What is sent
	// together should be of one lane, because each queue costs a request; nothing else depends on it.
	Lane(topic, key string) int

	// Limits says how many messages and bytes (bodies + properties) one Send may carry to the broker in a single request.
	Limits() BatchLimits

	// Err reports why the client does not work at present (lost connection, credentials refused), nil when it works or is unknown.
	// It does not block.
	Err() error

	// Close shuts the client down and returns when nothing of ours is left: sockets closed, goroutines joined. The caller has
	// waited for its Sends; a Send under way is answered with ErrClosed at the latest when Close returns. It works twice, from two
	// goroutines, and on a client that never worked. It returns by ctx's end with what is left as an error; the rest still goes on
	// closing.
	Close(ctx context.Context) error
}

// BatchLimits bounds one request to the broker.
type BatchLimits struct {
	Messages int
	Bytes    int
}

// SendResult is the answer for one message. Err == nil means that the broker stored it.
type SendResult struct {
	// MessageID is the id of the message in RocketMQ (property UNIQ_KEY): the caller's Message.ID.
	MessageID string
	// Queue and Offset say where it was stored; -1 when unknown.
	Broker string
	Queue  int
	Offset int64
	// RecallHandle cancels a message that is delivered later; empty where the driver or the broker cannot.
	RecallHandle string
	Err          error
}

// Consumer receives for one group. All methods are safe for concurrent use. Handles are opaque text, valid for this group only.
type Consumer interface {
	// Fetch leases up to req.MaxMessages messages to the caller, waiting until there is at least one or ctx ends. It is called only
	// against receivers' credit and is the only way messages leave the broker (see Capabilities.Prefetch). At ctx's end it returns
	// what it has with a nil error, or nothing with ctx's error: a message that was leased is never lost between the two. The bytes
	// of all messages stay within req.MaxBytes where the driver can tell beforehand, except that the first may be larger alone.
	// Several calls at once are allowed; a message goes to one of them.
	Fetch(ctx context.Context, req FetchRequest) ([]*Received, error)

	// Ack acknowledges and answers one error per handle, in order: nil, ErrLeaseExpired (no effect: it comes or came again),
	// ErrInvalidHandle, or a retryable error with unknown effect. Acknowledging again inside the lease answers nil.
	Ack(ctx context.Context, handles []Handle) []error

	// Nack ends a lease early: the message comes again after about delay with its attempt raised. It answers the effective delay.
	Nack(ctx context.Context, h Handle, delay time.Duration) (time.Duration, error)

	// Extend sets the end of a lease to now + lease (longer or shorter) and answers the new handle and the real deadline. The old
	// handle must not be used again.
	Extend(ctx context.Context, h Handle, lease time.Duration) (Handle, time.Time, error)

	// GiveBack returns messages that no application has seen: they come again at once, to anyone, with the attempt unchanged where
	// Capabilities allows. Errors are per handle.
	GiveBack(ctx context.Context, handles []Handle) []error

	// DeadLetter writes m to the group's dead-letter topic with the reason in its properties and acknowledges the original after the
	// write has been confirmed. On an error the original keeps its lease and comes again: nothing is lost, it may be there twice.
	DeadLetter(ctx context.Context, m *Received, reason string) error

	// Seek moves the group in every queue of every subscription. What it brings from then on is what the queues hold from there on, and retries of that;
	// retries that wait or that were put off before do not come any more. What was handed out stays leased, and its acknowledgement is answered as ever; not
	// acknowledged it does not come again from its old place. Errors: Unsupported (Capabilities.Seek), Invalid, or a retryable one after which some queues
	// may have moved; a repeated call moves all.
	//
	// mark is what other members of the group must be told (SetMark) so that they let go of what they fetched before.
	Seek(ctx context.Context, to Target) (mark string, err error)

	// SetMark tells of a Seek by its mark, which may be another member's. It does not block, and an older mark, an empty one, or one that it did not make
	// changes nothing. What was fetched before and is given back then is dropped instead.
	SetMark(mark string)

	// Superseded reports whether h's message was fetched before the last Seek that this member knows of. It does not block.
	Superseded(h Handle) bool

	// Lag reports per topic what waits in the broker. It asks the broker.
	Lag(ctx context.Context) ([]Lag, error)

	// Err: see Producer.Err.
	Err() error

	// Close gives back what is prefetched, and what is leased unless Capabilities.KeepsLeases, stops fetching, commits what was
	// acknowledged, shuts the client down and returns when nothing of ours is left. A Fetch under way returns ErrClosed. Twice, concurrently and half-started: as
	// Producer.Close.
	Close(ctx context.Context) error
}

// Handle names one lease of one message towards its driver. It is text so that it can travel inside an ack token.
type Handle string

// FetchRequest says how much may be leased and for how long.
type FetchRequest struct {
	MaxMessages int
	MaxBytes    int64
	Lease       time.Duration
}

// Lag is what waits for a group in one topic.
type Lag struct {
	Topic string
	// Waiting is the number of messages not yet handed to this group (retries included).
	Waiting int64
	// Oldest is when the oldest of them was stored, by the broker's clock; of a retry, when it was stored to be delivered again. Zero = none waits, or it
	// is not known.
	Oldest time.Time
}

// Add counts n more that wait, the oldest of which was stored at oldest; zero = unknown.
func (l *Lag) Add(n int64, oldest time.Time) {
	l.Waiting += n
	if n > 0 && !oldest.IsZero() && (l.Oldest.IsZero() || oldest.Before(l.Oldest)) {
		l.Oldest = oldest
	}
}

// LagReader is a Driver that can tell what waits for a Consumer without opening it.
type LagReader interface {
	// ReadLag answers what Consumer.Lag would. It asks the broker, joins nothing, changes nothing and leaves nothing behind.
	ReadLag(ctx context.Context, cfg ConsumerConfig) ([]Lag, error)
}

// Message is a message as RocketMQ stores it, without the namespace prefix.
type Message struct {
	// ID is the RocketMQ message id (UNIQ_KEY). The sender's side always sets it before Send.
	ID         string
	Topic      string
	Tag        string
	Keys       []string
	Properties map[string]string
	Body       []byte
	// When is when consumers get it; the zero value = at once.
	When When
	// ShardingKey: messages of one topic with equal keys go to one queue, in the order of their sending; see Producer.Send. Empty = any queue.
	ShardingKey string
}

// Received is one leased message.
type Received struct {
	Message
	Handle Handle
	// Attempt counts deliveries from 1; see Capabilities.ExactAttempts.
	Attempt int
	// Deadline is the end of the lease in this process's clock.
	Deadline time.Time
	// BornTime is when the sender made it, StoreTime when the broker stored it.
	BornTime, StoreTime time.Time
	// Queue and Offset say where it is stored, for logs and order.
	Broker string
	Queue  int
	Offset int64
	// Batch, of an ordered Consumer, is the same for messages of a queue that were lent together, and another one for each time that it is lent. Fetch returns a
	// batch in the order of its offsets, in one piece or in several Fetches. 0 = not ordered.
	Batch uint64
}

// Bytes is the size that counts against credits: body, properties, keys and tag.
func (m *Message) Bytes() int64 {
	n := len(m.Body) + len(m.Tag) + len(m.ID) + len(m.ShardingKey)
	for _, k := range m.Keys {
		n += len(k)
	}
	for k, v := range m.Properties {
		n += len(k) + len(v) + 2
	}
	return int64(n)
}
