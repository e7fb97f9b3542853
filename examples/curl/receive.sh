#!/usr/bin/env bash
# Copyright The RocketMQ Proxy Operator Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Prints messages, one "id<TAB>text" a line, and acknowledges each after it was handled. STOP_AFTER=n ends it after n messages.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/proxy.sh"

consumer=${CONSUMER:-orders-mailer}
# Ids of messages that were handled. A real application asks its database, so that it also survives a restart.
declare -A seen=()

handle() { printf '%s\t%s\n' "$1" "$2"; }

# ack TOKENS (a JSON list): until every token has an answer: OK, or EXPIRED (the message comes again and is recognised by its id).
ack() {
  local tokens=$1 try rc answer
  for ((try = 0; try < 10; try++)); do
    rc=0
    answer=$(jq -c '{ack_tokens: .}' <<<"$tokens" | call consumers "$consumer" ack 15) || rc=$?
    [[ $rc == 2 ]] && { log "acknowledging is refused"; exit 1; }
    [[ $rc == 1 ]] && log "acknowledge again"
    if [[ $rc == 0 ]]; then
      tokens=$(jq -c '[.results[] | select(.outcome == "RETRY") | .ack_token]' <<<"$answer")
      [[ $tokens == '[]' ]] && return
    fi
    pause "$try"
  done
  log "some acknowledgements were not taken; these messages come again"
}

try=0
while [[ ${STOP_AFTER:-0} == 0 || ${#seen[@]} -lt $STOP_AFTER ]]; do
  # The proxy answers at once when there is something, and after `wait` when there is nothing.
  rc=0
  answer=$(call consumers "$consumer" pull 30 <<<'{"max_messages": 10, "wait": "20s"}') || rc=$?
  [[ $rc == 2 ]] && { log "receiving is refused"; exit 1; }
  if [[ $rc == 1 ]]; then
    log "pull again"
    pause "$((try++))"
    continue
  fi
  try=0
  while IFS=$'\t' read -r id text; do
    [[ -n $id ]] || continue
    if [[ -z ${seen[$id]:-} ]]; then
      handle "$id" "$(base64 -d <<<"$text")" # the work; only after it the ack
      seen[$id]=1
    fi
  done < <(jq -r '.deliveries[]?.message | [.id, (.body // ((.text // "") | @base64))] | @tsv' <<<"$answer")
  tokens=$(jq -c '[.deliveries[]?.ack_token]' <<<"$answer")
  [[ $tokens == '[]' ]] || ack "$tokens"
done
