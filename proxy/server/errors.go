// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/deadletter"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

// ErrorDomain is the domain of every ErrorInfo in our errors.
const ErrorDomain = "proxy.rocketmq.io"

// Reasons of errors that the server itself finds; others are reasons of drivers and of the registry.
const (
	reasonInvalid        = "InvalidRequest"
	reasonLimit          = "LimitExceeded"
	reasonNotFound       = "NotFound"
	reasonHostDraining   = "HostDraining"
	reasonObjectChanged  = "ObjectChanged"
	reasonInternal       = "Internal"
	reasonDeadline       = "DeadlineExceeded"
	reasonCanceled       = "Canceled"
	reasonTopicForbidden = "TopicNotAllowed"
	reasonTopicMissing   = "TopicMissing"
	reasonTooLarge       = "MessageTooLarge"
	reasonRateLimited    = "RateLimited"
	reasonNotRead        = "ReceiverNotReading"
	reasonStreamAge      = "StreamTooOld"
	reasonUnderWay       = "RedriveUnderWay"
)

// failure makes a status error with its ErrorInfo; reason is for programs, message for people, field names the request's field at fault or is empty.
func failure(code codes.Code, reason, field, message string) error {
	return failureWith(code, reason, field, message)
}

func failureWith(code codes.Code, reason, field, message string, details ...protoadapt.MessageV1) error {
	info := &errdetails.ErrorInfo{Reason: reason, Domain: ErrorDomain}
	if field != "" {
		info.Metadata = map[string]string{"field": field}
	}
	plain := status.New(code, message)
	detailed, err := plain.WithDetails(append([]protoadapt.MessageV1{info}, details...)...)
	if err != nil {
		return plain.Err() // Only an OK code or a value that cannot be marshalled leads here; the text is what matters.
	}
	return detailed.Err()
}

// invalid is INVALID_ARGUMENT about one field.
func invalid(field, format string, args ...any) error {
	return failure(codes.InvalidArgument, reasonInvalid, field, field+": "+fmt.Sprintf(format, args...))
}

// limitReached is RESOURCE_EXHAUSTED about one field of Limits.
func limitReached(limit, format string, args ...any) error {
	return failure(codes.ResourceExhausted, reasonLimit, "", fmt.Sprintf(format, args...)+" (limit "+limit+")")
}

// codeOfReason is the table from a driver's reason to a status code.
func codeOfReason(r driver.Reason) codes.Code {
	switch r {
	case driver.Unavailable, driver.NotReplicated, driver.Closed, driver.EarlierFailed:
		return codes.Unavailable
	case driver.Timeout:
		return codes.DeadlineExceeded
	case driver.Throttled:
		return codes.ResourceExhausted
	case driver.InvalidMessage, driver.LeaseExpired, driver.InvalidHandle:
		return codes.InvalidArgument
	case driver.Unauthorized, driver.TopicNotFound, driver.InvalidFilter, driver.AddressRefused, driver.Unsupported, driver.Invalid,
		driver.GroupHasClassicMembers, driver.TooLate, driver.TransactionEnded:
		return codes.FailedPrecondition
	default:
		return codes.Internal
	}
}

// codeOfNotReady is the code for an object without a client. What ends by itself is UNAVAILABLE, as it is for an object that has one: retry rules of
// applications, SDKs and meshes go by the code. FAILED_PRECONDITION is left for what somebody has to put right. Nothing was sent, so that a time-out at
// the broker is no DEADLINE_EXCEEDED here.
func codeOfNotReady(reason string) codes.Code {
	switch reason {
	case registry.ReasonStarting, registry.ReasonShuttingDown, registry.ReasonNotConfirmed, registry.ReasonVersionUnknown, registry.ReasonSeveralHosts,
		string(driver.Unavailable), string(driver.Timeout), string(driver.Throttled), string(driver.NotReplicated), string(driver.Closed):
		return codes.Unavailable
	default:
		return codes.FailedPrecondition
	}
}

// statusError is the one table from Go errors to status errors. What is a status already passes unchanged.
func (s *Server) statusError(ctx context.Context, err error) error {
	var notFound *registry.NotFoundError
	var notReady *registry.NotReadyError
	var fromDriver *driver.Error
	switch {
	case err == nil:
		return nil
	case isStatus(err):
		return err
	case errors.Is(err, deadletter.ErrUnderWay):
		return failure(codes.Aborted, reasonUnderWay, "", err.Error())
	case errors.As(err, &notFound):
		return failure(codes.NotFound, reasonNotFound, "", notFound.Error())
	case errors.As(err, &notReady):
		return failure(codeOfNotReady(notReady.Reason), notReady.Reason, "", notReady.Error())
	case errors.Is(err, registry.ErrDraining), errors.Is(err, registry.ErrGateClosed), errors.Is(err, delivery.ErrDraining):
		return s.drainingError()
	case errors.As(err, &fromDriver):
		return failure(codeOfReason(fromDriver.Reason), string(fromDriver.Reason), fromDriver.Field, fromDriver.Error())
	case ctx.Err() != nil, errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return contextFailure(ctx)
	default:
		return failure(codes.Internal, reasonInternal, "", "the proxy failed; its log has the cause under the request's id")
	}
}

// drainingError tells a caller why its object goes away: the whole host (UNAVAILABLE: another host has it) or only the object (ABORTED).
func (s *Server) drainingError() error {
	if s.draining.Load() {
		return failure(codes.Unavailable, reasonHostDraining, "", "this host is stopping; try again, another host answers")
	}
	return failure(codes.Aborted, reasonObjectChanged, "", "the object was deleted or changed while the call ran; look at it, then try again")
}

func contextFailure(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return failure(codes.Canceled, reasonCanceled, "", "the caller cancelled the call; its effect is unknown")
	}
	return failure(codes.DeadlineExceeded, reasonDeadline, "", "no answer within the call's deadline; the effect is unknown, trying again may duplicate")
}

func isStatus(err error) bool {
	var carrier interface{ GRPCStatus() *status.Status }
	return errors.As(err, &carrier)
}

// reasonOf finds the reason in a status error, for logs.
func reasonOf(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.Reason
		}
	}
	return ""
}
