# Copyright The RocketMQ Proxy Operator Authors.
# SPDX-License-Identifier: Apache-2.0
#
# `make` lists the targets. Needed: Go, git, and for tests against a real RocketMQ Java 17 and Maven. Everything else is
# built into bin/ on first use; hack/README.md says how long each part takes.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory
.SUFFIXES:

ROOT := $(CURDIR)
BIN := $(ROOT)/bin
TOOLS := $(ROOT)/hack/tools

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
IMG ?= rocketmq-proxy-operator:$(VERSION)
# The profile that the compiler optimises for, the same in the Dockerfile; `make profile` renews it, PGO=off goes without.
PGO ?= hack/bench/manager.pgo
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

# What `go test` gets: PKG=./proxy/... RUN=TestName narrow it. Packages run two at a time: several start an API server.
PKG ?= ./...
RUN ?=
TEST_FLAGS ?= -race -count=1 -p 2
TEST_TIMEOUT ?= 30m
FUZZTIME ?= 30s
FUZZ ?=
SOAK_DURATION ?= 24h

# The version control state is no part of any build: it differs between clones and would spoil the build cache.
export GOFLAGS := $(filter-out -buildvcs=%,$(GOFLAGS)) -buildvcs=false

##@ General

.PHONY: help
help: ## Print this list
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: clean
clean: ## Remove what the build made (bin/: tools, test control plane, RocketMQ's jars); caches of Go and Maven stay
	rm -rf $(BIN)

##@ Try it

.PHONY: demo
demo: envtest ## Show the main job from apply to delete on this machine; BROKER=rocketmq uses a real Apache RocketMQ
	go run ./hack/demo

.PHONY: run
run: envtest ## The same set-up, but it stays up and prints what to try; Ctrl-C stops it
	go run ./hack/demo --stay

.PHONY: bench
bench: envtest ## Compare with the raw client library and a bare gRPC echo on a real RocketMQ; writes docs/benchmarks.md
	go run ./hack/bench --write docs/benchmarks.md $(BENCH_FLAGS)

