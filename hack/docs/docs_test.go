// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
)

const root = "../.."

func TestPagesAreUpToDate(t *testing.T) {
	if err := run(root, true); err != nil {
		t.Error(err)
	}
}

func TestAStalePageIsFoundAndRepaired(t *testing.T) {
	saved := pages
	defer func() { pages = saved }()
	dir := t.TempDir()
	pages = []page{{"page.md", func(string) ([]byte, error) { return []byte("new"), nil }}}
	if err := os.WriteFile(filepath.Join(dir, "page.md"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(dir, true); err == nil {
		t.Error("a stale page passes the check")
	}
	if err := run(dir, false); err != nil {
		t.Fatal(err)
	}
	if err := run(dir, true); err != nil {
		t.Errorf("the page is still stale after writing: %v", err)
	}
}

// The comments come from the text of the .proto by names; a name that the parser makes up differently would lose its comment without a sign.
func TestEveryCommentOfTheProtocolBelongsToADeclaration(t *testing.T) {
	text, err := readProto(root)
	if err != nil {
		t.Fatal(err)
	}
	file := proxyv1alpha1.File_proxy_v1alpha1_proxy_proto
	known := map[string]bool{}
	for i := range file.Messages().Len() {
		m := file.Messages().Get(i)
		known[string(m.Name())] = true
		for f := range m.Fields().Len() {
			name := string(m.Name()) + "." + string(m.Fields().Get(f).Name())
			known[name] = true
			if _, ok := text.comments[name]; !ok {
				t.Errorf("the parser does not see field %s", name)
			}
		}
		for e := range m.Enums().Len() {
			enum := m.Enums().Get(e)
			known[string(m.Name())+"."+string(enum.Name())] = true
			for v := range enum.Values().Len() {
				known[string(m.Name())+"."+string(enum.Name())+"."+string(enum.Values().Get(v).Name())] = true
			}
		}
		for o := range m.Oneofs().Len() {
			known[string(m.Name())+"."+string(m.Oneofs().Get(o).Name())] = true
		}
	}
	for i := range file.Enums().Len() {
		enum := file.Enums().Get(i)
		known[string(enum.Name())] = true
		for v := range enum.Values().Len() {
			known[string(enum.Name())+"."+string(enum.Values().Get(v).Name())] = true
		}
	}
	for i := range file.Services().Len() {
		s := file.Services().Get(i)
		known[string(s.Name())] = true
		for c := range s.Methods().Len() {
			method := s.Methods().Get(c)
			name := string(s.Name()) + "." + string(method.Name())
			known[name] = true
			if text.comments[name] == "" {
				t.Errorf("the parser does not see the comment of call %s", name)
			}
			if text.posts[name] == "" && !method.IsStreamingClient() {
				t.Errorf("the parser does not see the HTTP path of %s", name)
			}
		}
	}
	for name := range text.comments {
		if !known[name] {
			t.Errorf("the parser made up the name %s", name)
		}
	}
}

func TestEveryCallIsInTheDocument(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(root, "docs/api.md"))
	if err != nil {
		t.Fatal(err)
	}
	file := proxyv1alpha1.File_proxy_v1alpha1_proxy_proto
	for i := range file.Messages().Len() {
		if name := string(file.Messages().Get(i).Name()); !strings.Contains(string(content), "### "+name+"\n") {
			t.Errorf("docs/api.md has no section for message %s", name)
		}
	}
	for i := range file.Services().Len() {
		s := file.Services().Get(i)
		for c := range s.Methods().Len() {
			if name := string(s.FullName()) + "/" + string(s.Methods().Get(c).Name()); !strings.Contains(string(content), name) {
				t.Errorf("docs/api.md does not name the call %s", name)
			}
		}
	}
}

func TestTheDashboardsPanelsDoNotOverlap(t *testing.T) {
	content, err := dashboard()
	if err != nil {
		t.Fatal(err)
	}
	var model struct {
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
		}
	}
	if err := json.Unmarshal(content, &model); err != nil {
		t.Fatal(err)
	}
	taken, ids := map[[2]int]string{}, map[int]bool{}
	for _, p := range model.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have id %d", p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("panel %q lies on %q", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
}
