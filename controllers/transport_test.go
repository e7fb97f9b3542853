// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/rest"
)

// wire sits between one host and the API server. It records what changes something, and can refuse, fail, or die.
type wire struct {
	next http.RoundTripper

	mu sync.Mutex
	// writes are the mutating requests to our objects and to the Lease; events and renewals are not counted.
	writes []string
	// dieAt is the number of the write, from 1, at which the process dies, before it is sent or after it was stored; 0 = never.
	dieAt       int
	afterCommit bool
	dead        bool
	died        chan struct{}
	// refuse answers a request instead of the API server when it has something to say.
	refuse func(r *http.Request) *http.Response
}

// onWire answers a configuration whose requests go over a wire of their own.
func onWire(t *testing.T, change func(w *wire)) (*rest.Config, *wire) {
	t.Helper()
	needAPIServer(t)
	w := &wire{died: make(chan struct{})}
	if change != nil {
		change(w)
	}
	config := rest.CopyConfig(restConfig)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.next = next
		return w
	})
	return config, w
}

var errProcessDied = errors.New("the process has died")

// RoundTrip implements http.RoundTripper.
func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	dieBefore, dieAfter, refuse, err := w.admit(r)
	switch {
	case err != nil:
		return nil, err
	case dieBefore:
		close(w.died)
		return nil, errProcessDied
	}
	if refuse != nil {
		if response := refuse(r); response != nil {
			return response, nil
		}
	}
	response, err := w.next.RoundTrip(r)
	if dieAfter {
		if err == nil {
			err = response.Body.Close()
		}
		close(w.died)
		return nil, errors.Join(errProcessDied, err)
	}
	return response, err
}

func (w *wire) admit(r *http.Request) (dieBefore, dieAfter bool, refuse func(*http.Request) *http.Response, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return false, false, nil, errProcessDied
	}
	if counts(r) {
		w.writes = append(w.writes, what(r))
		if len(w.writes) == w.dieAt {
			w.dead = true
			return !w.afterCommit, w.afterCommit, nil, nil
		}
	}
	return false, false, w.refuse, nil
}

func counts(r *http.Request) bool {
	if r.Method == http.MethodGet || strings.Contains(r.URL.Path, "/events") {
		return false
	}
	// Renewals come by the clock; the deletion of the Lease is the last act, after the story.
	return !strings.Contains(r.URL.Path, "/leases/")
}

func what(r *http.Request) string {
	path := r.URL.Path[strings.LastIndex(r.URL.Path, "/namespaces/")+1:]
	if _, after, found := strings.Cut(strings.TrimPrefix(path, "namespaces/"), "/"); found {
		path = after
	}
	return fmt.Sprintf("%s %s %s", r.Method, path, r.URL.Query().Get("fieldManager"))
}

func (w *wire) written() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.writes...)
}

// status makes an answer of the API server.
func status(r *http.Request, code int, reason metav1.StatusReason) *http.Response {
	body, err := json.Marshal(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason, Message: "injected by the test",
	})
	if err != nil {
		panic(err)
	}
	return &http.Response{
		StatusCode: code, Status: http.StatusText(code), Request: r, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
	}
}

func (w *wire) isDead() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dead
}
