# Copyright The RocketMQ Proxy Operator Authors.
# SPDX-License-Identifier: Apache-2.0
#
# What both curl examples need; they source it. Needs bash, curl and jq.
: "${PROXY_URL:=https://rocketmq-proxy.rocketmq-proxy-system.svc:8080}"
: "${PROXY_CA:=/var/run/secrets/rocketmq-proxy/ca.crt}"
: "${PROXY_TOKEN:=/var/run/secrets/rocketmq-proxy/token}"
: "${NAMESPACE:=default}"

# authorization prints the header. The token is read for each call: the kubelet replaces it while we run.
authorization() {
  [[ $PROXY_URL != https:* ]] || # http: is a developer's proxy on this machine, started with --insecure-plaintext --insecure-skip-auth
    printf 'Authorization: Bearer %s\n' "$(<"$PROXY_TOKEN")"
}

# call KIND NAME VERB SECONDS < BODY: one try; prints the answer. 0: it is 200. 1: the same call may work later. 2: it never will.
# KIND is producers or consumers.
call() {
  local url="$PROXY_URL/v1alpha1/namespaces/$NAMESPACE/$1/$2:$3" out
  local args=(--silent --show-error --max-time "$4" --data-binary @- --header 'Content-Type: application/json' --write-out '\n%{http_code}')
  [[ $PROXY_URL != https:* ]] || args+=(--cacert "$PROXY_CA")
  # The token goes through a file: arguments show in the list of processes.
  out=$(curl "${args[@]}" --header @<(authorization) "$url") || return 1 # no connection, cut off in the middle, timed out: nothing is known
  printf '%s\n' "${out%$'\n'*}"
  case ${out##*$'\n'} in
    200) ;;
    409 | 429 | 502 | 503 | 504) return 1 ;;
    # 400 is two gRPC codes: FAILED_PRECONDITION (9: the object is not ready until somebody puts it right) may work later.
    400) [[ $(jq -r '.code' <<<"${out%$'\n'*}") == 9 ]] && return 1 || return 2 ;;
    *) return 2 ;;
  esac
}

# pause N waits a random part of 0.1 s, 0.2 s, 0.4 s ... 10 s, so that many clients never come back all at once.
pause() {
  local limit=$((100 << ($1 < 10 ? $1 : 10)))
  ((limit > 10000)) && limit=10000
  sleep "$(printf '%d.%03d' $((RANDOM % limit / 1000)) $((RANDOM % limit % 1000)))"
}

log() { printf '%s\n' "$*" >&2; }
