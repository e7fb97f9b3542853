// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package scale

import (
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

// cpuOf is the processor time that the operator has used.
func cpuOf(t *testing.T, op *localenv.Operator) time.Duration {
	t.Helper()
	_, _, used := statOf(t, strconv.Itoa(op.PID()))
	return used
}

// cpuOfServers is the processor time that the API server and etcd have used. It tells more than the clock on a machine that is busy otherwise.
func cpuOfServers(t *testing.T) time.Duration {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*")
	must(t, err)
	var sum time.Duration
	for _, process := range processes {
		name, parent, used := statOf(t, filepath.Base(process))
		if parent == os.Getpid() && (name == "kube-apiserver" || name == "etcd") {
			sum += used
		}
	}
	return sum
}

// statOf reads /proc/<pid>/stat: name, parent, and processor time, in ticks of 10 ms on every Linux that Go knows. A process that has gone has none.
func statOf(t *testing.T, pid string) (name string, parent int, used time.Duration) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		return "", 0, 0
	}
	text := string(content)
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	fields := strings.Fields(text[end+1:])
	var numbers [3]int
	for i, field := range []int{1, 11, 12} { // ppid, utime, stime
		numbers[i], err = strconv.Atoi(fields[field])
		must(t, err)
	}
	return text[open+1 : end], numbers[0], time.Duration(numbers[1]+numbers[2]) * 10 * time.Millisecond
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
