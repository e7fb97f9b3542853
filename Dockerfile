# syntax=docker/dockerfile:1
# Copyright The RocketMQ Proxy Operator Authors.
# SPDX-License-Identifier: Apache-2.0

# Built on the builder's own platform for any target: Go cross-compiles, so no emulation is needed.
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg VERSION=v0.1.0 --build-arg COMMIT=$(git rev-parse HEAD) -t <image>:v0.1.0 .
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
# Modules first: they change less often than the code, so their layer stays.
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG TARGETOS=linux
ARG TARGETARCH
ARG VERSION=dev
ARG COMMIT=unknown
# test/deploy runs this command as it stands here and checks that the binary is static and starts.
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} \
    go build -trimpath -buildvcs=false -pgo=hack/bench/manager.pgo -ldflags="-s -w -X main.version=${VERSION} -X main.commit=${COMMIT}" -o /out/manager .

# No shell, no package manager, nothing to write: only certificates of public CAs, time zones and the user 65532.
FROM gcr.io/distroless/static:nonroot
ARG VERSION=dev
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="rocketmq-proxy-operator" \
      org.opencontainers.image.description="Kubernetes operator with an embedded message proxy for Apache RocketMQ" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
COPY --from=build /out/manager /manager
# By number: Kubernetes can check runAsNonRoot only then.
USER 65532:65532
EXPOSE 8080 8081 8082 8443
ENTRYPOINT ["/manager"]
CMD ["manager"]
