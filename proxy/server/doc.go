// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package server is what applications call: the data-plane protocol over gRPC and over HTTP/JSON.
//
// There is one implementation of each call and one way to it. A gRPC call arrives in grpc.go, an HTTP call in http.go (grpc-gateway on the same
// functions, in process); both pass through Server.serve (limits, deadline, panic, metrics, log), then authenticate -> authorise -> look up ->
// do. So there is no second path on which a rule could be forgotten.
//
// Unary gRPC methods are registered with stream handlers. On the wire nothing differs, but the handler runs before the request is read: a caller
// without a valid token cannot make the proxy read a body, errors about the size of a request are ours, and Pull learns whether its answer was
// written.
//
// A Receive stream has two goroutines. The handler writes; a reader takes acknowledgements, so that they flow while a write blocks. While there are
// acknowledgements to make, one more makes them and ends; what arrives meanwhile goes next, together. The handler gives back what was not
// written before it returns; the other two end with it, and Server.Close waits for them.
//
// Errors: errors.go has the one table from Go errors to status codes. Each status carries an ErrorInfo whose reason is one word for programs.
package server
