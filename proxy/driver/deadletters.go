// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// DeadLetters is what a Consumer offers beside receiving: to read what its group has given up, and to give it to the group again. Every driver's
// Consumer implements it. All methods are safe for concurrent use, block for at most ctx, and answer ErrClosed after Close.
//
// A dead-letter topic is append-only. What has been redriven is known from the copies: each names its letter (PropertyRedriven), is written in one step,
// and lives longer than the letter, which is older and in the same log. So there is no second record that a crash could leave behind. The mark of a queue
// only saves the look-ups of what lies before it.
type DeadLetters interface {
	// DeadLetterQueues lists the queues of the group's dead-letter topic; none when nothing was ever given up. Unsupported: the Consumer receives
	// its own dead-letter topic, whose position the mark would be.
	DeadLetterQueues(ctx context.Context) ([]DeadLetterQueue, error)

	// ReadDeadLetters reads up to n letters of q from offset on, in order, and answers where to go on: q.End when there are no more. It may answer none
	// and go on all the same.
	ReadDeadLetters(ctx context.Context, q DeadLetterQueue, offset int64, n int) (letters []*DeadLetter, next int64, err error)

	// Redriven says of each letter whether a copy of it has been stored. A copy that was stored a moment ago may not show yet, see Redrive.
	Redriven(ctx context.Context, letters []*DeadLetter) ([]bool, error)

	// Redrive stores a copy of l for this group alone: to its members it comes like a first delivery, with the topic, id, tag, keys and properties that
	// it was sent with. A nil error means that the broker has stored it. Redriven may miss it for some milliseconds. Unsupported: see DeadLetter.Problem.
	Redrive(ctx context.Context, l *DeadLetter) error

	// MarkRedriven notes that every letter of q before offset has been redriven; it does not go back.
	MarkRedriven(ctx context.Context, q DeadLetterQueue, offset int64) error
}

// DeadLetterQueue is one queue of a dead-letter topic at one moment.
type DeadLetterQueue struct {
	Broker string
	ID     int
	// Oldest is the first letter that is still stored, End the offset that the next one will get. Every letter before Marked has been redriven.
	Oldest, End, Marked int64
}

// First is the first letter that may be left. A mark behind the end is of a topic that was deleted since and made anew, and says nothing.
func (q *DeadLetterQueue) First() int64 {
	if q.Marked > q.End {
		return q.Oldest
	}
	return max(q.Oldest, q.Marked)
}

// Left is how many letters there are from First on; some of them may have been redriven.
func (q *DeadLetterQueue) Left() int64 { return q.End - q.First() }

// DeadLetter is one message that a group has given up.
type DeadLetter struct {
	// Message is what was sent, without what was added to it in the dead-letter topic.
	Message
	Broker string
	Queue  int
	Offset int64
	// Reason is why it was given up, empty when nobody wrote it down. Attempts is how often it had been leased by then, 0 when it is not known.
	Reason   string
	Attempts int
	// BornTime is when the sender made the message, DeadTime when it became a dead letter.
	BornTime, DeadTime time.Time
	// Problem is why it cannot be redriven, for people; empty = it can be.
	Problem string
}

// PropertyRedriven is in each copy that a redrive stores, and names its letter: the broker, the queue and the offset. It is an ordinary property, which the
// application sees.
const PropertyRedriven = "PROXY_REDRIVEN_FROM"

// Place names l among all letters of its group, for PropertyRedriven.
func (l *DeadLetter) Place() string { return fmt.Sprintf("%s/%d/%d", l.Broker, l.Queue, l.Offset) }

// FillDeadLetter takes out of a letter's properties what dead-lettering and redriving have added. topic answers the topic that the message was sent to when the
// properties do not say it.
func FillDeadLetter(l *DeadLetter, topic func() string) {
	l.Reason = l.Properties[PropertyDeadLetterReason]
	l.Attempts, _ = strconv.Atoi(l.Properties[PropertyDeadLetterAttempts]) // 0 when another program wrote it
	if l.Topic = l.Properties[PropertyDeadLetterTopic]; l.Topic == "" {
		l.Topic = topic()
	}
	if id := l.Properties[PropertyDeadLetterMessageID]; l.ID == "" {
		l.ID = id
	}
	for _, name := range []string{
		PropertyDeadLetterReason, PropertyDeadLetterAttempts, PropertyDeadLetterTopic, PropertyDeadLetterMessageID, PropertyRedriven,
		PropertyRetryAttempt, PropertyRetryReason,
	} {
		delete(l.Properties, name)
	}
	if len(l.Properties) == 0 {
		l.Properties = nil
	}
}

// CheckRedrivable sets l.Problem when nobody in the group would get it.
func CheckRedrivable(l *DeadLetter, subscriptions []Subscription) {
	for _, s := range subscriptions {
		if s.Topic == l.Topic {
			return
		}
	}
	l.Problem = fmt.Sprintf("it was sent to %q, which is not a topic of this Consumer", l.Topic)
}

// RefuseOwnDeadLetters is the error for a Consumer that receives its group's own dead-letter topic: the group's position in it is the application's.
func RefuseOwnDeadLetters(cfg *ConsumerConfig) error {
	for _, s := range cfg.Subscriptions {
		if s.Topic == DeadLetterTopic(cfg.Group) {
			return Errorf(Unsupported, "", "the Consumer receives %q, its own dead letters; receive them in another group, or read them by these calls, not both", s.Topic)
		}
	}
	return nil
}