.PHONY: profile
profile: envtest ## Renew the profile that the manager is compiled for, from rows of the bench; 7 min, on a quiet machine
	rm -rf $(BIN)/profile && mkdir -p $(BIN)/profile
	go run ./hack/bench --driver Remoting --rounds 1 --window 10s --only "Send, |Receive|End to end" --profile $(BIN)/profile/manager.prof
	go tool pprof -proto $(BIN)/profile/*.prof > $(BIN)/profile/manager.pgo
	mv $(BIN)/profile/manager.pgo hack/bench/manager.pgo

.PHONY: rocketmq
rocketmq: ## Run a real Apache RocketMQ on loopback until Ctrl-C; ROCKETMQ_FLAGS="--version 4.9.7 --topic orders"
	go run ./hack/rocketmq/cmd/rocketmq $(ROCKETMQ_FLAGS)

##@ Develop

.PHONY: generate
generate: $(BIN)/buf $(BIN)/protoc-gen-go $(BIN)/protoc-gen-go-grpc $(BIN)/protoc-gen-grpc-gateway $(BIN)/protoc-gen-openapiv2 $(BIN)/controller-gen ## Generate code, CRDs, roles, the OpenAPI document, the pages of docs/ and the dashboard
	$(BIN)/buf generate
	$(BIN)/buf generate --template buf.gen.peer.yaml
	$(BIN)/controller-gen object:headerFile=hack/boilerplate.go.txt paths=./api/v1alpha1/...
	@$(MAKE) manifests
	go run ./hack/docs

.PHONY: manifests
manifests: $(BIN)/controller-gen ## Generate the CRDs and the manager's role from the markers in api/ and controllers/
	$(BIN)/controller-gen crd paths=./api/v1alpha1/... output:crd:artifacts:config=config/crd/bases
	$(BIN)/controller-gen rbac:roleName=rocketmq-proxy-operator paths=./controllers/... output:rbac:artifacts:config=config/rbac

.PHONY: fmt
fmt: $(BIN)/golangci-lint ## Format the Go code
	$(BIN)/golangci-lint fmt

.PHONY: lint
lint: $(BIN)/golangci-lint $(BIN)/buf ## Check the code against .golangci.yml and the protocol against buf.yaml
	$(BIN)/golangci-lint run --timeout 15m
	$(BIN)/buf lint

.PHONY: verify
verify: ## Fail when a generated file, the formatting or go.mod is not up to date
	hack/verify.sh

.PHONY: build
build: ## Build the static manager binary into bin/manager
	CGO_ENABLED=0 go build -trimpath -pgo=$(PGO) -ldflags "$(LDFLAGS)" -o $(BIN)/manager .

.PHONY: docker-build
docker-build: ## Build the container image IMG
	docker build --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) -t $(IMG) .

##@ Test

.PHONY: test
test: envtest rocketmq-or-say ## Everything that is not long, with the race detector; PKG= and RUN= narrow it
	@echo "test: go test $(TEST_FLAGS) $(PKG) (a cold build with -race takes 3-5 min on two cores)"
	$(TEST_ENV) go test $(TEST_FLAGS) -timeout $(TEST_TIMEOUT) $(if $(RUN),-run '$(RUN)') $(PKG)
	@$(MAKE) rocketmq-or-say # again: the first one has scrolled away

.PHONY: test-long
test-long: export LONG = 1
test-long: TEST_TIMEOUT = 90m
test-long: test ## The same and the long ones (LONG=1): RocketMQ 4.9.7, 200-cycle slopes, 1,000 cycles, kills

.PHONY: soak
soak: envtest rocketmq-or-say ## The soak tests (functions TestSoak...) for SOAK_DURATION
	hack/test-selected.sh TestSoak env LONG=1 SOAK_DURATION=$(SOAK_DURATION) $(TEST_ENV) go test -v -count=1 -timeout 0

.PHONY: chaos
chaos: envtest rocketmq-or-say ## The chaos tests (functions TestChaos...) in their long form
	hack/test-selected.sh TestChaos env LONG=1 $(TEST_ENV) go test -v -race -count=1 -timeout 3h

.PHONY: fuzz
fuzz: ## Each fuzz test for FUZZTIME; FUZZ="proxy/delivery proxy/driver" narrows it to folders
	hack/fuzz.sh $(FUZZTIME) $(FUZZ)

# Real brokers are used where they can run. Locally their absence is said, in CI it is a failure.
HAVE_ROCKETMQ := $(if $(and $(shell command -v java),$(shell command -v mvn)),1,)
TEST_ENV = KUBEBUILDER_ASSETS="$(BIN)/envtest" $(if $(HAVE_ROCKETMQ),ROCKETMQ_TESTS=1)

.PHONY: rocketmq-or-say
rocketmq-or-say:
ifneq ($(HAVE_ROCKETMQ),1)
	@echo "=============================================================================="
	@echo "NOT RUN: all tests against a real Apache RocketMQ, because java or mvn is not on"
	@echo "the PATH. Install Java 17 and Maven to run them."
	@echo "=============================================================================="
	@if [ "$${CI:-}" = true ]; then echo "CI=true: this is a failure"; exit 1; fi
endif

##@ Deploy (to the cluster of the current kubectl context)

.PHONY: install
install: $(BIN)/kustomize ## Install the CRDs
	$(BIN)/kustomize build config/crd | kubectl apply --server-side -f -

.PHONY: uninstall
uninstall: $(BIN)/kustomize ## Remove the CRDs, and with them all Producers and Consumers
	$(BIN)/kustomize build config/crd | kubectl delete --ignore-not-found -f -

.PHONY: deploy
deploy: $(BIN)/kustomize ## Deploy the operator with image IMG
	$(BIN)/kustomize build config/default | sed -E 's|image: rocketmq-proxy-operator(:.*)?$$|image: $(IMG)|' | kubectl apply --server-side -f -

.PHONY: undeploy
undeploy: $(BIN)/kustomize ## Remove the operator; config/README.md tells what to do with objects that are left
	$(BIN)/kustomize build config/default | kubectl delete --ignore-not-found -f -

##@ Tools (built on first use)

.PHONY: envtest
envtest: ## etcd, kube-apiserver and kubectl for tests, in bin/envtest
	@hack/envtest/ensure.sh >/dev/null

.PHONY: tools
tools: $(BIN)/buf $(BIN)/protoc-gen-go $(BIN)/protoc-gen-go-grpc $(BIN)/protoc-gen-grpc-gateway $(BIN)/protoc-gen-openapiv2 $(BIN)/controller-gen $(BIN)/kustomize $(BIN)/golangci-lint $(BIN)/grpcurl $(BIN)/setup-envtest $(BIN)/benchstat ## All tools, pinned in hack/tools/go.mod

# Seconds of a cold build on two idle cores, so that nobody thinks it hangs.
$(BIN)/buf: SECONDS_COLD = 120
$(BIN)/controller-gen: SECONDS_COLD = 45
$(BIN)/golangci-lint: SECONDS_COLD = 100
SECONDS_COLD = 15

$(BIN)/buf: TOOL = github.com/bufbuild/buf/cmd/buf
$(BIN)/protoc-gen-go: TOOL = google.golang.org/protobuf/cmd/protoc-gen-go
$(BIN)/protoc-gen-go-grpc: TOOL = google.golang.org/grpc/cmd/protoc-gen-go-grpc
$(BIN)/protoc-gen-grpc-gateway: TOOL = github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-grpc-gateway
$(BIN)/protoc-gen-openapiv2: TOOL = github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-openapiv2
$(BIN)/controller-gen: TOOL = sigs.k8s.io/controller-tools/cmd/controller-gen
$(BIN)/kustomize: TOOL = sigs.k8s.io/kustomize/kustomize/v5
$(BIN)/golangci-lint: TOOL = github.com/golangci/golangci-lint/v2/cmd/golangci-lint
$(BIN)/grpcurl: TOOL = github.com/fullstorydev/grpcurl/cmd/grpcurl
$(BIN)/setup-envtest: TOOL = sigs.k8s.io/controller-runtime/tools/setup-envtest
$(BIN)/benchstat: TOOL = golang.org/x/perf/cmd/benchstat

$(BIN)/buf $(BIN)/protoc-gen-go $(BIN)/protoc-gen-go-grpc $(BIN)/protoc-gen-grpc-gateway $(BIN)/protoc-gen-openapiv2 $(BIN)/controller-gen $(BIN)/kustomize $(BIN)/golangci-lint $(BIN)/grpcurl $(BIN)/setup-envtest $(BIN)/benchstat: $(TOOLS)/go.mod
	@echo "tools: building $(@F) (about $(SECONDS_COLD) s with a cold build cache on two cores)"
	@began=$$SECONDS; mkdir -p $(BIN); go -C $(TOOLS) build -trimpath -o $@ $(TOOL); touch $@; echo "tools: $(@F) is built, $$((SECONDS - began)) s"
