#!/usr/bin/env bash
# Copyright The RocketMQ Proxy Operator Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Fails when a generated file, the formatting or a go.mod is not what the sources say. Generates into place, so after a
# failure the working tree holds what to commit. Your own uncommitted changes do not disturb it; in CI (CI=true) the tree
# must be clean before and after.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

failed=0
fail() {
  printf 'verify: FAILED: %s\n' "$*" >&2
  failed=1
}

# A checksum of every file that git knows or would add.
state() { git ls-files -z --cached --others --exclude-standard | sort -zu | xargs -0 cksum 2>/dev/null || true; }

clean_in_ci() {
  [ "${CI:-}" = true ] || return 0
  local dirty
  dirty="$(git status --porcelain)"
  [ -z "$dirty" ] || fail "$1: the working tree is not clean:"$'\n'"$dirty"
}

clean_in_ci "before"

echo "verify: generated code, CRDs, roles, OpenAPI, pages, dashboard"
before="$(state)"
make --silent generate
after="$(state)"
if [ "$before" != "$after" ]; then
  fail "generated files were out of date; commit these:"$'\n'"$(diff <(echo "$before") <(echo "$after") | awk '/^[<>]/ {print "  " $4}' | sort -u)"
fi

echo "verify: gofmt"
unformatted="$(git ls-files -z --cached --others --exclude-standard '*.go' | xargs -0 gofmt -l)"
[ -z "$unformatted" ] || fail "not formatted with gofmt (make fmt):"$'\n'"$unformatted"

echo "verify: go.mod and go.sum of each module"
for module in . hack/tools hack/envtest; do
  if ! difference="$(GOFLAGS=-mod=mod go -C "$module" mod tidy -diff 2>&1)"; then
    fail "go.mod or go.sum in $module is not tidy (go -C $module mod tidy):"$'\n'"$(grep -v '^go: downloading' <<<"$difference" | head -30)"
  fi
done

echo "verify: shell scripts parse"
while IFS= read -r -d '' script; do
  bash -n "$script" || fail "$script does not parse"
done < <(git ls-files -z --cached --others --exclude-standard '*.sh' .ci/run)

clean_in_ci "after"
[ "$failed" -eq 0 ] && echo "verify: everything is up to date"
exit "$failed"
