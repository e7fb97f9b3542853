// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"context"
	"fmt"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

var deadLetterCases = []testCase{
	{name: "a dead letter is read with what was sent and with why it was given up", run: caseLetterRead},
	{name: "a group that gave nothing up has no dead letters", run: caseNoLetters},
	{name: "a redriven letter comes to its group alone, like a first delivery", run: caseRedriven},
	{name: "what was redriven is known to every member of the group, mark or no mark", run: caseRedrivenKnown},
	{name: "a letter of a topic that is not subscribed is shown and not redriven", run: caseLetterOfAnotherTopic},
	{name: "a consumer of its own dead-letter topic has no redrive", run: caseOwnLetters},
	{name: "dead letters after Close and after their caller has gone are errors", run: caseLettersRefused},
}

// box is what every consumer has.
func box(k *kit, c driver.Consumer) driver.DeadLetters {
	k.Helper()
	b, ok := c.(driver.DeadLetters)
	if !ok {
		k.Fatalf("%T does not implement driver.DeadLetters", c)
	}
	return b
}

// full is a message with everything that a redrive must keep.
func full(topic string) *driver.Message {
	m := message(topic)
	m.Tag, m.Keys, m.Properties = "tag", []string{"one", "two"}, map[string]string{"color": "grün"}
	return m
}

// bury sends msgs and has c give them up.
func (k *kit) bury(p driver.Producer, c driver.Consumer, msgs ...*driver.Message) {
	k.Helper()
	k.send(p, msgs...)
	for _, r := range k.fetch(c, len(msgs), longLease) {
		k.buryOne(c, r)
	}
}

func (k *kit) buryOne(c driver.Consumer, r *driver.Received) {
	k.Helper()
	if err := c.DeadLetter(k.within(k.facts.Open), r, "the reason of "+r.ID); err != nil {
		k.Fatalf("dead-letter %s: %v", r.ID, err)
	}
}

// letters waits until the dead-letter topic has n letters, and reads them and its queues.
func (k *kit) letters(c driver.Consumer, n int) (queues []driver.DeadLetterQueue, letters []*driver.DeadLetter) {
	k.Helper()
	b := box(k, c)
	k.eventually(k.facts.Open, func() (err error) {
		if queues, err = b.DeadLetterQueues(k.within(k.facts.Open)); err != nil {
			return err
		}
		letters = nil
		for _, q := range queues {
			for at := q.Oldest; at < q.End; {
				read, next, err := b.ReadDeadLetters(k.within(k.facts.Open), q, at, 2)
				if err != nil {
					return err
				}
				if letters = append(letters, read...); next <= at || len(read) > 2 {
					return fmt.Errorf("%d letters were read at %d of %d, and it goes on at %d", len(read), at, q.End, next)
				}
				at = next
			}
		}
		if len(letters) != n {
			return fmt.Errorf("%d letters, want %d; the queues: %+v", len(letters), n, queues)
		}
		return nil
	})
	return queues, letters
}

func (k *kit) redrive(c driver.Consumer, l *driver.DeadLetter) {
	k.Helper()
	if err := box(k, c).Redrive(k.within(k.facts.Open), l); err != nil {
		k.Fatalf("redrive %s: %v", l.ID, err)
	}
}

// wantRedriven waits until look-ups say of each letter what is wanted.
func (k *kit) wantRedriven(c driver.Consumer, letters []*driver.DeadLetter, want ...bool) {
	k.Helper()
	k.eventually(k.facts.Open, func() error {
		got, err := box(k, c).Redriven(k.within(k.facts.Open), letters)
		if err == nil && fmt.Sprint(got) != fmt.Sprint(want) {
			err = fmt.Errorf("redriven: %v, want %v", got, want)
		}
		return err
	})
}

func caseLetterRead(k *kit) {
	topic, group := k.h.NewTopic(k, 1), k.h.NewGroup(k)
	p, c := k.producer(topic), k.consumer(group, topic)
	sent := []*driver.Message{full(topic), full(topic), full(topic)}
	began := time.Now().Add(-k.facts.Late)
	k.bury(p, c, sent...)
	queues, letters := k.letters(c, len(sent))
	if len(queues) != 1 || queues[0].Left() != int64(len(sent)) || queues[0].First() != letters[0].Offset {
		k.Errorf("queues %+v", queues)
	}
	byID := map[string]*driver.DeadLetter{}
	for _, l := range letters {
		byID[l.ID] = l
	}
	for _, m := range sent {
		l := byID[m.ID]
		if l == nil {
			k.Fatalf("message %s is not among the letters", m.ID)
		}
		if err := sameMessage(m, &driver.Received{Message: l.Message}); err != nil {
			k.Errorf("the letter of %s: %v", m.ID, err)
		}
		if l.Reason != "the reason of "+m.ID || l.Attempts != 1 || l.Problem != "" || l.DeadTime.Before(began) || l.BornTime.Before(began) || l.DeadTime.Before(l.BornTime.Add(-k.facts.Late)) {
			k.Errorf("the letter of %s: %+v", m.ID, l)
		}
	}
	k.wantRedriven(c, letters, false, false, false)
}

func caseNoLetters(k *kit) {
	topic, group := k.h.NewTopic(k, 1), k.h.NewGroup(k)
	if queues, err := box(k, k.consumer(group, topic)).DeadLetterQueues(k.within(k.facts.Open)); err != nil || len(queues) > 0 {
		k.Errorf("%+v, %v", queues, err)
	}
}

