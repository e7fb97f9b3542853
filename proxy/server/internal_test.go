// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/delivery"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

func TestTheTableFromGoErrorsToStatusCodes(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	late, cancelLate := context.WithDeadline(context.Background(), time.Unix(0, 0))
	defer cancelLate()
	for name, c := range map[string]struct {
		ctx      context.Context
		err      error
		draining bool
		code     codes.Code
		reason   string
	}{
		"no such object":             {nil, &registry.NotFoundError{Kind: registry.Producer, Namespace: "a", Name: "b"}, false, codes.NotFound, "NotFound"},
		"an object that is starting": {nil, &registry.NotReadyError{Reason: "Starting"}, false, codes.Unavailable, "Starting"},
		"a broker that is away":      {nil, &registry.NotReadyError{Reason: "BrokerUnavailable"}, false, codes.Unavailable, "BrokerUnavailable"},
		"a broker that hangs":        {nil, &registry.NotReadyError{Reason: "BrokerTimeout"}, false, codes.Unavailable, "BrokerTimeout"},
		"an API server that is away": {nil, &registry.NotReadyError{Reason: "APIServerUnavailable"}, false, codes.Unavailable, "APIServerUnavailable"},
		"brokers without a version":  {nil, &registry.NotReadyError{Reason: "BrokerVersionUnknown"}, false, codes.Unavailable, "BrokerVersionUnknown"},
		"one that another host runs": {nil, &registry.NotReadyError{Reason: "SeveralHosts"}, false, codes.Unavailable, "SeveralHosts"},
		"a Secret that is missing":   {nil, &registry.NotReadyError{Reason: "SecretNotFound"}, false, codes.FailedPrecondition, "SecretNotFound"},
		"a group with other members": {nil, &registry.NotReadyError{Reason: "GroupHasClassicMembers"}, false, codes.FailedPrecondition, "GroupHasClassicMembers"},
		"a group in use":             {nil, fmt.Errorf("use: %w", &registry.NotReadyError{Reason: "GroupInUse"}), false, codes.FailedPrecondition, "GroupInUse"},
		"an object that goes":        {nil, registry.ErrDraining, false, codes.Aborted, "ObjectChanged"},
		"a host that stops":          {nil, registry.ErrDraining, true, codes.Unavailable, "HostDraining"},
		"a closed gate":              {nil, registry.ErrGateClosed, true, codes.Unavailable, "HostDraining"},
		"a window that drains":       {nil, delivery.ErrDraining, false, codes.Aborted, "ObjectChanged"},
		"a driver's error":           {nil, driver.Errorf(driver.Unauthorized, "", "no"), false, codes.FailedPrecondition, "CredentialsRefused"},
		"a status stays":             {nil, failure(codes.NotFound, "x", "", "y"), false, codes.NotFound, "x"},
		"the caller has gone":        {ended, errors.New("any"), false, codes.Canceled, "Canceled"},
		"the deadline has passed":    {late, errors.New("any"), false, codes.DeadlineExceeded, "DeadlineExceeded"},
		"what nobody expected":       {nil, errors.New("a secret detail"), false, codes.Internal, "Internal"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Server{}
			s.draining.Store(c.draining)
			if c.ctx == nil {
				c.ctx = context.Background()
			}
			got := s.statusError(c.ctx, c.err)
			if status.Code(got) != c.code || reasonOf(got) != c.reason || strings.Contains(got.Error(), "secret") {
				t.Errorf("got %v with reason %q, want %v %q", got, reasonOf(got), c.code, c.reason)
			}
		})
	}
}

func TestEveryReasonOfADriverHasACode(t *testing.T) {
	for _, r := range []driver.Reason{
		driver.Unavailable, driver.NotReplicated, driver.Timeout, driver.Closed, driver.Throttled, driver.Unauthorized, driver.TopicNotFound,
		driver.InvalidMessage, driver.InvalidFilter, driver.AddressRefused, driver.Unsupported, driver.Invalid, driver.LeaseExpired, driver.InvalidHandle,
		driver.TooLate, driver.GroupHasClassicMembers, driver.TransactionEnded,
	} {
		if codeOfReason(r) == codes.Internal {
			t.Errorf("%s has no code", r)
		}
	}
}

