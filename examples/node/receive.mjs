// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// Prints messages, one "id<TAB>text" a line, and acknowledges each after it was handled. STOP_AFTER=n ends it after n messages.
import { ProxyError, call, close, log, pause } from './proxy.mjs';

const consumer = process.env.CONSUMER ?? 'orders-mailer';
const stopAfter = Number(process.env.STOP_AFTER ?? 0);

// Ids of messages that were handled. A real application asks its database: "insert ... on conflict do nothing" in the transaction of
// the work itself, so that it also survives a restart.
const seen = new Set();

function handle({ id, text, body = '' }) {
  console.log(`${id}\t${text ?? Buffer.from(body, 'base64').toString()}`);
}

// Until every token has an answer: OK, or EXPIRED (the message comes again and is recognised by its id).
async function ack(tokens) {
  for (let attempt = 0; attempt < 10; attempt++) {
    try {
      const { results } = await call('consumers', consumer, 'ack', { ack_tokens: tokens }, 15_000);
      tokens = results.filter(({ outcome }) => outcome === 'RETRY').map(({ ack_token }) => ack_token);
      if (tokens.length === 0) return;
    } catch (error) {
      if (!(error instanceof ProxyError && error.worthwhile)) throw error;
      log(`acknowledge again: ${error.message}`);
    }
    await pause(attempt);
  }
  log(`${tokens.length} acknowledgements not taken; these messages come again`);
}

let attempt = 0;
while (!stopAfter || seen.size < stopAfter) {
  let answer;
  try {
    // The proxy answers at once when there is something, and after `wait` when there is nothing.
    answer = await call('consumers', consumer, 'pull', { max_messages: 10, wait: '20s' }, 30_000);
  } catch (error) {
    if (!(error instanceof ProxyError && error.worthwhile)) throw error;
    log(`pull again: ${error.message}`);
    await pause(attempt++);
    continue;
  }
  attempt = 0;
  const tokens = [];
  for (const { message, ack_token: token } of answer.deliveries ?? []) {
    if (!seen.has(message.id)) {
      handle(message); // the work; only after it the ack
      seen.add(message.id);
    }
    tokens.push(token);
  }
  if (tokens.length > 0) await ack(tokens);
}
close();
