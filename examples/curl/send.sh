#!/usr/bin/env bash
# Copyright The RocketMQ Proxy Operator Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Sends each line of standard input as a message and prints the ids that are stored.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/proxy.sh"

failed=0
# send MESSAGES (a JSON list): returns when every message is stored or can never be accepted.
send() {
  local waiting=$1 try=0 answer results refused rc
  while [[ $(jq length <<<"$waiting") -gt 0 ]]; do
    rc=0
    answer=$(jq '{messages: .}' <<<"$waiting" | call producers "${PRODUCER:-orders}" send 15) || rc=$?
    # When no message was stored the results are in the error's details.
    results=$(jq -c '.results // (.details[]? | select(.["@type"] | endswith(".SendResponse")) | .results)' <<<"$answer" 2>/dev/null || true)
    if [[ -n $results ]]; then
      jq -r '.[] | select(.error | not) | .message_id' <<<"$results"
      refused=$(jq -r '.[] | select(.error and (.error.retryable | not)) | "refused: \(.error.reason): \(.error.message)"' <<<"$results")
      [[ -z $refused ]] || { log "$refused"; failed=1; }
      waiting=$(jq -n --argjson sent "$waiting" --argjson results "$results" '[$sent, $results] | transpose | map(select(.[1].error.retryable)[0])')
    elif [[ $rc == 2 ]]; then
      log "$answer"
      exit 1
    else
      log "send again: $answer"
    fi
    [[ $(jq length <<<"$waiting") == 0 ]] || pause "$((try++))"
  done
}

# The id is given once, before the first try, and stays the same in every repetition: receivers recognise a repetition by it. It is a random
# name of this run and the number of the line.
run=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
number=0
while mapfile -t -n 100 lines && ((${#lines[@]})); do
  send "$(jq -nc --arg run "$run" --argjson first "$number" --arg topic "${TOPIC:-}" --arg tag "${TAG:-}" '[$ARGS.positional | to_entries[]
    | {id: "\($run)-\(.key + $first)", text: .value, $topic, $tag}]' --args -- "${lines[@]}")"
  number=$((number + ${#lines[@]}))
done
exit "$failed"