func TestAPanicIsAnsweredCountedAndLogged(t *testing.T) {
	var counted []string
	s := &Server{observer: panics{&counted}, log: logr.Discard(), failures: newFailureLog(logr.Discard())}
	s.admission.limits = DefaultLimits()
	err := s.serve(context.Background(), &call{method: "Send", protocol: "grpc"}, time.Second, func(context.Context) error { panic("boom") })
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "boom") || len(counted) != 1 || counted[0] != "Send" {
		t.Errorf("got %v, counted %v", err, counted)
	}
	if s.admission.calls != 0 {
		t.Errorf("%d calls are still counted", s.admission.calls)
	}
}

type panics struct{ counted *[]string }

func (p panics) CallEnded(string, string, codes.Code, time.Duration) {}
func (p panics) Sent(string, string, string, int)                    {}
func (p panics) Transactions(string, string, string)                 {}
func (p panics) Connections(string, int)                             {}
func (p panics) Streams(int)                                         {}
func (p panics) ConnectionRefused(string)                            {}
func (p panics) ReceiverNotReading()                                 {}
func (p panics) Panicked(method string)                              { *p.counted = append(*p.counted, method) }

func TestIDsAreUniqueAndTellTheTimeAsRocketMQDoes(t *testing.T) {
	now := time.Date(2026, 11, 23, 8, 0, 0, 123e6, time.UTC)
	m := newIDMaker(func() time.Time { return now })
	var mu sync.Mutex
	seen := map[string]bool{}
	var makers sync.WaitGroup
	for range 4 {
		makers.Go(func() {
			for range 10000 {
				id := m.id()
				mu.Lock()
				seen[id] = true
				mu.Unlock()
			}
		})
	}
	makers.Wait()
	if len(seen) != 40000 {
		t.Errorf("%d of 40000 ids are different, all in one millisecond", len(seen))
	}
	raw, err := hex.DecodeString(m.id())
	if err != nil || len(raw) != 16 {
		t.Fatalf("the id is no hex of 16 bytes: %v", err)
	}
	millis := int64(raw[10])<<24 | int64(raw[11])<<16 | int64(raw[12])<<8 | int64(raw[13])
	if got := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(millis) * time.Millisecond); !got.Equal(now) {
		t.Errorf("the id tells %s, want %s", got, now)
	}
	before := m.id()[:20]
	now = time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	if m.id()[:20] == before {
		t.Error("a new month has the random bytes of the old one")
	}
}

func TestJSONIsTakenApartAsTyped(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"no json at all":         {`{"messages":[{"text":"x"}]}`, `{"messages":[{"text":"x"}]}`},
		"numbers, order, blanks": {`{"messages":[{"json":{"b" : 1e400,"a":0.10}}]}`, `{"messages":[{"text":"{\"b\" : 1e400,\"a\":0.10}"}]}`},
		"json inside of text":    {`{"messages":[{"text":"json"}]}`, `{"messages":[{"text":"json"}]}`},
		"messages that are none": {`{"messages":5,"x":"json"}`, `{"messages":5,"x":"json"}`},
		"a name twice stays":     {`{"a":"json","a":2}`, `{"a":"json","a":2}`},
	} {
		t.Run(name, func(t *testing.T) {
			got := []byte(c.in)
			if err := prepareJSON(&got, true); err != nil || string(got) != c.want {
				t.Errorf("got %s %v, want %s", got, err, c.want)
			}
		})
	}
}

func FuzzPrepareJSON(f *testing.F) {
	for _, seed := range []string{`{"messages":[{"json":1e400}]}`, `{`, `[]`, `{"messages":[{"json":{}},{"text":1}]}`, "{\"messages\":[{\"json\":\"\\ud800\"}]}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		body := append([]byte(nil), in...)
		if prepareJSON(&body, true) == nil {
			if _, err := parseObject(body); err != nil {
				t.Errorf("%q became %q, which is no object: %v", in, body, err)
			}
		}
	})
}

