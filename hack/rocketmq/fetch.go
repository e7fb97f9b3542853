// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package rocketmq

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"
)

//go:embed pom.xml
var pom []byte

//go:embed proxy-pom.xml
var proxyPom []byte

// jars is a set of jars: the pom that names them, the folder under the version's that holds them, and what a person is told.
type jars struct {
	pom    []byte
	folder string
	what   string
}

var (
	serverJars = jars{pom: pom, folder: "lib", what: "the jars of Apache RocketMQ with Maven (30-95 MB, usually 10-40 s, once)"}
	proxyJars  = jars{pom: proxyPom, folder: "proxy", what: "the jars of Apache RocketMQ's own proxy with Maven (100 MB, usually 10-40 s, once)"}
)

var versionPattern = regexp.MustCompile(`^\d+\.\d+\.\d+$`)

// Available tells what this machine lacks to run a real RocketMQ; nil means that Start can work.
func Available() error {
	var missing []error
	for _, need := range []struct{ command, what string }{
		{"java", "Java 17 or newer"},
		{"mvn", "Maven 3.8 or newer"},
	} {
		if _, err := exec.LookPath(need.command); err != nil {
			missing = append(missing, fmt.Errorf("a real RocketMQ needs %s: command %q is not on the PATH", need.what, need.command))
		}
	}
	return errors.Join(missing...)
}

// Libraries returns the folder with the jars of that version, fetching them first when they are not there yet. Two
// processes may call it at once. Progress goes to log.
func Libraries(ctx context.Context, version string, log io.Writer) (string, error) {
	return libraries(ctx, serverJars, version, log)
}

func libraries(ctx context.Context, set jars, version string, log io.Writer) (string, error) {
	if !versionPattern.MatchString(version) {
		return "", fmt.Errorf("version %q of RocketMQ is not of the form 5.5.0", version)
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	home := filepath.Join(root, "bin", "rocketmq", version)
	lib := filepath.Join(home, set.folder)
	if isDir(lib) {
		return lib, nil
	}
	if err := Available(); err != nil {
		return "", err
	}
	if err := os.MkdirAll(home, 0o755); err != nil {
		return "", fmt.Errorf("create the folder for RocketMQ's jars: %w", err)
	}
	lock, err := lockFile(filepath.Join(home, ".lock"), true)
	if err != nil {
		return "", fmt.Errorf("lock the folder for RocketMQ's jars: %w", err)
	}
	defer lock.unlock()
	if isDir(lib) { // another process fetched them while we waited
		return lib, nil
	}
	return lib, fetch(ctx, set, version, lib, log)
}

// fetch copies the jars beside their place and renames them at the end, so that a half-done copy is never used.
func fetch(ctx context.Context, set jars, version, lib string, log io.Writer) error {
	began := time.Now()
	partial := lib + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return fmt.Errorf("remove a half-done copy of RocketMQ's jars: %w", err)
	}
	pomFile := lib + "-pom.xml"
	if err := os.WriteFile(pomFile, set.pom, 0o644); err != nil {
		return fmt.Errorf("write the pom that names RocketMQ's jars: %w", err)
	}
	fmt.Fprintf(log, "rocketmq: fetching %s: version %s\n", set.what, version)
	stopTelling := tellEvery(15*time.Second, log, "rocketmq: still fetching the jars", began)
	defer stopTelling()

	cmd := exec.CommandContext(ctx, "mvn", "-q", "-B", "-ntp", "-f", pomFile, "dependency:copy-dependencies",
		"-DincludeScope=runtime", "-Drocketmq.version="+version, "-DoutputDirectory="+partial)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("fetch the jars of RocketMQ %s with Maven: %w\n%s", version, err, tail(output.Bytes(), 15))
	}
	if err := os.Rename(partial, lib); err != nil {
		return fmt.Errorf("put RocketMQ's jars in place: %w", err)
	}
	fmt.Fprintf(log, "rocketmq: jars of %s are in place after %s\n", version, time.Since(began).Round(time.Second))
	return nil
}

// tellEvery writes a line with the elapsed time until the returned function is called; that function joins.
func tellEvery(period time.Duration, log io.Writer, what string, began time.Time) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(period)
		defer ticker.Stop()
		for {
			select {
			case <-quit:
				return
			case <-ticker.C:
				fmt.Fprintf(log, "%s (%s)\n", what, time.Since(began).Round(time.Second))
			}
		}
	}()
	return func() { close(quit); <-done }
}

// moduleRoot finds the folder of the go.mod above the working folder. `go test` starts a test in its package's folder,
// `go run` in the caller's; both lie inside the repository.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository's root: %w", err)
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no go.mod in %s or above it: run this inside the repository", start)
		}
	}
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// tail returns the last n lines.
func tail(text []byte, n int) string {
	lines := bytes.Split(bytes.TrimRight(text, "\n"), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-n):], []byte("\n")))
}
