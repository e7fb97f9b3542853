// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package localenv runs the operator on this machine the way a cluster runs it: a real API server (etcd and kube-apiserver, no kubelet), the
// shipped manifests applied with kubectl, and bin/manager as a process with a token of the shipped ServiceAccount, so with the shipped roles.
// The demo, the end-to-end tests and the benchmark stand on it.
//
// Everything that is started has a Stop that joins it; children run in process groups of their own, so that Ctrl-C reaches them through
// their owner, in order.
package localenv
