# Copyright The RocketMQ Proxy Operator Authors.
# SPDX-License-Identifier: Apache-2.0

"""What both Python examples need: calls to the proxy over HTTP/JSON, with nothing but the standard library."""

import json
import os
import random
import ssl
import sys
import time
import urllib.error
import urllib.request

URL = os.environ.get("PROXY_URL", "https://rocketmq-proxy.rocketmq-proxy-system.svc:8080")
CA = os.environ.get("PROXY_CA", "/var/run/secrets/rocketmq-proxy/ca.crt")
TOKEN = os.environ.get("PROXY_TOKEN", "/var/run/secrets/rocketmq-proxy/token")
NAMESPACE = os.environ.get("NAMESPACE", "default")
SECURE = URL.startswith("https:")  # http: is a developer's proxy on this machine, started with --insecure-plaintext --insecure-skip-auth

# gRPC codes after which the same call may work later: DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION (the object is not
# ready until somebody puts it right), ABORTED, UNAVAILABLE.
WORTHWHILE = {4, 8, 9, 10, 14}

TLS = ssl.create_default_context(cafile=CA) if SECURE else None


class ProxyError(Exception):
    """An answer that is not 200. `code` is the gRPC code, `details` what came with it; no answer at all counts as UNAVAILABLE."""

    def __init__(self, code, message, details=()):
        super().__init__(message)
        self.code, self.details = code, list(details)


def call(kind, name, verb, body, timeout):
    """One call, one try. kind is "producers" or "consumers"."""
    request = urllib.request.Request(
        f"{URL}/v1alpha1/namespaces/{NAMESPACE}/{kind}/{name}:{verb}",
        data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}, method="POST")
    if SECURE:
        with open(TOKEN, encoding="ascii") as file:  # for each call: the kubelet replaces it while we run
            request.add_header("Authorization", "Bearer " + file.read().strip())
    try:
        with urllib.request.urlopen(request, timeout=timeout, context=TLS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise _refusal(error) from None
    except (OSError, ValueError) as error:  # no connection, cut off in the middle, timed out: nothing is known
        raise ProxyError(14, f"no answer: {error}") from None


def _refusal(error):
    try:
        answer = json.load(error)
        return ProxyError(answer["code"], answer["message"], answer.get("details", []))
    except (OSError, ValueError, KeyError):  # not the proxy's own answer, but something's in between
        return ProxyError(14 if error.code in (429, 502, 503, 504) else 13, f"HTTP {error.code}")


def pause(attempt):
    """Waits a random part of 0.1 s, 0.2 s, 0.4 s ... 10 s, so that many clients never come back all at once."""
    time.sleep(random.uniform(0, min(10, 0.1 * 2 ** min(attempt, 10))))


def log(text):
    print(text, file=sys.stderr, flush=True)
