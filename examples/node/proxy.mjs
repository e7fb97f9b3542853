// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

// What both Node examples need: calls to the proxy over HTTP/JSON, with nothing but Node itself.
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { setTimeout as sleep } from 'node:timers/promises';

const base = process.env.PROXY_URL ?? 'https://rocketmq-proxy.rocketmq-proxy-system.svc:8080';
const namespace = process.env.NAMESPACE ?? 'default';
const secure = base.startsWith('https:'); // http: is a developer's proxy on this machine, started with --insecure-plaintext --insecure-skip-auth
const caFile = process.env.PROXY_CA ?? '/var/run/secrets/rocketmq-proxy/ca.crt';
const tokenFile = process.env.PROXY_TOKEN ?? '/var/run/secrets/rocketmq-proxy/token';
const agent = secure ? new https.Agent({ keepAlive: true, ca: readFileSync(caFile) }) : new http.Agent({ keepAlive: true });

// gRPC codes after which the same call may work later: DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION (the object is not
// ready until somebody puts it right), ABORTED, UNAVAILABLE.
const worthwhile = new Set([4, 8, 9, 10, 14]);

// An answer that is not 200. `code` is the gRPC code; no answer at all counts as UNAVAILABLE.
export class ProxyError extends Error {
  constructor(code, message, details = []) {
    super(message);
    this.code = code;
    this.details = details;
  }
  get worthwhile() {
    return worthwhile.has(this.code);
  }
}

// One call, one try. kind is "producers" or "consumers".
export async function call(kind, name, verb, body, timeoutMs) {
  const { status, text } = await post(`${base}/v1alpha1/namespaces/${namespace}/${kind}/${name}:${verb}`, JSON.stringify(body), timeoutMs);
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    // not the proxy's own answer, but something's in between
    throw new ProxyError([200, 429, 502, 503, 504].includes(status) ? 14 : 13, `HTTP ${status} without JSON`);
  }
  if (status === 200) return answer;
  throw new ProxyError(answer.code ?? 13, answer.message ?? `HTTP ${status}`, answer.details);
}

function post(url, body, timeoutMs) {
  return new Promise((resolve, reject) => {
    const fail = (error) => reject(new ProxyError(14, `no answer: ${error.message}`));
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) };
    // The token is read for each call: the kubelet replaces it while we run.
    if (secure) headers.authorization = `Bearer ${readFileSync(tokenFile, 'ascii').trim()}`;
    const request = (secure ? https : http).request(url, { method: 'POST', agent, headers, signal: AbortSignal.timeout(timeoutMs) }, (answer) => {
      const chunks = [];
      answer.on('data', (chunk) => chunks.push(chunk));
      answer.on('end', () => resolve({ status: answer.statusCode, text: Buffer.concat(chunks).toString() }));
      answer.on('error', fail);
    });
    request.on('error', fail);
    request.end(body);
  });
}

// Waits a random part of 0.1 s, 0.2 s, 0.4 s ... 10 s, so that many clients never come back all at once.
export const pause = (attempt) => sleep(Math.random() * Math.min(10_000, 100 * 2 ** Math.min(attempt, 10)));

export const log = (text) => console.error(text);

// The connections kept open would keep the process alive.
export const close = () => agent.destroy();
