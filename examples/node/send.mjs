// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Sends each line of standard input as a message and prints the ids that are stored.
import { randomUUID } from 'node:crypto';
import { createInterface } from 'node:readline';
import { ProxyError, call, close, log, pause } from './proxy.mjs';

const producer = process.env.PRODUCER ?? 'orders';
const topic = process.env.TOPIC; // may be absent when the Producer has one topic
const tag = process.env.TAG; // what subscriptions filter on; may be absent
const perCall = 100; // up to 1000 are allowed
const patienceMs = 300_000; // how long one batch is tried

// The results of one call. When no message was stored they are in the error's details.
async function resultsOf(messages) {
  try {
    return (await call('producers', producer, 'send', { messages }, 15_000)).results;
  } catch (error) {
    const inside = error instanceof ProxyError && error.details.find((detail) => detail['@type']?.endsWith('.SendResponse'));
    if (inside) return inside.results;
    throw error;
  }
}

// Returns when every message is stored; false when one can never be accepted.
async function send(waiting) {
  let accepted = true;
  const deadline = Date.now() + patienceMs;
  for (let attempt = 0; ; attempt++) {
    try {
      const results = await resultsOf(waiting);
      waiting = waiting.filter((message, i) => {
        const { message_id: id, error } = results[i];
        if (!error) console.log(id);
        else if (error.retryable) return true;
        else {
          log(`message ${message.id}: ${error.reason}: ${error.message}`);
          accepted = false;
        }
        return false;
      });
    } catch (error) {
      if (!(error instanceof ProxyError && error.worthwhile)) throw error;
      log(`send again: ${error.message}`);
    }
    if (waiting.length === 0) return accepted;
    if (Date.now() > deadline) throw new Error(`${waiting.length} messages not sent`);
    await pause(attempt);
  }
}

let accepted = true;
let batch = [];
for await (const text of createInterface({ input: process.stdin })) {
  // The id is given once, before the first try, and stays the same in every repetition: receivers recognise a repetition by it.
  batch.push({ id: randomUUID(), text, ...(topic && { topic }), ...(tag && { tag }) });
  if (batch.length === perCall) {
    accepted = (await send(batch)) && accepted;
    batch = [];
  }
}
if (batch.length > 0) accepted = (await send(batch)) && accepted;
close();
process.exitCode = accepted ? 0 : 1;
