// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package deadletter

import (
	"context"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// Query asks for letters.
type Query struct {
	Selection
	// Token is Page.Next of an earlier call.
	Token string
	// Limit and MaxBytes bound the page; the first letter may be larger alone.
	Limit    int
	MaxBytes int64
	// Bodies are left out without it.
	Bodies bool
}

// Letter is a dead letter and the size of its body, which may have been left out.
type Letter struct {
	*driver.DeadLetter
	BodyBytes int
}

// Page is some letters that have not been redriven.
type Page struct {
	Letters []Letter
	// Next is the token for the next page, empty = this is the last one. A page may have no letters and still not be the last: the call's time was over.
	Next string
	// Left is how many letters the dead-letter topic has behind the marks: at least as many as have not been redriven.
	Left int64
}

// List answers letters that have not been redriven, in the order in which they became dead letters, queue by queue. It changes nothing.
func List(ctx context.Context, box driver.DeadLetters, q Query) (Page, error) {
	s, err := newScan(ctx, box, &q.Selection, q.Token)
	if err != nil {
		return Page{}, err
	}
	l := &lister{query: &q}
	next, err := s.run(ctx, l)
	if err != nil {
		return Page{}, err
	}
	return Page{Letters: l.letters, Next: next, Left: s.left()}, nil
}

// framing is more than what an answer needs for each letter beside its message: the reason above all.
const framing = 2 << 10

// lister is a visitor.
type lister struct {
	query   *Query
	bytes   int64
	letters []Letter
}

func (l *lister) enter(*driver.DeadLetterQueue, int64) {}

func (l *lister) leave(context.Context) error { return nil }

func (l *lister) see(_ context.Context, letter *driver.DeadLetter, chosen, redriven bool) (verdict, error) {
	if !chosen || redriven {
		return goOn, nil
	}
	body := len(letter.Body)
	if !l.query.Bodies {
		letter.Body = nil
	}
	size := letter.Bytes() + framing
	if len(l.letters) >= l.query.Limit || len(l.letters) > 0 && l.bytes+size > l.query.MaxBytes {
		return stop, nil
	}
	l.letters = append(l.letters, Letter{letter, body})
	l.bytes += size
	return goOn, nil
}
