// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

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

// medians by row and contender.
type medians map[string]map[string]figure

// aims of a driver.
func aims(driver string, m medians, once onceFigures) []aim {
	if driver == "ClientGo" {
		return aimsClientGo(m, once)
	}
	return aimsRemoting(m, once)
}

// aimsRemoting: on our own client for RocketMQ's protocol the proxy beats the library in spite of one more hop, and RocketMQ's own proxy by far.
func aimsRemoting(m medians, once onceFigures) []aim {
	const who = "Remoting"
	unary, batch, single, receive, paced := m[rowUnary], m[rowBatch], m[rowSingle], m[rowReceive], m[rowPaced]
	return []aim{
		{what: "unary Send with 64 callers: proxy / raw SendSync", value: unary[who].Rate / unary[whoRaw].Rate, limit: 1.4, least: true},
		{what: "unary Send with 64 callers: proxy / Java proxy", value: unary[who].Rate / unary[whoJava].Rate, limit: 4, least: true},
		{what: "unary Send with 64 callers: CPU a message, proxy / echo", value: unary[who].CPU / unary[whoEcho].CPU, limit: 1.35},
		{what: "32 messages per Send, 16 callers: proxy / raw batches", value: batch[who].Rate / batch[whoRaw].Rate, limit: 0.8, least: true},
		{what: "Receive + ack by stream: proxy / raw push consumer", value: receive[who].Rate / receive[whoRaw].Rate, limit: 0.6, least: true},
		{what: "Receive + ack: proxy / Java proxy", value: receive[who].Rate / receive[whoJava].Rate, limit: 8, least: true},
		{what: "Receive + ack by stream: CPU a message, proxy / echo", value: receive[who].CPU / receive[whoEcho].CPU, limit: 3},
		{what: "one caller's p50 against 1.25 x (protocol p50 + echo p50)", value: single[who].P50, limit: 1.25 * (single[whoDirect].P50 + single[whoEcho].P50), unit: " ms"},
		{what: "end to end at 1,000/s: p50, proxy / raw client", value: paced[who].P50 / paced[whoRaw].P50, limit: 1.5},
		{what: "resident memory 15 s after load, with 100 Producers and 100 Consumers", value: once.memory[who].rested, limit: 80, unit: " MiB"},
		readyAim(once),
	}
}

// aimsClientGo: on the library the proxy costs little more than the library.
func aimsClientGo(m medians, once onceFigures) []aim {
	const who = "ClientGo"
	unary, batch, single, receive := m[rowUnary], m[rowBatch], m[rowSingle], m[rowReceive]
	return []aim{
		{what: "unary Send with 64 callers: proxy / raw SendSync", value: unary[who].Rate / unary[whoRaw].Rate, limit: 1, least: true},
		{what: "unary Send with 64 callers: CPU a message, proxy / echo", value: unary[who].CPU / unary[whoEcho].CPU, limit: 2},
		{what: "32 messages per Send, 16 callers: proxy / raw batches", value: batch[who].Rate / batch[whoRaw].Rate, limit: 0.6, least: true},
		{what: "Receive + ack by stream: proxy / raw push consumer", value: receive[who].Rate / receive[whoRaw].Rate, limit: 0.3, least: true},
		{what: "one caller's p50 against raw p50 + 2 x echo p50", value: single[who].P50, limit: single[whoRaw].P50 + 2*single[whoEcho].P50, unit: " ms"},
		{what: "resident memory with 100 Producers and 100 Consumers", value: once.memory[who].declared, limit: 120, unit: " MiB"},
		readyAim(once),
	}
}

func readyAim(once onceFigures) aim {
	return aim{what: "apply -> Ready, p50, memory driver", value: float64(once.readyP50.Milliseconds()), limit: 250, unit: " ms"}
}
