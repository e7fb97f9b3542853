# Copyright The RocketMQ Proxy Operator Authors.
# SPDX-License-Identifier: Apache-2.0

"""Sends each line of standard input as a message and prints the ids that are stored."""

import os
import sys
import time
import uuid

import proxy

PRODUCER = os.environ.get("PRODUCER", "orders")
COMMON = {field: os.environ[field.upper()]
          for field in ("topic", "tag")  # the topic may be absent when the Producer has one; the tag is what subscriptions filter on
          if os.environ.get(field.upper())}
PER_CALL = 100  # up to 1000 are allowed
PATIENCE = 300  # seconds that one batch is tried


def results_of(messages):
    """The results of one call. When no message was stored they are in the error's details."""
    try:
        return proxy.call("producers", PRODUCER, "send", {"messages": messages}, timeout=15)["results"]
    except proxy.ProxyError as error:
        for detail in error.details:
            if detail.get("@type", "").endswith(".SendResponse"):
                return detail["results"]
        raise


def send(waiting):
    """Returns when every message is stored; False when one can never be accepted."""
    accepted, deadline, attempt = True, time.monotonic() + PATIENCE, 0
    while waiting:
        try:
            again = []
            for message, result in zip(waiting, results_of(waiting), strict=True):
                error = result.get("error")
                if not error:
                    print(result["message_id"], flush=True)
                elif error.get("retryable"):
                    again.append(message)
                else:
                    proxy.log(f"message {message['id']}: {error['reason']}: {error['message']}")
                    accepted = False
            waiting = again
        except proxy.ProxyError as error:
            if error.code not in proxy.WORTHWHILE:
                raise
            proxy.log(f"send again: {error}")
        if waiting:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(waiting)} messages not sent")
            proxy.pause(attempt)
            attempt += 1
    return accepted


def main():
    # The id is given once, before the first try, and stays the same in every repetition: receivers recognise a repetition by it.
    messages = [{"id": str(uuid.uuid4()), "text": line.rstrip("\n"), **COMMON} for line in sys.stdin]
    batches = [messages[i:i + PER_CALL] for i in range(0, len(messages), PER_CALL)]
    return all([send(batch) for batch in batches])


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
