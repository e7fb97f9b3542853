// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// buildCommand is the Dockerfile's `go build`, as it stands there, with another place for the result.
func buildCommand(t *testing.T, out string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	joined := strings.ReplaceAll(string(content), "\\\n", " ")
	line := regexp.MustCompile(`(?m)^RUN (?:--mount=\S+\s+)*(.*\bgo build\b.*)$`).FindStringSubmatch(joined)
	if line == nil {
		t.Fatal("the Dockerfile has no RUN line with go build")
	}
	if !strings.Contains(line[1], "-o /out/manager") {
		t.Fatalf("the Dockerfile builds to another place than /out/manager: %s", line[1])
	}
	return strings.Replace(line[1], "-o /out/manager", "-o "+out, 1)
}

// TestTheImageIsCompiledForTheProfileOfTheBench: the build's context has to have the profile, and `make build` the same one.
func TestTheImageIsCompiledForTheProfileOfTheBench(t *testing.T) {
	profile := regexp.MustCompile(`-pgo=(\S+)`).FindStringSubmatch(buildCommand(t, "x"))
	if profile == nil {
		t.Fatal("the Dockerfile's go build has no -pgo")
	}
	for file, line := range map[string]string{".dockerignore": "!" + profile[1], "Makefile": "PGO ?= " + profile[1]} {
		content, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(strings.Split(string(content), "\n"), line) {
			t.Errorf("%s has no line %q", file, line)
		}
	}
}

var built struct {
	once   sync.Once
	binary string
	err    error
}

// imagesBinary builds what the image holds, once for the package.
func imagesBinary(t *testing.T) string {
	t.Helper()
	built.once.Do(func() {
		built.binary = filepath.Join(work, "manager")
		cmd := exec.Command("sh", "-c", buildCommand(t, built.binary))
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "TARGETOS="+runtime.GOOS, "TARGETARCH="+runtime.GOARCH, "VERSION=v9.8.7-test", "COMMIT=abcdef")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("the Dockerfile's build command fails: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.binary
}

func TestTheImagesBinaryIsStaticAndKnowsItsVersion(t *testing.T) {
	binary := imagesBinary(t)
	file, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, program := range file.Progs {
		if program.Type == elf.PT_INTERP {
			t.Error("the binary asks for a dynamic loader, which a distroless image does not have")
		}
	}
	if libraries, err := file.ImportedLibraries(); err == nil && len(libraries) > 0 {
		t.Errorf("the binary needs shared libraries: %v", libraries)
	}
	out, err := exec.Command(binary, "version").CombinedOutput()
	if err != nil {
		t.Fatalf("manager version: %v\n%s", err, out)
	}
	for _, want := range []string{"v9.8.7-test", "abcdef"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("manager version prints %q, without %q that the Dockerfile sets", out, want)
		}
	}
	checkFlags(t, binary)
}

// checkFlags: a flag that the Deployment sets and the binary does not have would end every pod at once.
func checkFlags(t *testing.T, binary string) {
	t.Helper()
	args := deployment(t).Spec.Template.Spec.Containers[0].Args
	help, err := exec.Command(binary, args[0], "--help").CombinedOutput()
	if err == nil && len(help) == 0 {
		t.Fatal("manager --help prints nothing")
	}
	for _, arg := range args[1:] {
		name, _, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		if !regexp.MustCompile(`(?m)^\s+-+` + regexp.QuoteMeta(name) + `\b`).Match(help) {
			t.Errorf("the binary has no flag --%s; its help: %s", name, help)
		}
	}
	if out, err := exec.Command(binary, args[0], "--no-such-flag").CombinedOutput(); err == nil {
		t.Errorf("an unknown flag is accepted: %s", out)
	}
}

// A package outside of what .dockerignore lets through would build here and fail in the image.
func TestTheImagesContextHoldsEveryPackageOfTheBinary(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(root, ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "list", "-deps", "-json=Dir,Module,EmbedFiles", ".")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for decoder.More() {
		var pkg struct {
			Dir        string
			Module     *struct{ Main bool }
			EmbedFiles []string
		}
		if err := decoder.Decode(&pkg); err != nil {
			t.Fatal(err)
		}
		if pkg.Module == nil || !pkg.Module.Main {
			continue
		}
		for _, file := range append(pkg.EmbedFiles, ".") {
			checkInContext(t, string(content), filepath.Join(pkg.Dir, file))
		}
	}
}

// checkInContext: path is in the root folder itself, or in a folder that .dockerignore lets through.
func checkInContext(t *testing.T, ignore, path string) {
	t.Helper()
	relative, err := filepath.Rel(root, path)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(relative, string(filepath.Separator))
	for i := range parts {
		if relative == "." || strings.Contains(ignore, "!"+strings.Join(parts[:i+1], "/")+"/\n") {
			return
		}
	}
	t.Errorf(".dockerignore keeps %s out of the image's build", relative)
}
