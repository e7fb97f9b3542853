// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/go-logr/logr"
)

// certificateCheckEvery is how often a handshake may look whether the files have changed.
const certificateCheckEvery = 5 * time.Second

// TLSFromFiles makes the TLS configuration of a server from a certificate and a key in PEM. The files are looked at again during handshakes, so that
// a renewed certificate is used within seconds without a restart and without a goroutine; while new files cannot be used the last good
// certificate stays and the log says why. TLS 1.2 is the least.
func TLSFromFiles(certFile, keyFile string, out logr.Logger) (*tls.Config, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: out, now: time.Now}
	if err := c.reload(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.get(), nil
		},
	}, nil
}

// certificate is a certificate that follows its files.
type certificate struct {
	certFile, keyFile string
	log               logr.Logger
	now               func() time.Time

	mu        sync.Mutex // guards what follows
	current   *tls.Certificate
	certState fileState
	keyState  fileState
	checked   time.Time
}

// fileState tells one version of a file from another.
type fileState struct {
	modified time.Time
	size     int64
}

func (c *certificate) get() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now().Sub(c.checked) >= certificateCheckEvery {
		if err := c.reloadLocked(); err != nil {
			c.log.Error(err, "the renewed TLS certificate cannot be used; the last good one stays", "certificate", c.certFile, "key", c.keyFile)
		}
	}
	return c.current
}

func (c *certificate) reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reloadLocked()
}

func (c *certificate) reloadLocked() error {
	c.checked = c.now()
	certState, certErr := stateOf(c.certFile)
	keyState, keyErr := stateOf(c.keyFile)
	if err := errors.Join(certErr, keyErr); err != nil {
		return fmt.Errorf("look at the TLS certificate: %w", err)
	}
	if c.current != nil && certState == c.certState && keyState == c.keyState {
		return nil
	}
	loaded, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("load the TLS certificate %s with the key %s: %w", c.certFile, c.keyFile, err)
	}
	c.current, c.certState, c.keyState = &loaded, certState, keyState
	return nil
}

func stateOf(file string) (fileState, error) {
	info, err := os.Stat(file)
	if err != nil {
		return fileState{}, err
	}
	return fileState{modified: info.ModTime(), size: info.Size()}, nil
}
