// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package examples

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// program is one language's pair of examples.
type program struct {
	needs         []string // on the PATH
	send, receive []string
	lines         int
}

func folder(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// available skips, loudly, what cannot run on this machine; the examples' languages are not needed to build or run the operator. In CI, which
// installs them, it fails: an example that silently does not run is as good as untested.
func (p program) available(t *testing.T) {
	t.Helper()
	for _, tool := range p.needs {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("this example needs %s on the PATH; .ci/run installs it", tool)
			}
			t.Skipf("NOT RUN: this example needs %s on the PATH", tool)
		}
	}
}

// httpPrograms are the examples that speak HTTP.
func httpPrograms(t *testing.T) map[string]program {
	dir := folder(t)
	return map[string]program{
		"python": {[]string{"python3"}, []string{"python3", "-B", dir + "/python/send.py"}, []string{"python3", "-B", dir + "/python/receive.py"}, 250},
		"node":   {[]string{"node"}, []string{"node", dir + "/node/send.mjs"}, []string{"node", dir + "/node/receive.mjs"}, 250},
		"curl":   {[]string{"bash", "curl", "jq"}, []string{dir + "/curl/send.sh"}, []string{dir + "/curl/receive.sh"}, 120},
	}
}

func goProgram(t *testing.T) program {
	t.Helper()
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "./go/send", "./go/receive")
	build.Dir = folder(t)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("the examples do not build: %v\n%s", err, out)
	}
	return program{nil, []string{bin + "/send"}, []string{bin + "/receive"}, 250}
}

func TestHTTPExamplesLoseNothingWhenCallsAreRefusedAndAnswersLost(t *testing.T) {
	t.Parallel()
	for name, p := range httpPrograms(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they mostly wait
			p.available(t)
			w := newWorld(t, name)
			address, faults := w.startHTTPFaults()
			w.runPair(p, "PROXY_URL="+address, "PROXY_URL="+address)
			faults.check(t, "send", "pull", "ack")
		})
	}
}

func TestGoExamplesLoseNothingWhenConnectionsAreCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "go")
	sendAddress, sendCuts := w.startCuttingRelay()
	receiveAddress, receiveCuts := w.startCuttingRelay()
	w.runPair(goProgram(t), "PROXY_ADDR="+sendAddress, "PROXY_ADDR="+receiveAddress)
	if sends, receives := sendCuts(), receiveCuts(); sends < 2 || receives < 2 {
		t.Errorf("only %d connections of the sender and %d of the receiver were cut", sends, receives)
	}
}

// A message that can never be accepted must end the program with its reason, not in an endless loop.
func TestSendersGiveUpOnWhatCanNeverBeAccepted(t *testing.T) {
	t.Parallel()
	programs := httpPrograms(t)
	programs["go"] = goProgram(t)
	for name, p := range programs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p.available(t)
			w := newWorld(t, name)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, p.send[0], p.send[1:]...)
			cmd.Env = append(os.Environ(), append(w.environment(p.lines), "TOPIC=another", "PROXY_ADDR="+w.proxy.GRPCAddr().String(),
				"PROXY_URL=https://"+w.proxy.HTTPAddr().String())...)
			cmd.Stdin = strings.NewReader("one\ntwo\n")
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || ctx.Err() != nil {
				t.Errorf("ended with %v, want a status other than 0 within a minute", err)
			}
			if !strings.Contains(string(out), "TopicNotAllowed") {
				t.Errorf("the reason is not told: %s", out)
			}
		})
	}
}

// environment is what an application has, except for the proxy's address.
func (w *world) environment(lines int) []string {
	return []string{"PROXY_CA=" + filepath.Join(w.dir, "tls.crt"), "PROXY_TOKEN=" + w.tokenFile, "NAMESPACE=shop",
		"PRODUCER=" + w.name, "CONSUMER=" + w.name, "STOP_AFTER=" + strconv.Itoa(lines)}
}

