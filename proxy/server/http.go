// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
)

// newHTTP makes the HTTP server: grpc-gateway's routes and JSON on the same functions that gRPC calls, without a second hop.
func (s *Server) newHTTP(config *tls.Config) error {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, jsonMarshaler{}),
		runtime.WithErrorHandler(s.httpError),
		runtime.WithRoutingErrorHandler(s.routingError),
		runtime.WithIncomingHeaderMatcher(func(name string) (string, bool) {
			return "x-request-id", strings.EqualFold(name, "X-Request-Id")
		}),
	)
	if err := pb.RegisterProducerServiceHandlerServer(context.Background(), mux, &httpProducer{s: s}); err != nil {
		return fmt.Errorf("register HTTP routes: %w", err)
	}
	if err := pb.RegisterConsumerServiceHandlerServer(context.Background(), mux, &httpConsumer{s: s}); err != nil {
		return fmt.Errorf("register HTTP routes: %w", err)
	}
	if err := pb.RegisterDeadLetterServiceHandlerServer(context.Background(), mux, &httpDeadLetters{s: s}); err != nil {
		return fmt.Errorf("register HTTP routes: %w", err)
	}
	s.http = &http.Server{
		Handler:           &httpHandler{s: s, mux: mux},
		ReadHeaderTimeout: s.limits.OpenTimeout,
		ReadTimeout:       s.limits.OpenTimeout + s.limits.BodyTimeout,
		WriteTimeout:      s.limits.OpenTimeout + s.limits.BodyTimeout + s.limits.MaxWait + s.limits.WriteTimeout,
		IdleTimeout:       s.limits.MaxConnectionIdle,
		MaxHeaderBytes:    s.limits.MaxHeaderBytes,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: s.limits.MaxConcurrentStreams, SendPingTimeout: s.limits.KeepaliveTime},
		ErrorLog:          log.New(httpErrorLog{s.failures}, "", 0),
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, bornKey{}, time.Now())
		},
	}
	if config != nil {
		s.http.TLSConfig = config.Clone()
	}
	return nil
}

type (
	bornKey     struct{} // when a connection began
	exchangeKey struct{} // the *exchange of an HTTP call
)

// httpErrorLog takes what net/http says about connections.
type httpErrorLog struct{ out *failureLog }

func (l httpErrorLog) Write(line []byte) (int, error) {
	l.out.log("HTTP connection failed", "error", strings.TrimSpace(string(line)))
	return len(line), nil
}

// exchange is one HTTP call: what a Pull has taken until its answer is written, and the answer's fate.
type exchange struct {
	http.ResponseWriter
	pulled *pulled
	status int
	failed bool
}

func (e *exchange) WriteHeader(status int) {
	e.status = status
	e.ResponseWriter.WriteHeader(status)
}

func (e *exchange) Write(b []byte) (int, error) {
	n, err := e.ResponseWriter.Write(b)
	e.failed = e.failed || err != nil
	return n, err
}

// Unwrap lets http.ResponseController find the real writer.
func (e *exchange) Unwrap() http.ResponseWriter { return e.ResponseWriter }

// settle says what became of a Pull's answer: the connection took all of it, or not.
func (e *exchange) settle(ctx context.Context) {
	if e.pulled == nil {
		return
	}
	flushed := http.NewResponseController(e.ResponseWriter).Flush() == nil
	e.pulled.settle(flushed && !e.failed && (e.status == 0 || e.status == http.StatusOK) && ctx.Err() == nil)
}

// httpHandler is the way of every HTTP request.
type httpHandler struct {
	s   *Server
	mux *runtime.ServeMux
}

func (h *httpHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s := h.s
	if born, ok := r.Context().Value(bornKey{}).(time.Time); ok && time.Since(born) > s.limits.MaxConnectionAge {
		w.Header().Set("Connection", "close")
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.URL.Path == "/openapi.json" && r.Method == http.MethodGet && len(s.openAPI) > 0 {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(s.openAPI) // The reader is gone when this fails.
		return
	}
	out := &exchange{ResponseWriter: w}
	body, err := h.prepare(r)
	if err != nil {
		s.refuseHTTP(out, r, err)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, out))
	defer func() { out.settle(r.Context()) }()
	h.mux.ServeHTTP(out, r)
}

