// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package examples

import (
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// httpFaults stands between an application and the HTTP port. Of the first calls of each verb it refuses some, and of others it takes the
// answer and closes the connection without passing it on: the effect has happened and the application does not know.
type httpFaults struct {
	mu    sync.Mutex
	calls map[string]int
	lost  map[string]int // answers lost, by verb
}

// What happens to the first calls of each verb; later ones pass.
var httpScript = []string{"lost", "pass", "503", "lost", "pass", "429", "409", "502"}

func (w *world) startHTTPFaults() (address string, f *httpFaults) {
	f = &httpFaults{calls: map[string]int{}, lost: map[string]int{}}
	target := &url.URL{Scheme: "https", Host: w.proxy.HTTPAddr().String()}
	behind := httputil.NewSingleHostReverseProxy(target)
	behind.Transport = &http.Transport{TLSClientConfig: w.tls}
	behind.ErrorLog = log.New(io.Discard, "", 0)
	certificate, err := tls.LoadX509KeyPair(filepath.Join(w.dir, "tls.crt"), filepath.Join(w.dir, "tls.key"))
	w.must(err)
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		f.serve(behind, out, r)
	}))
	front.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	front.Config.ErrorLog = log.New(io.Discard, "", 0)
	front.StartTLS()
	w.t.Cleanup(front.Close)
	return front.URL, f
}

func (f *httpFaults) serve(behind http.Handler, out http.ResponseWriter, r *http.Request) {
	verb := r.URL.Path[strings.LastIndexByte(r.URL.Path, ':')+1:]
	switch step := f.next(verb); step {
	case "pass":
		behind.ServeHTTP(out, r)
	case "lost":
		recorder := httptest.NewRecorder()
		behind.ServeHTTP(recorder, r)
		if recorder.Code == http.StatusOK {
			f.mu.Lock()
			f.lost[verb]++
			f.mu.Unlock()
		}
		panic(http.ErrAbortHandler) // closes the connection without an answer
	case "502":
		out.WriteHeader(http.StatusBadGateway) // somebody in between, not the proxy: no JSON
	default:
		codes := map[string]string{"503": "14", "429": "8", "409": "10"}
		out.Header().Set("Content-Type", "application/json")
		status := map[string]int{"503": 503, "429": 429, "409": 409}[step]
		out.WriteHeader(status)
		_, _ = io.WriteString(out, `{"code":`+codes[step]+`,"message":"refused by the test","details":[]}`) // the caller may be gone
	}
}

func (f *httpFaults) next(verb string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.calls[verb]
	f.calls[verb]++
	if n >= len(httpScript) {
		return "pass"
	}
	return httpScript[n]
}

// check makes sure that the test tested something.
func (f *httpFaults) check(t *testing.T, verbs ...string) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, verb := range verbs {
		if f.lost[verb] == 0 {
			t.Errorf("no answer of %s was lost (%d calls)", verb, f.calls[verb])
		}
	}
}

// cutAfter is how many bytes of answers each of the first connections carries before it is cut; later ones live.
var cutAfter = []int64{400, 2500, 9000}

// startCuttingRelay stands between an application and the gRPC port and cuts connections.
func (w *world) startCuttingRelay() (address string, cuts func() int) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	r := &relay{listener: listener, target: w.proxy.GRPCAddr().String(), open: map[net.Conn]struct{}{}}
	r.running.Go(r.accept)
	w.t.Cleanup(r.close)
	return listener.Addr().String(), func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.cuts
	}
}

type relay struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup

	mu       sync.Mutex
	accepted int
	cuts     int
	open     map[net.Conn]struct{}
	closed   bool
}

func (r *relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", r.target)
		if err != nil {
			client.Close()
			continue
		}
		r.mu.Lock()
		if r.closed {
			r.mu.Unlock()
			client.Close()
			server.Close()
			return
		}
		n := r.accepted
		r.accepted++
		r.open[client], r.open[server] = struct{}{}, struct{}{}
		r.mu.Unlock()
		r.running.Go(func() { r.copy(server, client, -1) })
		limit := int64(-1)
		if n < len(cutAfter) {
			limit = cutAfter[n]
		}
		r.running.Go(func() { r.copy(client, server, limit) })
	}
}

// copy moves bytes until one side ends, or until limit bytes have gone (-1: no limit); then both ends are closed.
func (r *relay) copy(to, from net.Conn, limit int64) {
	defer to.Close()
	defer from.Close()
	if limit < 0 {
		_, _ = io.Copy(to, from) // how it ends does not matter
		return
	}
	if _, err := io.CopyN(to, from, limit); err == nil || !errors.Is(err, io.EOF) {
		r.mu.Lock()
		r.cuts++
		r.mu.Unlock()
	}
}

func (r *relay) close() {
	r.listener.Close()
	r.mu.Lock()
	r.closed = true
	for c := range r.open {
		c.Close()
	}
	r.mu.Unlock()
	r.running.Wait()
}
