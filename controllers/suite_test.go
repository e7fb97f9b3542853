// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
)

// The API server of this package's tests; nil when its binaries are not there.
var (
	restConfig *rest.Config
	direct     client.Client // uncached
	testScheme = runtime.NewScheme()
)

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	ctrl.SetLogger(logr.Discard())
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, proxyv1alpha1.AddToScheme} {
		if err := add(testScheme); err != nil {
			panic(err)
		}
	}
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		return m.Run() // needAPIServer decides what that means for a test
	}
	environment := &envtest.Environment{
		CRDDirectoryPaths: []string{filepath.Join("..", "config", "crd", "bases")}, ErrorIfCRDPathMissing: true,
	}
	var err error
	if restConfig, err = environment.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "start the test API server:", err)
		return 1
	}
	defer func() {
		if err := environment.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop the test API server:", err)
		}
	}()
	restConfig.QPS = -1
	if direct, err = client.New(restConfig, client.Options{Scheme: testScheme}); err != nil {
		fmt.Fprintln(os.Stderr, "client of the test API server:", err)
		return 1
	}
	return m.Run()
}

// needAPIServer skips loudly on a developer's machine and fails in CI.
func needAPIServer(t *testing.T) {
	t.Helper()
	if restConfig != nil {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("KUBEBUILDER_ASSETS is not set: the tests on an API server cannot run")
	}
	t.Skip("NOT TESTED: KUBEBUILDER_ASSETS is not set (make test builds the API server and sets it)")
}

// newNamespace makes a namespace of the test's own. There is no namespace controller, so it stays; the API server goes after the tests.
func newNamespace(t *testing.T) string {
	t.Helper()
	needAPIServer(t)
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-"}}
	if err := direct.Create(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	return ns.Name
}

// strictLog is a logger that fails the test on an ERROR line, unless one of allowed is in it.
type strictLog struct {
	t       testing.TB
	mu      sync.Mutex
	over    bool
	allowed []string
}

func newStrictLog(t testing.TB) *strictLog {
	// client-go writes Events in the background and cannot be waited for: those under way when a manager ends are lost, with an ERROR line.
	l := &strictLog{t: t, allowed: []string{"Unable to write event"}}
	t.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.over = true
	})
	return l
}

// allow says that ERROR lines with this text are what the test provokes.
func (l *strictLog) allow(texts ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.allowed = append(l.allowed, texts...)
}

func (l *strictLog) logger() logr.Logger {
	return funcr.New(l.line, funcr.Options{Verbosity: 1})
}

// line gets what funcr renders: an Info line begins with its level, an Error line has none.
func (l *strictLog) line(prefix, text string) {
	isError := !strings.HasPrefix(text, `"level"=`)
	text = prefix + " " + text
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return
	}
	l.t.Log(text)
	if isError && !slices.ContainsFunc(l.allowed, func(a string) bool { return strings.Contains(text, a) }) {
		l.t.Errorf("unexpected ERROR line: %s", text)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a fact that is seen from outside.
func eventually(t testing.TB, within time.Duration, what string, fact func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !fact() {
		if time.Now().After(deadline) {
			t.Fatalf("after %s still not: %s", within, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func conditionOf(o object, conditionType string) metav1.Condition {
	if c := meta.FindStatusCondition(o.Reported().Conditions, conditionType); c != nil {
		return *c
	}
	return metav1.Condition{}
}