// prepare does what must happen before a body is read, reads it, and makes it what the gateway decodes.
func (h *httpHandler) prepare(r *http.Request) ([]byte, error) {
	s := h.s
	if r.Method != http.MethodPost {
		return nil, nil // The routes say what is wrong.
	}
	if s.auth == nil && r.Header.Get("Origin") != "" {
		// In a developer's mode any web page that the developer looks at could send messages otherwise.
		return nil, failure(codes.PermissionDenied, "Forbidden", "", "requests of web pages are not taken while authentication is switched off")
	}
	ctx := metadata.NewIncomingContext(r.Context(), metadata.MD{"authorization": r.Header.Values("Authorization")})
	if _, err := s.authenticate(ctx); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, int64(s.limits.MaxRequestBytes)))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, limitReached("MaxRequestBytes", "the request is larger than %d bytes", s.limits.MaxRequestBytes)
	case err != nil:
		return nil, failure(codes.InvalidArgument, reasonInvalid, "", "the body did not arrive: "+err.Error())
	case len(bytes.TrimSpace(body)) == 0:
		return []byte("{}"), nil
	}
	writes := strings.HasSuffix(r.URL.Path, ":send") || strings.HasSuffix(r.URL.Path, ":beginTransaction")
	return body, prepareJSON(&body, writes)
}

// refuseHTTP answers an error that was found before the gateway's routes.
func (s *Server) refuseHTTP(w http.ResponseWriter, r *http.Request, err error) {
	s.finished(r.Context(), &call{method: "none", protocol: "http"}, err, 0)
	s.httpError(r.Context(), nil, jsonMarshaler{}, w, r, err)
}

// routingError answers what is no route of ours.
func (s *Server) routingError(ctx context.Context, mux *runtime.ServeMux, m runtime.Marshaler, w http.ResponseWriter, r *http.Request, code int) {
	err := failure(codes.NotFound, reasonNotFound, "", fmt.Sprintf("there is no %s %s here; /openapi.json lists the calls", r.Method, r.URL.Path))
	switch code {
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", http.MethodPost)
		err = failure(codes.Unimplemented, "MethodNotAllowed", "", "use POST")
	case http.StatusBadRequest:
		err = failure(codes.InvalidArgument, reasonInvalid, "", "the path is not well formed")
	}
	s.httpErrorStatus(m, w, err, code)
	s.finished(ctx, &call{method: "none", protocol: "http"}, err, 0)
}

// httpError writes an error as JSON: {code, message, details}, as google.rpc.Status.
func (s *Server) httpError(_ context.Context, _ *runtime.ServeMux, m runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
	err = describeJSONError(err)
	code := runtime.HTTPStatusFromCode(status.Code(err))
	if status.Code(err) == codes.ResourceExhausted && strings.Contains(status.Convert(err).Message(), "(limit MaxRequestBytes)") {
		code = http.StatusRequestEntityTooLarge
	}
	s.httpErrorStatus(m, w, err, code)
}

func (s *Server) httpErrorStatus(m runtime.Marshaler, w http.ResponseWriter, err error, code int) {
	st := status.Convert(err)
	if st.Code() == codes.Unauthenticated {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	for _, detail := range st.Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok { // the header has whole seconds, the detail the exact time
			w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(retry.GetRetryDelay().AsDuration().Seconds()))))
		}
	}
	text, marshalErr := m.Marshal(st.Proto())
	if marshalErr != nil {
		s.log.Error(marshalErr, "cannot write an error's details", "code", st.Code().String())
		text = fmt.Appendf(nil, `{"code":%d,"message":%q}`, st.Code(), st.Message())
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(text) //nolint:gosec // JSON, marked as such and nosniff. The reader is gone when this fails.
}

// The gateway calls these in place of a gRPC client. Each is a call like any other.
type (
	httpProducer struct {
		pb.UnimplementedProducerServiceServer
		s *Server
	}
	httpConsumer struct {
		pb.UnimplementedConsumerServiceServer
		s *Server
	}
	httpDeadLetters struct {
		pb.UnimplementedDeadLetterServiceServer
		s *Server
	}
)

