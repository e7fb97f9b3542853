// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package version asks brokers which line of RocketMQ they are, for proxy/driver/choice.
//
// The name servers tell which brokers there are; each is sent a heartbeat without members, which registers nothing. Any answer will do, an error
// too: the header of every answer carries the version number of the server (the ordinal of org.apache.rocketmq.common.MQVersion: 4.9.7 answers 407, 5.0.0
// 413, 5.5.0 513), also when the credentials are wrong. So rights do not matter here; whether they suffice is proven when a client is opened.
package version

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/choice"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

const (
	// heartBeat is RequestCode.HEART_BEAT.
	heartBeat = 34
	// nobody is a heartbeat of a client without groups. The lists must not be null: brokers answer that with a NullPointerException, whose answer
	// would do as well, but would fill their log.
	nobody = `{"clientID":"rocketmq-proxy-asks-for-the-version","producerDataSet":[],"consumerDataSet":[]}`
	// parallel is how many brokers are asked at a time.
	parallel = 16
)

// Probe is a choice.Probe. One broker older than 5.0 makes it choice.Line4, whatever the others are and whether they answer; for choice.Line5 every
// broker must have answered. It connects, and closes its connections before it returns.
func Probe(ctx context.Context, c driver.Connection) (choice.Finding, error) {
	client := wire.New(c, wire.Options{})
	defer client.Close()
	defer context.AfterFunc(ctx, client.Close)() // a dial belongs to the client, and outlives the request that waits for it
	brokers, err := list(ctx, client)
	if err != nil {
		return choice.Finding{}, err
	}
	answers := make([]answer, len(brokers))
	var all errgroup.Group
	all.SetLimit(parallel)
	for i, b := range brokers {
		all.Go(func() error {
			answers[i] = ask(ctx, client, b)
			return nil
		})
	}
	_ = all.Wait() // each answer has its own error
	return judge(answers)
}

// broker is one member of the cluster: its master, or where there is none at present its first slave, which is of the same version but in
// the middle of an upgrade.
type broker struct{ name, address string }

func (b broker) String() string { return b.name + " at " + b.address }

type answer struct {
	broker  broker
	version int
	five    bool
	err     error
}

func list(ctx context.Context, client *wire.Client) ([]broker, error) {
	info, err := client.ClusterInfo(ctx)
	if err != nil {
		return nil, wire.Errorf(err, "ask the name servers for the brokers, to learn their version")
	}
	var brokers []broker
	for _, name := range slices.Sorted(maps.Keys(info.Brokers)) {
		if address := first(info.Brokers[name].Addresses); address != "" {
			brokers = append(brokers, broker{name, address})
		}
	}
	if len(brokers) == 0 {
		return nil, driver.Errorf(driver.Unavailable, "", "the name servers know no broker yet, so the brokers' version is not known")
	}
	return brokers, nil
}

// first is the address with the lowest broker id; the master's is 0.
func first(byID map[string]string) string {
	lowest, address := -1, ""
	for text, a := range byID {
		if id, err := strconv.Atoi(text); err == nil && a != "" && (lowest < 0 || id < lowest) {
			lowest, address = id, a
		}
	}
	return address
}

func ask(ctx context.Context, client *wire.Client, b broker) answer {
	reply, err := client.Invoke(ctx, b.address, &wire.Command{Code: heartBeat, Body: []byte(nobody)})
	if reply == nil {
		return answer{broker: b, err: wire.Errorf(err, "ask broker %s for its version", b)}
	}
	return answer{broker: b, version: reply.Version, five: reply.IsVersion5()}
}

// judge makes one finding of all answers, of which there is at least one.
func judge(answers []answer) (choice.Finding, error) {
	for _, a := range answers {
		if a.err == nil && !a.five {
			return choice.Finding{Line: choice.Line4, Evidence: fmt.Sprintf("broker %s is older than 5.0 (version number %d)", a.broker, a.version)}, nil
		}
	}
	var names []string
	for _, a := range answers {
		if a.err != nil {
			return choice.Finding{}, a.err
		}
		names = append(names, a.broker.name)
	}
	const most = 3
	what := "broker " + strings.Join(names[:min(most, len(names))], ", ")
	if more := len(names) - most; more > 0 {
		what += fmt.Sprintf(" and %d more", more)
	}
	return choice.Finding{Line: choice.Line5, Evidence: fmt.Sprintf("%s: 5.0 or newer (version number %d)", what, answers[0].version)}, nil
}
