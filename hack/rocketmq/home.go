// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package rocketmq

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

const (
	homePrefix = "rocketmq-home-"
	ownerFile  = ".owner"
)

// takeHome makes a temporary home and locks it for our life time. It first removes homes whose owner was killed before it
// could: a store takes some 100 MB, and a test binary that runs into its time-out ends without Stop.
func takeHome(log io.Writer) (dir string, owner *fileLock, err error) {
	locks, err := lockDir()
	if err != nil {
		return "", nil, err
	}
	// Held over making and locking a home, so that a sweep never meets one that exists and is not locked yet.
	guard, err := lockFile(filepath.Join(locks, "homes"), true)
	if err != nil {
		return "", nil, err
	}
	defer guard.unlock()
	if err := sweepHomes(); err != nil { // a left-over costs disk, which is no reason not to start
		fmt.Fprintf(log, "rocketmq: homes of killed runs could not be removed: %v\n", err)
	}
	if dir, err = os.MkdirTemp("", homePrefix); err != nil {
		return "", nil, fmt.Errorf("create RocketMQ's home: %w", err)
	}
	if owner, err = lockFile(filepath.Join(dir, ownerFile), false); err != nil {
		return "", nil, errors.Join(fmt.Errorf("lock RocketMQ's home: %w", err), os.RemoveAll(dir))
	}
	return dir, owner, nil
}

// sweepHomes removes what nobody holds. It wants the guard of takeHome.
func sweepHomes() error {
	homes, err := filepath.Glob(filepath.Join(os.TempDir(), homePrefix+"*"))
	if err != nil {
		return err
	}
	var failed []error
	for _, home := range homes {
		owner, err := lockFile(filepath.Join(home, ownerFile), false)
		if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, os.ErrPermission) {
			continue // in use, or another user's
		}
		if err != nil {
			failed = append(failed, err)
			continue
		}
		failed = append(failed, removeHome(home, owner))
	}
	return errors.Join(failed...)
}

func removeHome(dir string, owner *fileLock) error {
	defer owner.unlock()
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove RocketMQ's home: %w", err)
	}
	return nil
}