func caseRedriven(k *kit) {
	topic, group, other := k.h.NewTopic(k, 1), k.h.NewGroup(k), k.h.NewGroup(k)
	p, c, stranger := k.producer(topic), k.consumer(group, topic), k.consumer(other, topic)
	m := full(topic)
	k.bury(p, c, m)
	k.ack(stranger, k.fetch(stranger, 1, longLease)...)
	_, letters := k.letters(c, 1)
	waiting := k.fetching(c)
	k.redrive(c, letters[0])
	came := <-waiting
	if came.err != nil || len(came.messages) != 1 {
		k.Fatalf("the redriven message: %v, %v", came.messages, came.err)
	}
	r := came.messages[0]
	k.wantAttempt(r, 1)
	want := *m
	want.Properties = map[string]string{"color": "grün", driver.PropertyRedriven: letters[0].Place()}
	if err := sameMessage(&want, r); err != nil {
		k.Errorf("the redriven message: %v", err)
	}
	k.fetchNone(stranger, k.facts.Quiet, "another group's redrive is not its matter")

	// It fails again, and is a letter of its own then.
	if _, err := c.Nack(k.within(k.facts.Open), r.Handle, 0); err != nil {
		k.Fatal(err)
	}
	r = k.fetch(c, 1, longLease)[0]
	k.wantAttempt(r, 2)
	k.buryOne(c, r)
	_, letters = k.letters(c, 2)
	if err := sameMessage(m, &driver.Received{Message: letters[1].Message}); err != nil {
		k.Errorf("the second letter: %v", err)
	}
	k.wantRedriven(c, letters, true, false)
	k.redrive(c, letters[1])
	k.ack(c, k.fetch(c, 1, longLease)...)
	k.wantRedriven(c, letters, true, true)
	k.fetchNone(c, k.facts.Quiet, "everything is acknowledged")
}

func caseRedrivenKnown(k *kit) {
	topic, group := k.h.NewTopic(k, 1), k.h.NewGroup(k)
	p, c := k.producer(topic), k.consumer(group, topic)
	k.bury(p, c, messages(topic, 4)...)
	queues, letters := k.letters(c, 4)
	for _, i := range []int{0, 1, 3} {
		k.redrive(c, letters[i])
	}
	k.wantRedriven(c, letters, true, true, false, true)
	q := queues[0]
	for _, offset := range []int64{letters[1].Offset + 1, letters[0].Offset + 1} { // the second one is late, and must not move it back
		if err := box(k, c).MarkRedriven(k.within(k.facts.Open), q, offset); err != nil {
			k.Fatal(err)
		}
	}
	k.ack(c, k.fetch(c, 3, longLease)...)
	k.closing("consumer", c)
	next := k.consumer(group, topic)
	queues, letters = k.letters(next, 4)
	if queues[0].First() != letters[2].Offset || queues[0].Left() != 2 {
		k.Errorf("after two of four were marked: %+v", queues)
	}
	k.wantRedriven(next, letters[2:], false, true)
	k.fetchNone(next, k.facts.Quiet, "looking at dead letters delivers nothing")
}

func caseLetterOfAnotherTopic(k *kit) {
	topic, other, group := k.h.NewTopic(k, 1), k.h.NewTopic(k, 1), k.h.NewGroup(k)
	before := k.consumer(group, topic)
	k.bury(k.producer(topic), before, message(topic))
	k.closing("consumer", before)
	c := k.consumer(group, other)
	_, letters := k.letters(c, 1)
	if letters[0].Problem == "" || letters[0].Topic != topic {
		k.Errorf("the letter: %+v", letters[0])
	}
	k.want("redrive it", box(k, c).Redrive(k.within(k.facts.Open), letters[0]), driver.Unsupported)
	k.fetchNone(c, k.facts.Quiet, "it was not redriven")
}

func caseOwnLetters(k *kit) {
	topic, group := k.h.NewTopic(k, 1), k.h.NewGroup(k)
	first := k.consumer(group, topic)
	k.bury(k.producer(topic), first, message(topic)) // so that there is a dead-letter topic
	k.letters(first, 1)
	k.closing("consumer", first)
	c := k.consumer(group, driver.DeadLetterTopic(group))
	_, err := box(k, c).DeadLetterQueues(k.within(k.facts.Open))
	k.want("look at the dead letters", err, driver.Unsupported)
}

func caseLettersRefused(k *kit) {
	topic, group := k.h.NewTopic(k, 1), k.h.NewGroup(k)
	p, c := k.producer(topic), k.consumer(group, topic)
	k.bury(p, c, message(topic))
	queues, letters := k.letters(c, 1)
	b := box(k, c)
	calls := func(ctx context.Context) map[string]error {
		errs := map[string]error{}
		_, errs["look"] = b.DeadLetterQueues(ctx)
		_, _, errs["read"] = b.ReadDeadLetters(ctx, queues[0], 0, 1)
		_, errs["look up"] = b.Redriven(ctx, letters)
		errs["redrive"] = b.Redrive(ctx, letters[0])
		errs["mark"] = b.MarkRedriven(ctx, queues[0], 1)
		return errs
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	for name, err := range calls(gone) {
		k.want(name+" for a caller who has gone", err, driver.Timeout)
	}
	k.closing("consumer", c)
	for name, err := range calls(k.within(k.facts.Open)) {
		k.want(name+" after Close", err, driver.Closed)
	}
	k.fetchNone(k.consumer(group, topic), k.facts.Quiet, "nothing was redriven")
}
