// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package scale

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
)

// Objects under load and their idle neighbours; and what a second operator serves alone, which knows nothing of the first one.
const (
	busy       = "busy"
	idle       = "idle"
	lone       = "lone"
	loneSystem = "lone-system"
)

// cluster is one API server with our manifests in it.
type cluster struct {
	control            *localenv.ControlPlane
	client             client.WithWatch
	http               *http.Client
	appToken, monToken string
	binary             string
}

// long reports whether the full sizes run.
func long() bool { return os.Getenv("LONG") == "1" }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start runs an API server for one test.
func start(t *testing.T) *cluster {
	t.Helper()
	root, err := localenv.Root(".")
	must(t, err)
	must(t, localenv.EnsureBinaries(t.Context(), root, os.Stderr))
	c := &cluster{binary: filepath.Join(t.TempDir(), "manager")}
	must(t, build(t.Context(), root, c.binary))
	c.control, err = localenv.StartControlPlane(root, t.TempDir())
	must(t, err)
	t.Cleanup(func() {
		if err := c.control.Stop(); err != nil {
			t.Error(err)
		}
	})
	must(t, c.control.Install(t.Context(), io.Discard))
	config := c.control.Config()
	config.QPS = -1
	config.ContentConfig = rest.ContentConfig{}
	scheme := runtime.NewScheme()
	must(t, v1alpha1.AddToScheme(scheme))
	c.client, err = client.NewWithWatch(config, client.Options{Scheme: scheme})
	must(t, err)
	c.http, err = rest.HTTPClientFor(config)
	must(t, err)
	must(t, c.createApplication(t.Context()))
	return c
}

// build builds the operator as it ships: figures of a binary with the race detector tell nothing.
func build(ctx context.Context, root, binary string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, ".")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the operator: %w\n%s", err, out)
	}
	return nil
}

func (c *cluster) createApplication(ctx context.Context) error {
	commands := [][]string{
		{"create", "namespace", idle},
		{"create", "namespace", busy},
		{"create", "namespace", lone},
		{"create", "serviceaccount", "app", "-n", busy},
		{"create", "clusterrole", "uses", "--verb=send,receive", "--resource=producers.proxy.rocketmq.io,consumers.proxy.rocketmq.io"},
		{"create", "clusterrolebinding", "uses", "--clusterrole=uses", "--serviceaccount=" + busy + ":app"},
		{"create", "serviceaccount", "monitor", "-n", busy},
		{"create", "namespace", loneSystem},
		{"create", "role", "operator", "-n", loneSystem, "--verb=get,list,create,update,delete", "--resource=leases.coordination.k8s.io,secrets"},
		{"create", "rolebinding", "operator", "-n", loneSystem, "--role=operator", "--serviceaccount=" + localenv.OperatorNamespace + ":" + localenv.OperatorServiceAccount},
		{"create", "clusterrolebinding", "monitors", "--clusterrole=" + localenv.MetricsReaderRole, "--serviceaccount=" + busy + ":monitor"},
	}
	for _, args := range commands {
		if err := c.control.Kubectl(ctx, io.Discard, args...); err != nil {
			return err
		}
	}
	var err error
	if c.appToken, err = c.control.ServiceAccountToken(ctx, busy, "app", localenv.TokenAudience); err != nil {
		return err
	}
	c.monToken, err = c.control.ServiceAccountToken(ctx, busy, "monitor", "")
	return err
}

// operator starts an operator that is stopped at the end of the test, when the test has not done so.
func (c *cluster) operator(t *testing.T, o localenv.OperatorOptions) *localenv.Operator {
	t.Helper()
	o.Binary = c.binary
	op, err := c.control.StartOperator(t.Context(), o)
	must(t, err)
	t.Cleanup(func() {
		if !op.Running() {
			return
		}
		if t.Failed() {
			t.Logf("last words of host %s:\n%s", o.HostID, op.LastLogLines(20))
		}
		must(t, op.Stop())
	})
	return op
}

// cost is the size of an operator.
type cost struct {
	goroutines         int
	resident           int64
	heap, stacks, live int64
}

func (c cost) String() string {
	return fmt.Sprintf("%d goroutines, resident %.1f MiB (heap in use %.1f, live %.1f, stacks %.1f)",
		c.goroutines, mib(c.resident), mib(c.heap), mib(c.live), mib(c.stacks))
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func (c *cluster) costNow(t *testing.T, op *localenv.Operator) cost {
	t.Helper()
	m, err := op.Metrics(t.Context(), c.monToken)
	must(t, err)
	return cost{
		goroutines: int(m["go_goroutines"]), resident: int64(m["process_resident_memory_bytes"]), heap: int64(m["go_memstats_heap_inuse_bytes"]),
		stacks: int64(m["go_memstats_stack_inuse_bytes"]), live: int64(m["go_memstats_next_gc_bytes"] / (1 + m["go_gc_gogc_percent"]/100)), // with the stacks
	}
}

// requests counts the requests that the API server has answered for our objects and for Events, by "verb resource/subresource".
func (c *cluster) requests(t *testing.T) map[string]int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+c.control.APIServerAddress()+"/metrics", nil)
	must(t, err)
	response, err := c.http.Do(request)
	must(t, err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	must(t, err)
	found := map[string]int{}
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "apiserver_request_total{") {
			continue
		}
		resource := labelOf(line, "resource")
		if resource != "producers" && resource != "consumers" && resource != "events" {
			continue
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:]), 64)
		must(t, err)
		what := labelOf(line, "verb") + " " + resource
		if sub := labelOf(line, "subresource"); sub != "" {
			what += "/" + sub
		}
		found[what] += int(value)
	}
	return found
}

func labelOf(line, name string) string {
	_, rest, _ := strings.Cut(line, name+`="`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

// since answers what was added to before.
func since(now, before map[string]int) map[string]int {
	added := map[string]int{}
	for what, n := range now {
		if n > before[what] {
			added[what] = n - before[what]
		}
	}
	return added
}

// writes sums the requests that changed objects.
func writes(requests map[string]int) int {
	sum := 0
	for what, n := range requests {
		verb, resource, _ := strings.Cut(what, " ")
		if resource != "events" && (verb == "PATCH" || verb == "APPLY" || verb == "PUT" || verb == "POST") {
			sum += n
		}
	}
	return sum
}

// inParallel does n things with a few workers.
func inParallel(n int, do func(i int) error) error {
	var wg sync.WaitGroup
	next := make(chan int)
	failures := make(chan error, n)
	for range 16 {
		wg.Go(func() {
			for i := range next {
				if err := do(i); err != nil {
					failures <- err
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	close(failures)
	var all []error
	for err := range failures {
		all = append(all, err)
	}
	return errors.Join(all[:min(3, len(all))]...)
}
