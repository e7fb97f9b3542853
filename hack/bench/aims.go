// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import "slices"

// aim is one of the ratios that the project promised itself.
type aim struct {
	what  string
	value float64
	limit float64
	least bool // limit is the least; else the most
	unit  string
}

func (a aim) verdict() string {
	if a.least && a.value >= a.limit || !a.least && a.value <= a.limit {
		return "met"
	}
	return "MISSED"
}

// margin is how far the value is on the good side of the limit, in percent of the limit; negative = on the bad side.
func (a aim) margin() float64 {
	over := (a.value/a.limit - 1) * 100
	if a.least {
		return over
	}
	return -over
}

// aims of a driver. Each ratio is taken round by round and is the median of those: what slows a machine for some seconds meets both sides of a round's
// ratio, but not both sides of a ratio of medians.
func aims(driver string, r results, once onceFigures) []aim {
	if driver == "ClientGo" {
		return aimsClientGo(r, once)
	}
	return aimsRemoting(r, once)
}

// aimsRemoting: on our own client for RocketMQ's protocol the proxy beats the library in spite of one more hop, and RocketMQ's own proxy by far.
func aimsRemoting(r results, once onceFigures) []aim {
	const who = "Remoting"
	return []aim{
		{what: "unary Send with 64 callers: proxy / raw SendSync", value: r.ratio(rowUnary, rate, who, whoRaw), limit: 1.4, least: true},
		{what: "unary Send with 64 callers: proxy / Java proxy", value: r.ratio(rowUnary, rate, who, whoJava), limit: 4, least: true},
		{what: "unary Send with 64 callers: CPU a message, proxy / echo", value: r.ratio(rowUnary, cpu, who, whoEcho), limit: 1.35},
		{what: "32 messages per Send, 16 callers: proxy / raw batches", value: r.ratio(rowBatch, rate, who, whoRaw), limit: 0.8, least: true},
		{what: "Receive + ack by stream: proxy / raw push consumer", value: r.ratio(rowReceive, rate, who, whoRaw), limit: 0.6, least: true},
		{what: "Receive + ack: proxy / Java proxy", value: r.ratio(rowReceive, rate, who, whoJava), limit: 8, least: true},
		{what: "Receive + ack by stream: CPU a message, proxy / echo", value: r.ratio(rowReceive, cpu, who, whoEcho), limit: 3},
		{what: "one caller's p50 / (protocol p50 + echo p50)", value: r.ratio(rowSingle, p50, who, whoDirect, whoEcho), limit: 1.25},
		{what: "end to end at 1,000/s: p50, proxy / raw client", value: r.ratio(rowPaced, p50, who, whoRaw), limit: 1.5},
		{what: "resident memory 15 s after load, with 100 Producers and 100 Consumers", value: once.memory[who].rested, limit: 80, unit: " MiB"},
		readyAim(once),
	}
}

// aimsClientGo: on the library the proxy costs little more than the library.
func aimsClientGo(r results, once onceFigures) []aim {
	const who = "ClientGo"
	return []aim{
		{what: "unary Send with 64 callers: proxy / raw SendSync", value: r.ratio(rowUnary, rate, who, whoRaw), limit: 1, least: true},
		{what: "unary Send with 64 callers: CPU a message, proxy / echo", value: r.ratio(rowUnary, cpu, who, whoEcho), limit: 2},
		{what: "32 messages per Send, 16 callers: proxy / raw batches", value: r.ratio(rowBatch, rate, who, whoRaw), limit: 0.6, least: true},
		{what: "Receive + ack by stream: proxy / raw push consumer", value: r.ratio(rowReceive, rate, who, whoRaw), limit: 0.3, least: true},
		{what: "one caller's p50 / (raw p50 + 2 x echo p50)", value: r.ratio(rowSingle, p50, who, whoRaw, whoEcho, whoEcho), limit: 1},
		{what: "resident memory with 100 Producers and 100 Consumers", value: once.memory[who].declared, limit: 120, unit: " MiB"},
		readyAim(once),
	}
}

func readyAim(once onceFigures) aim {
	return aim{what: "apply -> Ready, p50, memory driver", value: float64(once.readyP50.Milliseconds()), limit: 250, unit: " ms"}
}

func rate(f figure) float64 { return f.Rate }
func cpu(f figure) float64  { return f.CPU }
func p50(f figure) float64  { return f.P50 }

// ratio is the median over the rounds of who's value over the sum of the others' in the same round.
func (r results) ratio(row string, value func(figure) float64, who string, others ...string) float64 {
	ratios := make([]float64, len(r[row][who]))
	for round, f := range r[row][who] {
		sum := 0.0
		for _, other := range others {
			sum += value(r[row][other][round])
		}
		ratios[round] = value(f) / sum
	}
	return middle(ratios)
}

// middle is the median of values, which it sorts.
func middle(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
