// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
)

const namespace = "e2e"

// cluster is what all tests of this package share: one API server, one broker. Each test starts its own operator.
type cluster struct {
	control            *localenv.ControlPlane
	broker             *rocketmq.Cluster
	appToken, monToken string
}

var shared struct {
	once  sync.Once
	value cluster
	err   error
	stops []func() error
}

func TestMain(m *testing.M) {
	code := m.Run()
	for i := len(shared.stops) - 1; i >= 0; i-- {
		if err := shared.stops[i](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// long reports whether the full sizes run.
func long() bool { return os.Getenv("LONG") == "1" }

// onDrivers runs a test on each driver for real brokers.
func onDrivers(t *testing.T, test func(t *testing.T, driver string)) {
	t.Helper()
	for _, driver := range []string{"Remoting", "ClientGo"} {
		t.Run(driver, func(t *testing.T) { test(t, driver) })
	}
}

// onDriversAtOnce is onDrivers for tests that mostly wait. What they share belongs to the test that calls it, which ends after them.
func onDriversAtOnce(t *testing.T, test func(t *testing.T, driver string)) {
	t.Helper()
	onDrivers(t, func(t *testing.T, driver string) {
		t.Parallel()
		test(t, driver)
	})
}

// start returns the shared cluster, started on first use.
func start(t *testing.T) *cluster {
	t.Helper()
	rocketmq.RequireForTest(t)
	shared.once.Do(func() { shared.err = startShared(&shared.value) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return &shared.value
}

// withBroker is a cluster for one test that wants a broker of its own: the same API server.
func withBroker(t *testing.T, options rocketmq.Options) *cluster {
	t.Helper()
	c := start(t)
	return &cluster{control: c.control, broker: rocketmq.StartForTest(t, options), appToken: c.appToken, monToken: c.monToken}
}

func startShared(c *cluster) error {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	root, err := localenv.Root(".")
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "rocketmq-proxy-e2e-")
	if err != nil {
		return err
	}
	shared.stops = append(shared.stops, func() error { return os.RemoveAll(work) })
	if err := buildManager(ctx, root); err != nil {
		return err
	}
	if err := localenv.EnsureBinaries(ctx, root, os.Stderr); err != nil {
		return err
	}
	if c.broker, err = rocketmq.Start(ctx, rocketmq.Options{Log: os.Stderr}); err != nil {
		return err
	}
	shared.stops = append(shared.stops, c.broker.Stop)
	if c.control, err = localenv.StartControlPlane(root, work); err != nil {
		return err
	}
	shared.stops = append(shared.stops, c.control.Stop)
	if err := c.control.Install(ctx, io.Discard); err != nil {
		return err
	}
	return c.createApplication(ctx)
}

// buildManager builds bin/manager from the tree under test, with the race detector (E2E_RACE=0: without, for figures).
func buildManager(ctx context.Context, root string) error {
	args := []string{"build", "-o", managerPath(root)}
	if raced() {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, ".")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the operator: %w\n%s", err, out)
	}
	return nil
}

func raced() bool { return os.Getenv("E2E_RACE") != "0" }

func managerPath(root string) string {
	if raced() {
		return filepath.Join(root, "bin", "manager-race")
	}
	return filepath.Join(root, "bin", "manager-e2e")
}

func (c *cluster) createApplication(ctx context.Context) error {
	account := "--serviceaccount=" + namespace + ":app"
	for _, args := range [][]string{
		{"create", "namespace", namespace},
		{"create", "serviceaccount", "app", "-n", namespace},
		{"create", "role", "sends", "-n", namespace, "--verb=send", "--resource=producers.proxy.rocketmq.io"},
		{"create", "rolebinding", "sends", "-n", namespace, "--role=sends", account},
		{"create", "role", "receives", "-n", namespace, "--verb=receive", "--resource=consumers.proxy.rocketmq.io"},
		{"create", "rolebinding", "receives", "-n", namespace, "--role=receives", account},
		{"create", "role", "manages", "-n", namespace, "--verb=manage", "--resource=consumers.proxy.rocketmq.io"},
		{"create", "rolebinding", "manages", "-n", namespace, "--role=manages", account},
		{"create", "serviceaccount", "monitor", "-n", namespace},
		{"create", "clusterrolebinding", "e2e-monitor", "--clusterrole=" + localenv.MetricsReaderRole, "--serviceaccount=" + namespace + ":monitor"},
	} {
		if err := c.control.Kubectl(ctx, io.Discard, args...); err != nil {
			return err
		}
	}
	var err error
	if c.appToken, err = c.control.ServiceAccountToken(ctx, namespace, "app", localenv.TokenAudience); err != nil {
		return err
	}
	c.monToken, err = c.control.ServiceAccountToken(ctx, namespace, "monitor", "")
	return err
}

// operator starts an operator for one test. At the end it is stopped, must exit 0, and must have logged no error, panic or race but those
// that allowed lists (part of the line).
func (c *cluster) operator(t *testing.T, o localenv.OperatorOptions, allowed ...string) *localenv.Operator {
	t.Helper()
	root, err := localenv.Root(".")
	must(t, err)
	o.Binary = managerPath(root)
	if o.HostID == "" {
		o.HostID = unique(t)
	}
	if o.NameServers == nil {
		o.NameServers = c.broker.NameServers()
	}
	o.Env = append(o.Env, "GORACE=halt_on_error=0 exitcode=66")
	op, err := c.control.StartOperator(t.Context(), o)
	must(t, err)
	t.Cleanup(func() {
		if op.Running() {
			if err := op.Stop(); err != nil {
				t.Errorf("the operator's exit: %v\n%s", err, op.LastLogLines(30))
			}
		}
		checkLog(t, op, allowed)
		if t.Failed() {
			t.Logf("the operator's last words:\n%s", op.LastLogLines(60))
		}
	})
	return op
}

// checkLog fails on what no run may log.
func checkLog(t *testing.T, op *localenv.Operator, allowed []string) {
	t.Helper()
	content, err := os.ReadFile(op.LogPath)
	must(t, err)
	lines := bufio.NewScanner(bytes.NewReader(content))
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		line := lines.Text()
		bad := strings.Contains(line, `"level":"error"`) || strings.Contains(line, "DATA RACE") || strings.HasPrefix(line, "panic:") || strings.Contains(line, "fatal error:")
		for _, ok := range allowed {
			bad = bad && !strings.Contains(line, ok)
		}
		if bad {
			t.Errorf("the operator logged: %s", line)
		}
	}
}

func (c *cluster) dial(t *testing.T, op *localenv.Operator) *grpc.ClientConn {
	t.Helper()
	connection, err := op.Dial(c.appToken)
	must(t, err)
	t.Cleanup(func() { _ = connection.Close() })
	return connection
}

// topic makes a topic for one test.
func (c *cluster) topic(t *testing.T, queues int) string {
	t.Helper()
	name := "t_" + unique(t)
	must(t, c.broker.CreateTopic(t.Context(), name, queues, nil))
	return name
}

// unique is a name for objects, topics and groups of one test and run.
func unique(t *testing.T) string {
	name := strings.ToLower(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, t.Name()))
	return fmt.Sprintf("%.40s-%d", name, time.Now().UnixNano()%1e6)
}

// producer and consumer are the manifests that most tests need; extra lines are indented by two blanks and belong to spec.
func producer(name, topic string, extra ...string) string {
	return manifest("Producer", name, append([]string{"topics: [" + topic + "]"}, extra...))
}

func consumer(name, group, topic string, extra ...string) string {
	return manifest("Consumer", name, append([]string{"group: " + group, "subscriptions: [{topic: " + topic + "}]", "startFrom: Earliest"}, extra...))
}

func manifest(kind, name string, lines []string) string {
	return fmt.Sprintf("apiVersion: proxy.rocketmq.io/v1alpha1\nkind: %s\nmetadata: {name: %s, namespace: %s}\nspec:\n  %s\n", kind, name, namespace, strings.Join(lines, "\n  "))
}

// apply applies manifests and deletes what they name at the end of the test (the delete must come to its end).
func (c *cluster) apply(t *testing.T, manifests ...string) {
	t.Helper()
	all := strings.Join(manifests, "---\n")
	must(t, c.control.Apply(t.Context(), all))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // t.Context() has ended
		defer cancel()
		if err := c.control.Delete(ctx, all); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
}

// delete deletes objects and waits until they are gone; those that are gone already are no error.
func (c *cluster) delete(t *testing.T, objects ...string) time.Duration {
	t.Helper()
	began := time.Now()
	must(t, c.control.Kubectl(t.Context(), io.Discard, append([]string{"delete", "-n", namespace, "--ignore-not-found", "--timeout=90s"}, objects...)...))
	return time.Since(began)
}

func (c *cluster) waitReady(t *testing.T, objects ...string) {
	t.Helper()
	err := c.control.Kubectl(t.Context(), io.Discard, append([]string{"wait", "-n", namespace, "--for=condition=Ready", "--timeout=60s"}, objects...)...)
	if err != nil {
		described, _ := c.control.Output(t.Context(), append([]string{"get", "-n", namespace, "-o", "yaml"}, objects...)...)
		t.Fatalf("%v\n%s", err, described)
	}
}

// condition returns status, reason and message of one condition of an object.
func (c *cluster) condition(t *testing.T, object, kind string) (status, reason, message string) {
	t.Helper()
	out, err := c.control.Output(t.Context(), "get", "-n", namespace, object, "-o", "json")
	must(t, err)
	var got struct {
		Status struct {
			Conditions []struct{ Type, Status, Reason, Message string }
		}
	}
	must(t, json.Unmarshal([]byte(out), &got))
	for _, condition := range got.Status.Conditions {
		if condition.Type == kind {
			return condition.Status, condition.Reason, condition.Message
		}
	}
	return "", "", ""
}

// waitGeneration waits until the newest generation of each object is Ready: a Ready that was left from an earlier one does not count.
func (c *cluster) waitGeneration(t *testing.T, within time.Duration, objects ...string) {
	t.Helper()
	for _, object := range objects {
		eventually(t, within, object+" Ready in its newest generation", func() error {
			out, err := c.control.Output(t.Context(), "get", "-n", namespace, object, "-o",
				`jsonpath={.metadata.generation} {.status.conditions[?(@.type=="Ready")].observedGeneration} {.status.conditions[?(@.type=="Ready")]}`)
			if err != nil {
				return err
			}
			fields := strings.SplitN(out, " ", 3)
			if len(fields) != 3 || fields[0] != fields[1] || !strings.Contains(fields[2], `"status":"True"`) {
				return fmt.Errorf("generation, observed generation, Ready: %s", out)
			}
			return nil
		})
	}
}

// awaitCondition waits until a condition is False for a reason, and returns its message.
func (c *cluster) awaitCondition(t *testing.T, within time.Duration, object, kind, reason string) (message string) {
	t.Helper()
	eventually(t, within, object+": "+kind+" tells "+reason, func() error {
		var status, got string
		if status, got, message = c.condition(t, object, kind); status != "False" || got != reason {
			return fmt.Errorf("%s=%q reason %q message %q", kind, status, got, message)
		}
		return nil
	})
	return message
}

// eventually waits for a fact that no watch tells.
func eventually(t *testing.T, within time.Duration, what string, fact func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := fact()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, within, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
