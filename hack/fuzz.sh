#!/usr/bin/env bash
# Copyright The RocketMQ Proxy Operator Authors.
# SPDX-License-Identifier: Apache-2.0
#
#   hack/fuzz.sh 30s
#
# Runs every fuzz test of the repository for that long, one after the other.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

duration=${1:-30s}
count=0
while IFS=: read -r file function; do
  echo "fuzz: $function in ./$(dirname "$file") for $duration"
  go test -run '^$' -fuzz "^${function}\$" -fuzztime "$duration" "./$(dirname "$file")" </dev/null
  count=$((count + 1))
done < <(git grep -noE --untracked '^func Fuzz[A-Za-z0-9_]+' -- '*_test.go' | sed -E 's/^([^:]+):[0-9]+:func /\1:/')
[ "$count" -gt 0 ] || { echo "fuzz: there is no fuzz test" >&2; exit 1; }
echo "fuzz: $count fuzz tests found nothing"