func TestACertificateIsReloadedAndTheLastGoodOneStays(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	if _, err := TLSFromFiles(cert, key, logr.Discard()); err == nil {
		t.Error("missing files were accepted")
	}
	now := time.Now()
	write := func(serial int64) {
		writeCertificate(t, cert, key, serial)
		stamp := now.Add(time.Duration(serial) * time.Second)
		for _, f := range []string{cert, key} {
			if err := os.Chtimes(f, stamp, stamp); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(1)
	c := &certificate{certFile: cert, keyFile: key, log: logr.Discard(), now: func() time.Time { return now }}
	if err := c.reload(); err != nil {
		t.Fatal(err)
	}
	serial := func() int64 {
		leaf, err := x509.ParseCertificate(c.get().Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return leaf.SerialNumber.Int64()
	}
	write(2)
	if got := serial(); got != 1 {
		t.Errorf("within the pause between looks the certificate is %d", got)
	}
	now = now.Add(certificateCheckEvery)
	if got := serial(); got != 2 {
		t.Errorf("the renewed certificate was not taken: %d", got)
	}
	if err := os.WriteFile(cert, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	now = now.Add(certificateCheckEvery)
	if got := serial(); got != 2 {
		t.Errorf("after rubbish the certificate is %d", got)
	}
	write(3)
	now = now.Add(certificateCheckEvery)
	if got := serial(); got != 3 {
		t.Errorf("after the repair the certificate is %d", got)
	}
}

func writeCertificate(t *testing.T, certFile, keyFile string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "proxy"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLimitsThatCannotWorkAreRefusedByName(t *testing.T) {
	for name, l := range map[string]Limits{
		"MaxRequestBytes":  {MaxRequestBytes: -1},
		"WriteTimeout":     {WriteTimeout: -time.Second},
		"MaxHeaderBytes":   {MaxHeaderBytes: 100},
		"ReauthorizeEvery": {ReauthorizeEvery: time.Minute},
	} {
		if err := l.withDefaults().validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := (Limits{}).withDefaults().validate(); err != nil {
		t.Errorf("the defaults are refused: %v", err)
	}
	if (Limits{}).withDefaults() != DefaultLimits() {
		t.Error("a zero field has no default")
	}
}

func TestTheFailureLogIsBoundedAndTellsWhatItLeftOut(t *testing.T) {
	lines := &lineCounter{}
	f := newFailureLog(logr.New(lines))
	for range 1000 {
		f.log("call failed")
	}
	if lines.n > failureLinesBurst+failureLinesPerSecond {
		t.Errorf("%d lines were written", lines.n)
	}
	if f.skipped.Load() < 900 {
		t.Errorf("%d lines are counted as left out", f.skipped.Load())
	}
}

type lineCounter struct{ n int }

func (l *lineCounter) Init(logr.RuntimeInfo)          {}
func (l *lineCounter) Enabled(int) bool               { return true }
func (l *lineCounter) Info(int, string, ...any)       { l.n++ }
func (l *lineCounter) Error(error, string, ...any)    { l.n++ }
func (l *lineCounter) WithValues(...any) logr.LogSink { return l }
func (l *lineCounter) WithName(string) logr.LogSink   { return l }

// TestACheckStreamWhoseResultsNobodyReadsIsNotReadOn: each frame of resolutions makes as many results.
func TestACheckStreamWhoseResultsNobodyReadsIsNotReadOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := DefaultLimits()
		limits.MaxPendingAckBytes = 10_000
		cs := &checkStream{watched: watched{s: &Server{limits: limits}}, done: make(chan struct{}, 1), room: make(chan struct{}, 1)}
		frames := make(chan int, 1000)
		cs.working.Go(func() {
			bad := &pb.TransactionResolution{Transaction: strings.Repeat("x", 1000)}
			for n := 1; cs.resolve([]*pb.TransactionResolution{bad}) && cs.waitForRoom() && n < cap(frames); n++ {
				frames <- n
			}
		})
		synctest.Wait()
		most := len(frames)
		if most > 10 {
			t.Errorf("%d frames of 1000 bytes were read and no result was taken; the limit is 10,000 bytes", most)
		}
		for len(cs.takeResults()) > 0 {
			synctest.Wait()
			if len(frames) > 5*most {
				break
			}
		}
		if len(frames) <= most {
			t.Error("no further frame was read when results were taken")
		}
		cs.finish()
	})
}
