// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package deploy proves what is shipped in config/ and the Dockerfile without a kubelet: `kubectl apply -k` against a real API server,
// the pod template admitted in its restricted namespace, the rights of the shipped ServiceAccount one by one, the image's own build
// command, and that alerts and dashboard name only metrics that exist.
//
// It needs etcd, kube-apiserver and kubectl in KUBEBUILDER_ASSETS, or in bin/envtest where hack/envtest/ensure.sh puts them.
package deploy
