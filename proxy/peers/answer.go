// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"context"
	"encoding/binary"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The purposes of envelopes. That of an answer ends with the id of its question.
const (
	purposeCall     = "peer call"
	purposeQuestion = "peer question"
	purposeAnswer   = "peer answer "
)

// credentialAge is how old, or how far in the future, a credential may be: the clocks of hosts differ a little. What is repeated within it does no
// harm, because each question names its process and tokens answer a repetition as they answered the first time.
const credentialAge = time.Minute

// credential is the envelope that a call has in its metadata: the time, in milliseconds.
func (p *Peers) credential(now time.Time) []byte {
	return p.o.Sealer.Seal(purposeCall, binary.BigEndian.AppendUint64(nil, uint64(now.UnixMilli())))
}

// Admit says whether a host calls, by the call's credential; nothing of the request has been read then. The error is a status.
func (p *Peers) Admit(credential string) error {
	plain, err := p.o.Sealer.Open(purposeCall, []byte(credential))
	if err != nil || len(plain) != 8 {
		return status.Error(codes.Unauthenticated, "only hosts of this operator may call this")
	}
	if age := time.Since(time.UnixMilli(int64(binary.BigEndian.Uint64(plain)))); age > credentialAge || age < -credentialAge {
		return status.Error(codes.Unauthenticated, "the call's credential is "+age.Round(time.Second).String()+" old: do the clocks of the hosts differ?")
	}
	return nil
}

// Answer answers a question that another host has sealed, with the window that made the tokens. Errors are statuses; all but Unknown mean that
// nothing was done.
func (p *Peers) Answer(ctx context.Context, sealed []byte) ([]byte, error) {
	plain, err := p.o.Sealer.Open(purposeQuestion, sealed)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, "only hosts of this operator may ask this")
	}
	question, settlement, err := decodeSettlement(plain)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	switch {
	case question.GetHost() != p.o.Host: // which says nothing about the life of the one that is meant
		return nil, status.Error(codes.InvalidArgument, "the host "+p.o.Host+" has this address: --peer-address and POD_IP must name one host only")
	case question.GetIncarnation() != p.o.Incarnation:
		return nil, status.Error(codes.FailedPrecondition, "the process that is asked has ended; this is a later one of its host")
	}
	window, release, found := p.o.Window(settlement.ConsumerUID)
	if !found {
		return nil, status.Error(codes.NotFound, "no window of that Consumer on this host")
	}
	defer release()
	if ctx.Err() != nil {
		// Who asked has gone, and may have asked RocketMQ meanwhile: this host was stopped, say, while the question lay in its socket.
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	answer, err := encodeSettled(window.Settle(ctx, settlement))
	if err != nil {
		return nil, status.Error(codes.Unknown, err.Error())
	}
	return p.o.Sealer.Seal(purposeAnswer+string(question.GetId()), answer), nil
}
