// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package letters

import (
	"context"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/proof"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// Redriven implements driver.DeadLetters.
func (b *Box) Redriven(ctx context.Context, letters []*driver.DeadLetter) ([]bool, error) {
	found := make([]bool, len(letters))
	err := b.inside(ctx, "look for redriven copies", func(ctx context.Context) error {
		return proof.All(ctx, len(letters), func(ctx context.Context, i int) (err error) {
			found[i], err = b.hasCopy(ctx, letters[i])
			return err
		})
	})
	return found, err
}

const (
	// indexSlack is by how much a message may seem older to the index than it is.
	indexSlack = 2 * time.Second
	// findRounds bounds how many retries of one id are gone through.
	findRounds = 16
)

// hasCopy looks for a message with the letter's id and place, from the newest one back to the letter's own time.
func (b *Box) hasCopy(ctx context.Context, l *driver.DeadLetter) (bool, error) {
	address, err := b.address(ctx, l.Broker)
	if err != nil {
		return false, err
	}
	place, until := l.Place(), time.Time{}
	for range findRounds {
		found, err := b.Wire.FindByID(ctx, address, wire.RetryTopic(b.group), l.ID, l.DeadTime.Add(-indexSlack), until)
		if err != nil {
			return false, err
		}
		oldest := until
		for i := range found {
			m := &found[i]
			if m.Properties[driver.PropertyRedriven] == place {
				return true, nil
			}
			if oldest.IsZero() || m.Stored.Before(oldest) {
				oldest = m.Stored
			}
		}
		if len(found) < wire.FindMost || oldest.Equal(until) {
			return false, nil
		}
		until = oldest
	}
	return false, nil
}

const (
	// compressCopies is the size above which copies are compressed, RocketMQ's own default: the message may have come so, and be larger than brokers take
	// otherwise.
	compressCopies = 4 << 10
	// unlimited keeps the broker from counting retries; the window does.
	unlimited = 1 << 30
)

// Redrive implements driver.DeadLetters.
func (b *Box) Redrive(ctx context.Context, l *driver.DeadLetter) error {
	if l.Problem != "" {
		return driver.Errorf(driver.Unsupported, "", "%s", l.Problem)
	}
	err := b.inside(ctx, "redrive a dead letter", func(ctx context.Context) error {
		address, err := b.address(ctx, l.Broker)
		if err == nil {
			_, err = b.Wire.Send(ctx, address, b.copyOf(l))
		}
		return err
	})
	if err == nil && b.Stored != nil {
		b.Stored()
	}
	return err
}

// copyOf is the copy for the retry topic, with no deliveries counted.
func (b *Box) copyOf(l *driver.DeadLetter) wire.Outgoing {
	properties := driver.StoredProperties(&l.Message)
	properties[propertyRetryTopic] = wire.WithNamespace(b.Config.Connection.Namespace, l.Topic)
	properties[driver.PropertyRedriven] = l.Place()
	body, compressed := l.Body, 0
	if len(body) > compressCopies {
		body, compressed = wire.Compress(body)
	}
	return wire.Outgoing{
		ProducerGroup: b.group, Topic: wire.RetryTopic(b.group), Queue: 0, Broker: l.Broker, Properties: properties, Body: body, SysFlag: compressed,
		BornTime: l.BornTime, MaxReconsume: unlimited,
	}
}

// MarkRedriven implements driver.DeadLetters.
func (b *Box) MarkRedriven(ctx context.Context, q driver.DeadLetterQueue, offset int64) error {
	return b.inside(ctx, "mark what has been redriven", func(ctx context.Context) error {
		at, err := b.queue(ctx, q.Broker, q.ID)
		if err != nil {
			return err
		}
		// Another host may have gone on from here; a mark behind the end is of an earlier topic of the name.
		if marked, err := b.Wire.ConsumerOffset(ctx, at, b.group); err != nil || marked.Known && marked.Offset >= offset && marked.Offset <= q.End {
			return err
		}
		return b.Wire.SetConsumerOffset(ctx, at, b.group, offset)
	})
}
