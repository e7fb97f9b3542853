// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// manner is how a name server behaves.
type manner int

const (
	good manner = iota
	// mute takes connections and questions and never answers: a stopped process, or another service.
	mute
	// dark takes no connection and refuses none: a host that is gone, or a firewall that drops.
	dark
	// away refuses connections.
	away
)

// fleet is a client of name servers, without a network.
type fleet struct {
	client *Client
	// asked counts the questions that each has read.
	asked []atomic.Int32
}

func newFleet(t *testing.T, manners ...manner) *fleet {
	f := &fleet{asked: make([]atomic.Int32, len(manners))}
	f.client, _ = pipedBy(t, Options{}, func(ctx context.Context, address string) (func(net.Conn), error) {
		i, err := strconv.Atoi(address)
		if err != nil {
			return nil, err
		}
		switch manners[i] {
		case dark:
			<-ctx.Done()
			return nil, ctx.Err()
		case away:
			return nil, errRefusedDial
		case good, mute:
		}
		return answers(func(*Command) *Command {
			f.asked[i].Add(1)
			if manners[i] == mute {
				return nil
			}
			return &Command{Body: []byte(address)}
		}), nil
	})
	for i := range manners {
		f.client.connection.NameServers = append(f.client.connection.NameServers, strconv.Itoa(i))
	}
	return f
}

// ask asks within limit, 0 = without one, and returns which one answered, and after how long.
func (f *fleet) ask(t *testing.T, limit time.Duration) (who string, took time.Duration, err error) {
	ctx := t.Context()
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	began := time.Now()
	answer, err := f.client.InvokeNameServer(ctx, func() *Command { return &Command{Code: reqGetClusterInfo} })
	if err != nil {
		return "", time.Since(began), err
	}
	return string(answer.Body), time.Since(began), nil
}

func (f *fleet) counts() []int {
	all := make([]int, len(f.asked))
	for i := range f.asked {
		all[i] = int(f.asked[i].Load())
	}
	return all
}

func TestNameServersThatStaySilentLeaveTimeForTheNextOne(t *testing.T) {
	const questionLimit = 15 * time.Second // the driver's
	for _, c := range []struct {
		name    string
		manners []manner
		limit   time.Duration
		took    time.Duration // until the good one answers
	}{
		{"one", []manner{mute, good}, questionLimit, RequestTimeout},
		{"one, for a caller with little time", []manner{mute, good}, 2 * time.Second, time.Second},
		{"one, for a caller with all time", []manner{mute, good}, 0, RequestTimeout},
		{"three", []manner{mute, mute, mute, good}, questionLimit, 3 * questionLimit / 4},
		{"three, for a caller with little time", []manner{mute, mute, mute, good}, 2 * time.Second, 3 * 2 * time.Second / 4},
		{"three that take no connection", []manner{dark, dark, dark, good}, questionLimit, 3 * questionLimit / 4},
		{"fifteen", append(slices.Repeat([]manner{mute}, 15), good), questionLimit, 15 * questionLimit / 16},
		{"one among some that refuse, which cost no time", []manner{away, away, mute, good}, questionLimit, RequestTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, c.manners...)
				last := len(c.manners) - 1
				who, took, err := f.ask(t, c.limit)
				if who != strconv.Itoa(last) || took < c.took-time.Millisecond || took > c.took+time.Millisecond {
					t.Fatalf("%q answered after %v, want %d after %v: %v", who, took, last, c.took, err)
				}
				before := f.counts()
				if who, took, err = f.ask(t, c.limit); who != strconv.Itoa(last) || took != 0 {
					t.Errorf("the second time %q answered after %v, want %d at once: %v", who, took, last, err)
				}
				before[last]++
				if after := f.counts(); !slices.Equal(after, before) {
					t.Errorf("the second question makes it %v questions, want %v", after, before)
				}
			})
		})
	}
}

func TestNameServersThatAreAllSilentAreAskedOnceEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, mute, mute, mute, mute)
		_, took, err := f.ask(t, 4*time.Second)
		if err == nil || driver.ReasonOf(err) != driver.Timeout || took != 4*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
		if got := fmt.Sprint(f.counts()); got != "[1 1 1 1]" {
			t.Errorf("they were asked %s times", got)
		}
	})
}
