// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package checks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

const (
	// maxPosts is how many requests of one Producer may be under way on one host. What comes above is unanswered and comes again.
	maxPosts = 16
	// PostTimeout bounds one request with its answer.
	PostTimeout = 10 * time.Second
	// endTimeout bounds what is done with an answer.
	endTimeout = 5 * time.Second
	// maxAnswerBytes bounds what is read of an answer.
	maxAnswerBytes = 4 << 10
	// maxPostHeaderBytes bounds an answer's headers.
	maxPostHeaderBytes = 16 << 10
)

// Poster asks an application by HTTP. It is safe for concurrent use; CloseIdle when it is not needed any more.
type Poster struct {
	url    string
	body   func(*Check) ([]byte, error)
	client *http.Client
}

// NewPoster makes one that posts what body makes to address, a URL. allow is asked with each resolved IP:port before it is dialled, so that neither a name
// nor a redirect leads where clients may not go; redirects are not followed at all, and proxies of the environment not used.
func NewPoster(address string, allow func(ipPort string) error, body func(*Check) ([]byte, error)) *Poster {
	dialer := &net.Dialer{Timeout: PostTimeout, Control: func(_, address string, _ syscall.RawConn) error {
		if err := allow(address); err != nil {
			return fmt.Errorf("%w: %w", errRefused, err)
		}
		return nil
	}}
	return &Poster{url: address, body: body, client: &http.Client{
		Timeout: PostTimeout,
		Transport: &http.Transport{
			DialContext: dialer.DialContext, TLSHandshakeTimeout: PostTimeout, MaxIdleConnsPerHost: 2, MaxConnsPerHost: maxPosts,
			IdleConnTimeout: 30 * time.Second, MaxResponseHeaderBytes: maxPostHeaderBytes, ForceAttemptHTTP2: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

var errRefused = errors.New("the address is not allowed")

// ask posts one check and reads the answer; an empty decision is "cannot tell yet".
func (p *Poster) ask(ctx context.Context, c *Check) (driver.Decision, error) {
	body, err := p.body(c)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, PostTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return "", withoutURL(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "rocketmq-proxy")
	response, err := p.client.Do(request)
	if err != nil {
		return "", withoutURL(err)
	}
	defer func() { _ = response.Body.Close() }() // what was to be read was read
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("read the answer: %w", err)
	case response.StatusCode != http.StatusOK:
		return "", fmt.Errorf("the answer has status %d, want 200", response.StatusCode)
	case len(text) > maxAnswerBytes:
		return "", fmt.Errorf("the answer has more than %d bytes", maxAnswerBytes)
	}
	return readDecision(text)
}

// withoutURL takes the address off an error of http.Client: whoever reads the Producer has it, and its query may hold a secret.
func withoutURL(err error) error {
	var told *url.Error
	if errors.As(err, &told) {
		return told.Err
	}
	return err
}

// readDecision takes the decision out of an answer.
func readDecision(text []byte) (driver.Decision, error) {
	var answer struct {
		Decision string `json:"decision"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return "", fmt.Errorf("the answer is not the JSON that is expected: %w", err)
	}
	switch d := strings.ToUpper(answer.Decision); d {
	case string(driver.Commit), string(driver.Rollback):
		return driver.Decision(d), nil
	case "UNKNOWN":
		return "", nil
	default:
		return "", errors.New(`the answer has no decision; it must be {"decision": "COMMIT"}, "ROLLBACK" or "UNKNOWN"`)
	}
}

// CloseIdle closes connections that nobody uses.
func (p *Poster) CloseIdle() { p.client.CloseIdleConnections() }

// post asks by HTTP, in a goroutine; false when there is no Poster, or too much is under way.
func (h *Hub) post(c *Check) bool {
	if h.o.Post == nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state.closed || h.state.posts >= maxPosts {
		return false
	}
	h.state.posts++
	h.work.Go(func() {
		defer func() {
			h.mu.Lock()
			h.state.posts--
			h.mu.Unlock()
		}()
		h.ended(h.ask(c), c)
	})
	return true
}

func (h *Hub) ask(c *Check) Outcome {
	d, err := h.o.Post.ask(h.life, c)
	if err == nil || h.life.Err() == nil {
		h.o.Trouble(err)
	}
	switch {
	case err != nil:
		return Unanswered
	case d == "":
		return Unknown
	}
	// The decision counts although this host may be about to stop: it is bounded in time, and Close waits for it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(h.life), endTimeout)
	defer cancel()
	_, err = h.resolve(ctx, c.Transaction, d)
	return outcomeOf(d, err)
}
