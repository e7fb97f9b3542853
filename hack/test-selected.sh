#!/usr/bin/env bash
# Copyright The RocketMQ Proxy Operator Authors.
# SPDX-License-Identifier: Apache-2.0
#
#   hack/test-selected.sh TestSoak COMMAND...
#
# Runs the test functions whose name begins so, as COMMAND -run '^TestSoak' <their packages>. That there are none is a
# failure: `go test` alone would report success.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

prefix=$1
shift
mapfile -t packages < <(git grep -lE --untracked "^func ${prefix}[A-Za-z0-9_]*\(" -- '*_test.go' | xargs -rn1 dirname | sort -u | sed 's|^|./|')
if [ "${#packages[@]}" -eq 0 ]; then
  echo "test-selected: there is no test function named ${prefix}..." >&2
  exit 1
fi
echo "test-selected: ${prefix}... in ${packages[*]}"
exec "$@" -run "^${prefix}" "${packages[@]}"
