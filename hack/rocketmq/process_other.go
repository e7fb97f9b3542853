// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build unix && !linux

package rocketmq

import "syscall"

// childAttributes: an own process group. Only Linux can tie a child's life to ours; elsewhere Stop must be called.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
