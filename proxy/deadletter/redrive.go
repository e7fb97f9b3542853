// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package deadletter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

const (
	// markEvery is how many letters are redriven between two moves of a mark: what a crash leaves to be looked up by the next call.
	markEvery = 128
	// markTimeout bounds a move of a mark, which happens also when the caller has gone.
	markTimeout = 3 * time.Second
	// showTimeout is how long a copy may take to show to look-ups.
	showTimeout = 2 * time.Second
)

// ErrUnderWay is the caller's answer to a second redrive of one group at a time.
var ErrUnderWay = errors.New("another redrive of this Consumer is under way on this host: wait for its answer, then make the call again")

// Order asks for a redrive.
type Order struct {
	Selection
	// Token is Progress.Next of an earlier call; it saves reading what that one has read and is not needed for anything else.
	Token string
	// Limit is how many letters one call redrives, or counts, at most.
	Limit int
	// Rate is how many letters a second; 0 = as fast as the broker takes them.
	Rate int
	// DryRun counts what would be redriven, and changes nothing.
	DryRun bool
}

// Progress is what one call has done.
type Progress struct {
	// Redriven are copies that the broker has stored, with DryRun those that it would. Already are chosen letters that had been redriven before,
	// Skipped those that cannot be, see driver.DeadLetter.Problem.
	Redriven, Already, Skipped int
	// Next is the token for the next call, empty = nothing chosen is left.
	Next string
	// Problem is why the call ended early, or what the caller should know, for people; empty = nothing.
	Problem string
	// Left is Page.Left, after the call.
	Left int64
}

// Redrive gives letters to their group again. It is bounded (Limit, and 20 s or the caller's deadline) and made again until Next is empty, with or without
// the token: a letter that has been redriven is passed. Each copy is confirmed by the broker; what a crash interrupts has either a copy or not. An error means
// that nothing was redriven by this call; when something was, and it had to stop, Progress.Problem says why.
func Redrive(ctx context.Context, box driver.DeadLetters, o Order) (Progress, error) {
	s, err := newScan(ctx, box, &o.Selection, o.Token)
	if err != nil {
		return Progress{}, err
	}
	r := &redriver{box: box, order: &o, end: s.end, began: time.Now()}
	next, err := s.run(ctx, r)
	if err != nil && r.Redriven == 0 {
		return Progress{}, err
	}
	r.Next = next
	if err != nil {
		r.Problem = err.Error()
	} else if err := r.awaitShown(ctx); err != nil {
		r.Problem = err.Error()
	}
	r.Left = s.left()
	return r.Progress, nil
}

// redriver is a visitor.
type redriver struct {
	Progress
	box   driver.DeadLetters
	order *Order
	// end is when the call must answer, began when it began to redrive.
	end, began time.Time

	queue *driver.DeadLetterQueue
	// gapless: every letter of the queue before done has been redriven. unmarked counts those since the last mark.
	gapless  bool
	done     int64
	unmarked int
	// unshown is the last copy of a letter that no mark covers.
	unshown *driver.DeadLetter
}

func (r *redriver) enter(q *driver.DeadLetterQueue, start int64) {
	r.queue, r.gapless, r.done, r.unmarked = q, start <= q.First(), start, 0
}

func (r *redriver) see(ctx context.Context, l *driver.DeadLetter, chosen, redriven bool) (verdict, error) {
	switch {
	case !chosen:
		r.gapless = false
		return goOn, nil
	case redriven:
		r.Already++
		return goOn, r.passed(ctx, l)
	case l.Problem != "":
		r.Skipped++
		r.gapless = false
		return goOn, nil
	case r.Redriven >= r.order.Limit:
		return stop, nil
	case r.order.DryRun:
		r.Redriven++
		return goOn, nil
	}
	if said, err := r.pace(ctx); err != nil || said == stop {
		return said, err
	}
	if err := r.box.Redrive(ctx, l); err != nil {
		return r.failed(l, fmt.Errorf("redrive message %q: %w", l.ID, err))
	}
	r.Redriven++
	if !r.gapless {
		r.unshown = l
	}
	return goOn, r.passed(ctx, l)
}

// failed passes a letter that the broker will never take, and ends the call for every other reason.
func (r *redriver) failed(l *driver.DeadLetter, err error) (verdict, error) {
	switch driver.ReasonOf(err) {
	case driver.InvalidMessage, driver.Unsupported:
		l.Problem = err.Error()
		r.Skipped++
		r.gapless = false
		if r.Problem == "" {
			r.Problem = l.Problem
		}
		return goOn, nil
	default:
		return stop, err
	}
}

// pace waits for the next letter's turn.
func (r *redriver) pace(ctx context.Context) (verdict, error) {
	now := time.Now()
	due := now
	if r.order.Rate > 0 {
		due = r.began.Add(time.Duration(r.Redriven) * time.Second / time.Duration(r.order.Rate))
	}
	if due.After(r.end) || !now.Before(r.end) {
		return stop, nil
	}
	if !due.After(now) {
		return goOn, ctx.Err()
	}
	timer := time.NewTimer(due.Sub(now))
	defer timer.Stop()
	select {
	case <-timer.C:
		return goOn, nil
	case <-ctx.Done():
		return stop, ctx.Err()
	}
}

// passed notes that l has a copy, and moves the mark now and then.
func (r *redriver) passed(ctx context.Context, l *driver.DeadLetter) error {
	if !r.gapless {
		return nil
	}
	r.done = l.Offset + 1
	if r.unmarked++; r.unmarked < markEvery {
		return nil
	}
	return r.mark(ctx)
}

func (r *redriver) leave(ctx context.Context) error { return r.mark(ctx) }

// mark moves the queue's mark to done, also for a caller who has gone: what is marked need not be looked up.
func (r *redriver) mark(ctx context.Context) error {
	if r.unmarked == 0 || r.order.DryRun || r.done <= r.queue.Marked {
		return nil
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), markTimeout)
	defer cancel()
	if err := r.box.MarkRedriven(bounded, *r.queue, r.done); err != nil {
		return fmt.Errorf("move the mark of what has been redriven: %w", err)
	}
	r.queue.Marked, r.unmarked = r.done, 0
	return nil
}

var errNotShown = errors.New("everything is stored, but the broker's index of messages does not show the copies, so that a repeated call may redrive them again: " +
	"is messageIndexEnable switched off?")

// awaitShown returns when the copies show to look-ups, so that the next call, on whatever host, passes their letters.
func (r *redriver) awaitShown(ctx context.Context) error {
	if r.unshown == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, showTimeout)
	defer cancel()
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		shown, err := r.box.Redriven(ctx, []*driver.DeadLetter{r.unshown})
		switch {
		case ctx.Err() != nil:
			return errNotShown
		case err != nil:
			return fmt.Errorf("everything is stored; look for the copies: %w", err)
		case shown[0]:
			return nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return errNotShown
		}
	}
}
