# Copyright The RocketMQ Proxy Operator Authors.
# SPDX-License-Identifier: Apache-2.0

"""Prints messages, one "id<TAB>text" a line, and acknowledges each after it was handled. STOP_AFTER=n ends it after n messages."""

import base64
import os

import proxy

CONSUMER = os.environ.get("CONSUMER", "orders-mailer")
STOP_AFTER = int(os.environ.get("STOP_AFTER", "0"))

# Ids of messages that were handled. A real application asks its database: "insert ... on conflict do nothing" in the transaction of
# the work itself, so that it also survives a restart.
seen = set()


def handle(message):
    text = message.get("text")
    if text is None:  # not UTF-8
        text = base64.b64decode(message.get("body", "")).decode(errors="replace")
    print(f"{message['id']}\t{text}", flush=True)


def ack(tokens):
    """Until every token has an answer: OK, or EXPIRED (the message comes again and is recognised by its id)."""
    for attempt in range(10):
        try:
            results = proxy.call("consumers", CONSUMER, "ack", {"ack_tokens": tokens}, timeout=15)["results"]
            tokens = [result["ack_token"] for result in results if result["outcome"] == "RETRY"]
            if not tokens:
                return
        except proxy.ProxyError as error:
            if error.code not in proxy.WORTHWHILE:
                raise
            proxy.log(f"acknowledge again: {error}")
        proxy.pause(attempt)
    proxy.log(f"{len(tokens)} acknowledgements not taken; these messages come again")


def main():
    attempt = 0
    while not STOP_AFTER or len(seen) < STOP_AFTER:
        try:
            # The proxy answers at once when there is something, and after `wait` when there is nothing.
            answer = proxy.call("consumers", CONSUMER, "pull", {"max_messages": 10, "wait": "20s"}, timeout=30)
        except proxy.ProxyError as error:
            if error.code not in proxy.WORTHWHILE:
                raise
            proxy.log(f"pull again: {error}")
            proxy.pause(attempt)
            attempt += 1
            continue
        attempt, tokens = 0, []
        for delivery in answer.get("deliveries", []):
            message = delivery["message"]
            if message["id"] not in seen:
                handle(message)  # the work; only after it the ack
                seen.add(message["id"])
            tokens.append(delivery["ack_token"])
        if tokens:
            ack(tokens)


if __name__ == "__main__":
    main()
