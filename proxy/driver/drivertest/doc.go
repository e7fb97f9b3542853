// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package drivertest is the conformance suite that every driver passes: what driver.go promises, tried on the real thing.
//
// A driver's test package implements [Harness] and calls [Run]:
//
//	func TestConformance(t *testing.T) { drivertest.Run(t, harness{...}) }
//
// A case holds for every driver unless the driver's Capabilities, or the harness's [Facts], say that it promises less; then the weaker
// promise is what is tested. A case that cannot run says so with t.Skip and the reason.
//
// Every case makes its own topics and groups, so cases run side by side where their measurements allow it. Run with -short to leave out the cases
// that take many seconds on a real broker.
//
// Files: harness.go is what a driver's test provides; kit.go the steps that cases are written in; the others are cases by theme.
package drivertest
