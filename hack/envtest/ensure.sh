#!/usr/bin/env bash
# Copyright The RocketMQ Proxy Operator Authors.
# SPDX-License-Identifier: Apache-2.0
#
# Puts a Kubernetes control plane for tests - etcd, kube-apiserver, kubectl - into one folder and prints that folder as
# the last line of standard output. Everything else goes to standard error, so that
#     export KUBEBUILDER_ASSETS="$(hack/envtest/ensure.sh)"
# works. Does nothing when the folder is up to date. Two runs at once are safe: the second waits for the first.
#
# It first tries setup-envtest, which downloads ready binaries. Where that download cannot be reached, it builds the
# three from their Go modules (go.mod beside this file), which needs nothing but a Go module proxy.
#
#   ENVTEST_DIR       where the binaries go                     (default: bin/envtest of this repository)
#   ENVTEST_DOWNLOAD  auto: try, and remember a failure for a day; never: build at once  (default: auto)
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
dir="${ENVTEST_DIR:-$root/bin/envtest}"
started=$SECONDS

# go.mod is the one place that says which version; everything below derives from it.
kube_version="$(awk '$1=="k8s.io/kubernetes" && $2 ~ /^v/ {print $2} $2=="k8s.io/kubernetes" {print $3}' "$here/go.mod" | head -n1)"
[ -n "$kube_version" ] || { echo "envtest: no k8s.io/kubernetes version in $here/go.mod" >&2; exit 1; }
minor="$(cut -d. -f2 <<<"$kube_version")"
stamp="$dir/.version"
unreachable="$dir/.download-unreachable"
# A change of versions makes what lies there stale.
want="$kube_version $(cat "$here/go.mod" "$here/go.sum" "$here/etcd/main.go" | cksum | cut -d' ' -f1) $(go env GOOS)/$(go env GOARCH)"

say() { printf 'envtest: %s\n' "$*" >&2; }

complete() {
  [ -x "$dir/etcd" ] && [ -x "$dir/kube-apiserver" ] && [ -x "$dir/kubectl" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]
}

finish() {
  say "etcd, kube-apiserver and kubectl $kube_version are ready ($((SECONDS - started)) s)"
  echo "$dir"
  exit 0
}

# with_heartbeat WHAT USUAL_SECONDS COMMAND... runs the command and says every 20 s that it is still at work.
with_heartbeat() {
  local what=$1 usual=$2 began=$SECONDS beat rc=0
  shift 2
  say "$what: started; takes about $usual s on two cores with a cold build cache, seconds with a warm one"
  # Its own sleep dies with it, and it must not hold the lock (descriptor 9) any longer than we do.
  (
    trap 'kill "${nap:-}" 2>/dev/null; exit 0' TERM
    while sleep 20 & nap=$!; wait "$nap"; do say "$what: $((SECONDS - began)) s of about $usual s"; done
  ) 9>&- &
  beat=$!
  "$@" 9>&- || rc=$?
  kill "$beat" 2>/dev/null || true
  wait "$beat" 2>/dev/null || true
  [ "$rc" -eq 0 ] && say "$what: done in $((SECONDS - began)) s"
  return "$rc"
}

try_download() {
  [ "${ENVTEST_DOWNLOAD:-auto}" != never ] || return 1
  if [ -n "$(find "$unreachable" -mmin -1440 2>/dev/null)" ]; then
    say "ready binaries could not be downloaded here today; building (remove $unreachable to try again)"
    return 1
  fi
  command -v timeout >/dev/null || return 1
  local tool="$root/bin/setup-envtest" got
  if [ ! -x "$tool" ]; then
    with_heartbeat "building setup-envtest" 10 \
      env GOFLAGS=-mod=mod go -C "$root/hack/tools" build -mod=readonly -trimpath -o "$tool" sigs.k8s.io/controller-runtime/tools/setup-envtest >&2 || return 1
  fi
  say "asking for ready binaries of Kubernetes 1.$minor (at most 10 s)"
  if ! timeout 10 "$tool" list --bin-dir "$dir/.store" "1.$minor.x!" >/dev/null 2>&1; then
    touch "$unreachable"
    say "ready binaries cannot be downloaded here; building from Go modules instead"
    return 1
  fi
  got="$(timeout 180 "$tool" use --bin-dir "$dir/.store" -p path "1.$minor.x!" 2>/dev/null)" || return 1
  cp -f "$got/etcd" "$got/kube-apiserver" "$got/kubectl" "$dir/" && say "downloaded $(basename "$got")"
}

# build NAME USUAL_SECONDS PACKAGE: compiled beside its place, then renamed, so that nobody sees half a binary.
build() {
  local name=$1 usual=$2 package=$3 v=k8s.io/component-base/version
  local flags="-s -w -X $v.gitVersion=$kube_version -X $v.gitMajor=1 -X $v.gitMinor=$minor -X $v.gitTreeState=clean"
  with_heartbeat "building $name" "$usual" \
    env CGO_ENABLED=0 GOFLAGS= GOWORK=off go -C "$here" build -trimpath -buildvcs=false -ldflags "$flags" -o "$dir/.$name.new" "$package"
  mv -f "$dir/.$name.new" "$dir/$name"
}

build_all() {
  with_heartbeat "fetching the Go modules of Kubernetes $kube_version" 20 env GOFLAGS= GOWORK=off go -C "$here" mod download >&2
  build etcd 50 ./etcd
  build kube-apiserver 260 k8s.io/kubernetes/cmd/kube-apiserver
  build kubectl 40 k8s.io/kubernetes/cmd/kubectl
}

complete && finish
mkdir -p "$dir"
if command -v flock >/dev/null; then
  exec 9>"$dir/.lock"
  flock -n 9 || { say "another run is at work on $dir; waiting for it"; flock 9; }
fi
complete && finish
try_download || build_all
printf '%s\n' "$want" >"$stamp"
finish
