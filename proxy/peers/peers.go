// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/peer/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
)

const (
	// askTimeout bounds one question, connection included. The caller has a deadline of its own; a host that hangs must not use all of it.
	askTimeout = 3 * time.Second
	// CredentialKey is the metadata key of the envelope that proves, before anything is read, that a host calls.
	CredentialKey = "rocketmq-proxy-peer-bin"
)

// Outcome is how a question ended, for metrics.
type Outcome string

// The outcomes.
const (
	Answered Outcome = "answered"
	// Gone: the process that made the tokens has ended, or its window; RocketMQ is asked.
	Gone Outcome = "gone"
	// NotAsked: it could not be reached; RocketMQ is asked.
	NotAsked Outcome = "not_asked"
	// Unknown: it was asked and no answer came; the application is told to try again.
	Unknown Outcome = "unknown"
)

// Window is what a host answers with; see delivery.Window.
type Window interface {
	Settle(ctx context.Context, s delivery.Settlement) []delivery.Result
}

// Options are what Peers are made of. Everything without "may be nil" is required.
type Options struct {
	// Host and Incarnation are this process.
	Host, Incarnation string
	// Sealer has the keys that hosts share.
	Sealer *delivery.Sealer
	// Directory knows the hosts.
	Directory Directory
	// Window finds the window of a Consumer's UID that runs or drains here; release gives it back. It starts none.
	Window func(uid string) (w Window, release func(), found bool)
	// Plaintext: hosts serve without TLS.
	Plaintext bool
	// Asked is told how each question ended; may be nil.
	Asked func(Outcome)
	Log   logr.Logger
}

// Peers asks and answers. New makes it, Close ends it.
type Peers struct {
	o     Options
	find  finder
	links links
	// unknown limits the log: who acknowledges and cancels in a loop must not fill the disk. The metric counts all.
	unknown rate.Sometimes
}

var _ delivery.Peers = (*Peers)(nil)

// New makes Peers that have asked nobody yet. The caller closes them.
func New(o Options) *Peers {
	if o.Asked == nil {
		o.Asked = func(Outcome) {}
	}
	p := &Peers{o: o, links: links{plaintext: o.Plaintext}, unknown: rate.Sometimes{Interval: time.Second}}
	p.find = finder{directory: o.Directory}
	return p
}

// Close ends all connections; questions under way end as unknown, later ones as not asked. It works twice.
func (p *Peers) Close() { p.links.close() }

// HostsChanged closes the connections to hosts that have gone.
func (p *Peers) HostsChanged() { p.links.keep(p.o.Directory.Members()) }

// Settle asks the process that made the tokens; see delivery.Peers.
func (p *Peers) Settle(ctx context.Context, host, incarnation string, s delivery.Settlement) ([]delivery.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	results, err := p.ask(ctx, process{host, incarnation}, s)
	switch {
	case err == nil:
		p.o.Asked(Answered)
	case errors.Is(err, delivery.ErrPeerGone):
		p.o.Asked(Gone)
	case errors.Is(err, delivery.ErrNotAsked):
		p.o.Asked(NotAsked)
		p.o.Log.V(1).Info("another host could not be asked about its deliveries; RocketMQ is asked where the driver allows", "host", host, "reason", err.Error())
	default:
		p.o.Asked(Unknown)
		p.unknown.Do(func() {
			p.o.Log.Info("another host gave no answer about its deliveries; the application is told to try again", "host", host, "reason", err.Error())
		})
	}
	return results, err
}

func (p *Peers) ask(ctx context.Context, whom process, s delivery.Settlement) ([]delivery.Result, error) {
	member, err := p.find.member(ctx, whom)
	if err != nil {
		return nil, err
	}
	connection, err := p.links.ready(ctx, member.Address)
	switch {
	case err != nil && member.Stale:
		return nil, fmt.Errorf("%w: %w", delivery.ErrPeerGone, err)
	case err != nil:
		return nil, notAsked(err)
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails: crypto/rand ends the process instead
	question, err := encodeSettlement(id, whom, s)
	if err != nil {
		return nil, notAsked(err)
	}
	ctx = metadata.AppendToOutgoingContext(ctx, CredentialKey, string(p.credential(time.Now())))
	response, err := pb.NewPeerServiceClient(connection).Settle(ctx, &pb.SettleRequest{Sealed: p.o.Sealer.Seal(purposeQuestion, question)})
	if err != nil {
		return nil, p.refused(whom, err)
	}
	answer, err := p.o.Sealer.Open(purposeAnswer+string(id), response.GetSealed())
	if err != nil {
		return nil, fmt.Errorf("its answer does not open: %w", err)
	}
	return decodeSettled(answer)
}

// refused tells apart what the other side says before it does anything from what leaves the effect open.
func (p *Peers) refused(whom process, err error) error {
	switch status.Code(err) {
	case codes.FailedPrecondition:
		p.find.buried(whom)
		return delivery.ErrPeerGone
	case codes.NotFound:
		return fmt.Errorf("%w: %w", delivery.ErrPeerGone, err)
	case codes.Unauthenticated, codes.Unimplemented, codes.InvalidArgument:
		return notAsked(err)
	default:
		return err
	}
}

func notAsked(err error) error {
	if errors.Is(err, delivery.ErrNotAsked) {
		return err
	}
	return fmt.Errorf("%w: %w", delivery.ErrNotAsked, err)
}
