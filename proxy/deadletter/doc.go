// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Package deadletter lists what a consumer group has given up, and gives it to the group again. It works on driver.DeadLetters and has no state: what has
// been redriven is known to the broker (see there), so that a call which was cut short, with its host or without, is simply made again, on any host.
//
// A redrive reads the letters in order (scan.go), passes those that were redriven before, and stores a copy of each of the others, one after the other,
// each confirmed by the broker before the next. Every markEvery letters, and at its end, it moves the mark of the queue over what is redriven without a
// gap (redrive.go). Two redrives of one group at once on two hosts may both store a copy of a letter; on one host the caller lets only one run.
package deadletter
