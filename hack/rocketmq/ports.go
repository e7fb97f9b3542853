// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package rocketmq

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// A broker listens on three ports that depend on each other (listenPort, listenPort-2 for the "fast" one, and the one for
// replicas), and must come back on the same ones after a kill. So a cluster owns a block of ten ports, below the range
// that kernels hand out for ":0", and owns it by a file lock that ends with the process that holds it.
const (
	firstPort  = 21000
	blockSize  = 10
	blockCount = 900
)

type fileLock struct{ file *os.File }

// lockFile takes an exclusive lock on the file, creating it. With wait false it fails with syscall.EWOULDBLOCK when
// somebody else has it. The kernel releases the lock when the process ends; children do not inherit it.
func lockFile(path string, wait bool) (*fileLock, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return nil, err
	}
	how := syscall.LOCK_EX
	if !wait {
		how |= syscall.LOCK_NB
	}
	for {
		err = syscall.Flock(int(file.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), file.Close())
	}
	return &fileLock{file: file}, nil
}

// unlock releases by closing: the file stays, because removing it would let two processes lock two files of one name.
func (l *fileLock) unlock() { _ = l.file.Close() } // closing a file without writes loses nothing

// ports is one cluster's block.
type ports struct {
	lock       *fileLock
	nameServer int
	broker     int // the fast one is broker-2
	ha         int
	// RocketMQ's own proxy, where one runs: for its SDKs, and for old clients.
	proxy, proxyRemoting int
}

func (p *ports) release() { p.lock.unlock() }

// lockDir is where this user's clusters lock what they share.
func lockDir() (string, error) {
	dir := filepath.Join(os.TempDir(), "rocketmq-locks-"+strconv.Itoa(os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("create the folder of locks: %w", err)
	}
	return dir, nil
}

// takePorts finds a block that no other cluster holds and in which nobody listens.
func takePorts() (*ports, error) {
	dir, err := lockDir()
	if err != nil {
		return nil, err
	}
	for _, block := range rand.Perm(blockCount) {
		base := firstPort + block*blockSize
		lock, err := lockFile(filepath.Join(dir, strconv.Itoa(base)), false)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			continue
		}
		if err != nil {
			return nil, err
		}
		p := &ports{lock: lock, nameServer: base, broker: base + 4, ha: base + 6, proxy: base + 7, proxyRemoting: base + 8}
		if p.free() {
			return p, nil
		}
		lock.unlock()
	}
	return nil, fmt.Errorf("no free block of %d ports in %d-%d", blockSize, firstPort, firstPort+blockCount*blockSize-1)
}

// free reports whether each port can be listened on right now.
func (p *ports) free() bool {
	for _, port := range []int{p.nameServer, p.broker - 2, p.broker, p.ha, p.proxy, p.proxyRemoting} {
		// All addresses, as the broker does: a listener on loopback only would not show elsewhere.
		listener, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			return false
		}
		if err := listener.Close(); err != nil {
			return false
		}
	}
	return true
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
