// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package scale

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
)

// cpuOf is the processor time that the operator has used, from /proc; a tick is 10 ms on every Linux that Go knows.
func cpuOf(t *testing.T, op *localenv.Operator) time.Duration {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", op.PID()))
	must(t, err)
	fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))
	user, err := strconv.Atoi(fields[11])
	must(t, err)
	system, err := strconv.Atoi(fields[12])
	must(t, err)
	return time.Duration(user+system) * 10 * time.Millisecond
}

// freeAddress is where the operator may serve its profiles.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, l.Close())
	return l.Addr().String()
}

// collectGarbage makes the operator do it, so that what its metrics tell of the heap afterwards is alive. SCALE_PROFILES names a folder for the
// heap profile that comes with it, and for one of the goroutines.
func collectGarbage(t *testing.T, address, name string) {
	t.Helper()
	heap := fetch(t, "http://"+address+"/debug/pprof/heap?gc=1")
	if dir := os.Getenv("SCALE_PROFILES"); dir != "" {
		must(t, os.WriteFile(filepath.Join(dir, name+".heap"), heap, 0o600))
		goroutines := fetch(t, "http://"+address+"/debug/pprof/goroutine?debug=1")
		must(t, os.WriteFile(filepath.Join(dir, name+".goroutines"), goroutines, 0o600))
	}
}

func fetch(t *testing.T, url string) []byte {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	must(t, err)
	response, err := http.DefaultClient.Do(request)
	must(t, err)
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	must(t, err)
	return content
}
