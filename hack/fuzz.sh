#!/usr/bin/env bash
# Copyright The RocketMQ Proxy Operator Authors.
# SPDX-License-Identifier: Apache-2.0
#
#   hack/fuzz.sh 30s|20000x [folder]...
#
# Runs every fuzz test of the repository, or of some folders, for that long or with so many inputs, one after the other. A number cannot fail for nothing,
# as a time does now and then ("context deadline exceeded" at its end, golang/go#75804, corrected in Go 1.27).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

duration=${1:-30s}
folders=("${@:2}")
((${#folders[@]} > 0)) || folders=(.)
count=0
failed=()
while IFS=: read -r file function; do
  echo "fuzz: $function in ./$(dirname "$file") for $duration"
  go test -run '^$' -fuzz "^${function}\$" -fuzztime "$duration" -fuzzminimizetime 100x "./$(dirname "$file")" </dev/null || failed+=("$function")
  count=$((count + 1))
done < <(git grep -noE --untracked '^func Fuzz[A-Za-z0-9_]+' -- "${folders[@]/%//*_test.go}" | sed -E 's/^([^:]+):[0-9]+:func /\1:/')
[ "$count" -gt 0 ] || { echo "fuzz: there is no fuzz test" >&2; exit 1; }
[ "${#failed[@]}" -eq 0 ] || { echo "fuzz: ${failed[*]} of $count failed; the inputs are in testdata/fuzz beside the tests: commit them with the correction" >&2; exit 1; }
echo "fuzz: $count fuzz tests found nothing"