func (h *httpConsumer) Seek(ctx context.Context, req *pb.SeekRequest) (*pb.SeekResponse, error) {
	return httpCall(ctx, h.s, "Seek", req, (*Server).seek)
}

func (h *httpDeadLetters) ListDeadLetters(ctx context.Context, req *pb.ListDeadLettersRequest) (*pb.ListDeadLettersResponse, error) {
	return httpCall(ctx, h.s, "ListDeadLetters", req, (*Server).listDeadLetters)
}

func (h *httpDeadLetters) PeekDeadLetters(ctx context.Context, req *pb.ListDeadLettersRequest) (*pb.ListDeadLettersResponse, error) {
	answer, err := httpCall(ctx, h.s, "PeekDeadLetters", req, (*Server).peekDeadLetters)
	if err == nil {
		for _, l := range answer.Letters {
			readable(l.Message)
		}
	}
	return answer, err
}

func (h *httpDeadLetters) RedriveDeadLetters(ctx context.Context, req *pb.RedriveDeadLettersRequest) (*pb.RedriveDeadLettersResponse, error) {
	return httpCall(ctx, h.s, "RedriveDeadLetters", req, (*Server).redriveDeadLetters)
}

func (h *httpProducer) Send(ctx context.Context, req *pb.SendRequest) (*pb.SendResponse, error) {
	return httpCall(ctx, h.s, "Send", req, (*Server).send)
}

func (h *httpProducer) Recall(ctx context.Context, req *pb.RecallRequest) (*pb.RecallResponse, error) {
	return httpCall(ctx, h.s, "Recall", req, (*Server).recall)
}

func (h *httpProducer) BeginTransaction(ctx context.Context, req *pb.BeginTransactionRequest) (*pb.BeginTransactionResponse, error) {
	return httpCall(ctx, h.s, "BeginTransaction", req, (*Server).beginTransaction)
}

func (h *httpProducer) EndTransaction(ctx context.Context, req *pb.EndTransactionRequest) (*pb.EndTransactionResponse, error) {
	return httpCall(ctx, h.s, "EndTransaction", req, (*Server).endTransaction)
}

func (h *httpConsumer) Ack(ctx context.Context, req *pb.AckRequest) (*pb.AckResponse, error) {
	return httpCall(ctx, h.s, "Ack", req, (*Server).ack)
}

func (h *httpConsumer) Nack(ctx context.Context, req *pb.NackRequest) (*pb.AckResponse, error) {
	return httpCall(ctx, h.s, "Nack", req, (*Server).nack)
}

func (h *httpConsumer) ModifyAckDeadline(ctx context.Context, req *pb.ModifyAckDeadlineRequest) (*pb.AckResponse, error) {
	return httpCall(ctx, h.s, "ModifyAckDeadline", req, (*Server).modify)
}

// Pull leaves what it took in the exchange, which settles it when the answer is written.
func (h *httpConsumer) Pull(ctx context.Context, req *pb.PullRequest) (*pb.PullResponse, error) {
	s, c := h.s, &call{method: "Pull", protocol: "http"}
	var answer *pb.PullResponse
	err := s.serve(ctx, c, s.limits.DefaultDeadline+s.limits.MaxWait, func(ctx context.Context) error {
		p, err := admitted(ctx, s, c, func() (*pulled, error) { return s.pull(ctx, c, req) })
		if err != nil {
			return err
		}
		ctx.Value(exchangeKey{}).(*exchange).pulled = p
		answer = p.response()
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, d := range answer.Deliveries {
		readable(d.Message)
	}
	return answer, nil
}

// readable gives HTTP readers text where the body is text.
func readable(m *pb.ReceivedMessage) {
	if utf8.Valid(m.Body) {
		m.Text, m.Body = string(m.Body), nil
	}
}

func httpCall[Q, A any](ctx context.Context, s *Server, method string, req *Q, do func(*Server, context.Context, *call, *Q) (*A, error)) (*A, error) {
	c := &call{method: method, protocol: "http"}
	var answer *A
	err := s.serve(ctx, c, s.limits.DefaultDeadline, func(ctx context.Context) (err error) {
		answer, err = admitted(ctx, s, c, func() (*A, error) { return do(s, ctx, c, req) })
		return err
	})
	return answer, err
}