// runPair sends numbered lines with one program, receives them with the other, and compares. sendTo and receiveFrom are environment variables.
func (w *world) runPair(p program, sendTo, receiveFrom string) {
	w.t.Helper()
	environment := w.environment(p.lines)
	var lines []string
	for i := range p.lines {
		lines = append(lines, fmt.Sprintf("order %d: 10 €, \"quoted\" \\ and a\ttab", i)) // what careless shell and JSON code breaks
	}
	sent := w.run(p.send, strings.Join(lines, "\n")+"\n", append(environment, sendTo))
	if ids := slices.Compact(slices.Sorted(slices.Values(sent))); len(ids) != p.lines {
		w.t.Fatalf("the sender reports %d different ids, want %d", len(ids), p.lines)
	}
	var ids, texts []string
	for _, line := range w.run(p.receive, "", append(environment, receiveFrom)) {
		id, text, _ := strings.Cut(line, "\t")
		ids, texts = append(ids, id), append(texts, text)
	}
	slices.Sort(sent)
	slices.Sort(ids)
	slices.Sort(lines)
	slices.Sort(texts)
	if !slices.Equal(ids, sent) {
		w.t.Errorf("handled are not exactly the messages that were sent, each once: %d sent, %d handled", len(sent), len(ids))
	}
	if !slices.Equal(texts, lines) {
		w.t.Errorf("the texts changed on the way, for example %q", firstDifference(texts, lines))
	}
	w.checkOnlyRepetitionsAreLeft(sent)
}

func firstDifference(got, want []string) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return got[i] + " instead of " + want[i]
		}
	}
	return "another number of them"
}

// run runs a program to its end and returns the lines it printed.
func (w *world) run(command []string, stdin string, environment []string) []string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), environment...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.WaitDelay = 5 * time.Second
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &log
	if err := cmd.Run(); err != nil {
		w.t.Fatalf("%s: %v\n%s", strings.Join(command, " "), errors.Join(err, ctx.Err()), log.String())
	}
	if log.Len() == 0 {
		w.t.Errorf("%s logged nothing although calls failed", strings.Join(command, " "))
	}
	return strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
}

// checkOnlyRepetitionsAreLeft takes what is left in the topic: it may only be repetitions of messages that were handled. Then everything has
// been acknowledged, and the proxy's receipt of the shutdown says so.
func (w *world) checkOnlyRepetitionsAreLeft(sent []string) {
	w.t.Helper()
	quietSince := time.Now()
	for time.Since(quietSince) < ackDeadline+2*time.Second {
		var answer struct {
			Deliveries []struct {
				Message  struct{ ID string }
				AckToken string `json:"ack_token"`
			}
		}
		w.post("pull", `{"max_messages": 100, "wait": "1s"}`, &answer)
		var tokens []string
		for _, d := range answer.Deliveries {
			if _, found := slices.BinarySearch(sent, d.Message.ID); !found {
				w.t.Fatalf("message %s was never sent", d.Message.ID)
			}
			tokens = append(tokens, d.AckToken)
		}
		if len(tokens) > 0 {
			body, err := json.Marshal(map[string]any{"ack_tokens": tokens})
			w.must(err)
			w.post("ack", string(body), &struct{}{})
			quietSince = time.Now()
		}
	}
	w.stop()
	<-w.proxy.Stopped()
	for _, receipt := range w.proxy.Receipts() {
		if receipt.InFlight != 0 || receipt.Err != "" {
			w.t.Errorf("after everything was handled the %s still has %d in flight %s", receipt.Key.Kind, receipt.InFlight, receipt.Err)
		}
	}
}

func (w *world) post(verb, body string, answer any) {
	w.t.Helper()
	token, err := os.ReadFile(w.tokenFile)
	w.must(err)
	request, err := http.NewRequest(http.MethodPost, "https://"+w.proxy.HTTPAddr().String()+"/v1alpha1/namespaces/shop/consumers/"+w.name+":"+verb, strings.NewReader(body))
	w.must(err)
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: w.tls, DisableKeepAlives: true}}
	response, err := client.Do(request)
	w.must(err)
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		w.t.Fatalf("%s: %s", verb, response.Status)
	}
	w.must(json.NewDecoder(response.Body).Decode(answer))
}
