// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// TestRetriesAndDeadLetters nacks messages until they are given up, looks at them and redrives them. It takes 20 s, most of it waiting.
func TestRetriesAndDeadLetters(t *testing.T) {
	c := start(t)
	op := c.operator(t, localenv.OperatorOptions{})
	onDriversAtOnce(t, func(t *testing.T, driver string) { newMorgue(t, c, op, driver).run() })
}

// morgue is a Consumer whose messages fail.
type morgue struct {
	*testing.T
	c            *cluster
	op           *localenv.Operator
	driver, name string
}

// received is a delivery as HTTP shows it.
type received struct {
	AckToken        string `json:"ack_token"`
	DeliveryAttempt int    `json:"delivery_attempt"`
	Message         struct {
		ID, Topic, Tag, Text string
		Keys                 []string
		Properties           map[string]string
	}
}

func newMorgue(t *testing.T, c *cluster, op *localenv.Operator, driver string) *morgue {
	m := &morgue{T: t, c: c, op: op, driver: driver, name: unique(t)}
	topic := c.topic(t, 1)
	c.apply(t, producer(m.name, topic, "driver: "+driver), consumer(m.name, "g_"+m.name, topic, "driver: "+driver, "drainTimeoutSeconds: 1",
		"maxDeliveryAttempts: 2", "retryBackoff: {stepsSeconds: [3, 1]}"))
	c.waitReady(t, "rmqp/"+m.name, "rmqc/"+m.name)
	return m
}

// post demands 200 and reads the answer.
func (m *morgue) post(path, body string, into any) {
	m.Helper()
	code, answer, err := m.op.Post(m.Context(), m.c.appToken, "/v1alpha1/namespaces/"+namespace+path, body)
	must(m.T, err)
	if code != 200 {
		m.Fatalf("POST %s %s: %d %s", path, body, code, answer)
	}
	m.Logf("POST %s %s\n%s", path, body, answer)
	must(m.T, json.Unmarshal(answer, into))
}

// pull takes exactly n deliveries.
func (m *morgue) pull(n int) (all []received) {
	m.Helper()
	for len(all) < n {
		all = append(all, m.pullSome(n-len(all))...)
	}
	return all
}

// pullSome takes up to n deliveries, waiting for the first.
func (m *morgue) pullSome(n int) []received {
	m.Helper()
	for end := time.Now().Add(30 * time.Second); ; {
		var answer struct{ Deliveries []received }
		m.post("/consumers/"+m.name+":pull", fmt.Sprintf(`{"max_messages": %d, "wait": "5s"}`, n), &answer)
		if len(answer.Deliveries) > 0 {
			return answer.Deliveries
		}
		if time.Now().After(end) {
			m.Fatal("no message came in 30 s")
		}
	}
}

// nack gives ds back without a delay and answers the real ones in seconds.
func (m *morgue) nack(ds []received, reason string) []float64 {
	m.Helper()
	entries := make([]map[string]string, len(ds))
	for i, d := range ds {
		entries[i] = map[string]string{"ack_token": d.AckToken, "reason": reason}
	}
	body, err := json.Marshal(map[string]any{"nacks": entries})
	must(m.T, err)
	var answer struct {
		Results []struct {
			Outcome        string
			EffectiveDelay string `json:"effective_delay"`
		}
	}
	m.post("/consumers/"+m.name+":nack", string(body), &answer)
	delays := make([]float64, len(ds))
	for i, r := range answer.Results {
		d, err := time.ParseDuration(r.EffectiveDelay)
		if delays[i] = d.Seconds(); err != nil || r.Outcome != "OK" {
			m.Fatalf("nack: %+v", r)
		}
	}
	return delays
}

func (m *morgue) run() {
	m.post("/producers/"+m.name+":send", `{"messages": [
		{"id": "poison", "text": "x", "tag": "a", "keys": ["k"], "properties": {"p": "v"}}, {"id": "bad", "text": "y"}, {"id": "worse", "text": "z"}]}`, &struct{}{})
	m.giveUp(3)
	m.look()
	m.giveAgain()
}

// giveUp nacks n messages until they have no attempts left.
func (m *morgue) giveUp(n int) {
	// What the back-off wants is rounded up: to 2 s by Remoting, to a level by ClientGo.
	first := map[string]float64{"Remoting": 3, "ClientGo": 5}[m.driver]
	second := map[string]float64{"Remoting": 2, "ClientGo": 1}[m.driver]
	ds := m.pull(n)
	began := time.Now()
	if got := m.nack(ds, "no stock"); slices.Min(got) != first || slices.Max(got) != first {
		m.Errorf("the first nack: %v s, want %v", got, first)
	}
	ds = m.pull(n)
	if took := time.Since(began).Seconds(); took < first-1.2 {
		m.Errorf("they came again after %.1f s, before their delay of %v s", took, first)
	}
	for _, d := range ds {
		if p := d.Message.Properties; d.DeliveryAttempt != 2 || p["PROXY_RETRY_ATTEMPT"] != "2" || p["PROXY_RETRY_REASON"] != "no stock" {
			m.Errorf("the second delivery: %+v", d)
		}
	}
	if got := m.nack(ds, "still no stock"); slices.Min(got) != second || slices.Max(got) != second {
		m.Errorf("the second nack: %v s, want %v", got, second)
	}
}

// deadLetter is a letter as HTTP shows it.
type deadLetter struct {
	received
	Reason, Place, Problem string
}

// list asks for letters; somebody must ask for messages meanwhile, or nobody would find that they have no attempts left.
func (m *morgue) list(call, body string, n int) (letters []deadLetter) {
	m.Helper()
	eventually(m.T, 20*time.Second, fmt.Sprintf("%d dead letters", n), func() error {
		var answer struct{ Letters []deadLetter }
		if m.post("/consumers/"+m.name+":"+call, body, &answer); len(answer.Letters) == n {
			letters = answer.Letters
			return nil
		}
		var none struct{ Deliveries []received }
		if m.post("/consumers/"+m.name+":pull", `{"max_messages": 10, "wait": "1s"}`, &none); len(none.Deliveries) > 0 {
			m.Errorf("came after the last attempt: %+v", none.Deliveries)
		}
		return fmt.Errorf("%d letters", len(answer.Letters))
	})
	return letters
}

// look lists and peeks.
func (m *morgue) look() {
	for _, l := range m.list("listDeadLetters", `{}`, 3) {
		if !strings.Contains(l.Reason, "maxDeliveryAttempts is 2") || !strings.Contains(l.Reason, "still no stock") || l.Place == "" || l.Problem != "" || l.Message.Text != "" {
			m.Errorf("listed: %+v", l)
		}
	}
	got := m.list("peekDeadLetters", `{"selection": {"message_ids": ["poison"]}}`, 1)[0].Message
	if got.Text != "x" || got.Tag != "a" || !slices.Equal(got.Keys, []string{"k"}) || len(got.Properties) != 1 || got.Properties["p"] != "v" {
		m.Errorf("peeked: %+v", got)
	}
	code, answer, err := m.op.Post(m.Context(), m.c.monToken, "/v1alpha1/namespaces/"+namespace+"/consumers/"+m.name+":listDeadLetters", `{}`)
	if must(m.T, err); code != 401 {
		m.Errorf("a list with a token for somebody else: %d %s", code, answer)
	}
}

// redriven is the answer to a redrive.
type redriven struct {
	Redriven, Skipped int
	Already           int    `json:"already_redriven"`
	Next              string `json:"next_page_token"`
	Problem, Left     string
}

func (m *morgue) redrive(body string) (answer redriven) {
	m.Helper()
	if m.post("/consumers/"+m.name+":redriveDeadLetters", body, &answer); answer.Problem != "" {
		m.Errorf("redrive %s: %+v", body, answer)
	}
	return answer
}

// giveAgain redrives one, then the rest.
func (m *morgue) giveAgain() {
	if got := m.redrive(`{"all": true, "dry_run": true}`); got.Redriven != 3 || got.Left != "3" {
		m.Errorf("a dry run: %+v", got)
	}
	if got := m.redrive(`{"selection": {"message_ids": ["poison", "unknown"]}}`); got.Redriven != 1 {
		m.Errorf("one of them: %+v", got)
	}
	began := time.Now()
	d := m.pull(1)[0]
	if got := d.Message; d.DeliveryAttempt != 1 || got.ID != "poison" || got.Text != "x" || got.Tag != "a" || !strings.HasPrefix(got.Topic, "t_") || got.Properties["p"] != "v" ||
		!slices.Equal(got.Keys, []string{"k"}) || got.Properties["PROXY_REDRIVEN_FROM"] == "" {
		m.Errorf("redriven: %+v", d)
	}
	m.Logf("it came %s after its redrive", time.Since(began).Round(time.Millisecond))
	m.ack(d)
	m.list("listDeadLetters", `{}`, 2)
	if got := m.redrive(`{"all": true}`); got.Redriven != 2 || got.Already > 1 || got.Next != "" || got.Left != "0" {
		m.Errorf("the rest: %+v", got)
	}
	m.ack(m.pull(2)...)
	m.list("listDeadLetters", `{}`, 0)
	if got := m.redrive(`{"all": true}`); got.Redriven != 0 {
		m.Errorf("again: %+v", got)
	}
}

func (m *morgue) ack(ds ...received) {
	m.Helper()
	tokens := make([]string, len(ds))
	for i, d := range ds {
		tokens[i] = d.AckToken
	}
	body, err := json.Marshal(map[string]any{"ack_tokens": tokens})
	must(m.T, err)
	var answer struct {
		Results []struct{ Outcome, Detail string }
	}
	m.post("/consumers/"+m.name+":ack", string(body), &answer)
	for _, r := range answer.Results {
		if r.Outcome != "OK" {
			m.Errorf("ack: %+v", r)
		}
	}
}

// TestAHostIsKilledInTheMiddleOfARedrive: the caller loses its answer and makes the call again on another host. Every letter is redriven, and none twice.
func TestAHostIsKilledInTheMiddleOfARedrive(t *testing.T) {
	if !long() {
		t.Skip("takes minutes: LONG=1 runs it; package deadletter has a crash at every call")
	}
	c := start(t)
	onDrivers(t, func(t *testing.T, driver string) {
		m := newMorgue(t, c, c.operator(t, localenv.OperatorOptions{}, "connection"), driver)
		const letters, rate = 3000, 500
		m.bury(letters)
		m.list("listDeadLetters", `{"max_letters": 1000}`, 1000)
		var hosts int
		for redriven := 0; ; hosts++ {
			if hosts == 10 {
				t.Fatalf("ten hosts have redriven %d letters", redriven)
			}
			if hosts < 3 {
				go func() {
					time.Sleep(time.Second)
					_ = m.op.Kill() // the test sees whether it did
				}()
			}
			code, answer, err := m.op.Post(t.Context(), c.appToken, "/v1alpha1/namespaces/"+namespace+"/consumers/"+m.name+":redriveDeadLetters",
				fmt.Sprintf(`{"all": true, "max_letters": 10000, "letters_per_second": %d}`, rate))
			if err != nil {
				t.Logf("host %d: %v", hosts, err)
				m.op = c.operator(t, localenv.OperatorOptions{}, "connection")
				c.waitReady(t, "rmqc/"+m.name)
				m.awaitServing()
				continue
			}
			t.Logf("host %d: %d %s", hosts, code, answer)
			if code == 200 && !strings.Contains(string(answer), "next_page_token") {
				break
			}
		}
		if hosts < 3 {
			t.Errorf("%d hosts were killed, want 3", hosts)
		}
		came := map[string]int{}
		for len(came) < letters {
			ds := m.pullSome(min(100, letters-len(came)))
			for _, d := range ds {
				came[d.Message.ID]++
			}
			m.ack(ds...)
		}
		var none struct{ Deliveries []received }
		m.post("/consumers/"+m.name+":pull", `{"max_messages": 10, "wait": "5s"}`, &none)
		twice := len(none.Deliveries)
		for _, n := range came {
			twice += n - 1
		}
		t.Logf("%d letters came, %d of them twice", len(came), twice)
		if twice > 0 {
			t.Errorf("%d letters came twice", twice)
		}
		m.list("listDeadLetters", `{}`, 0)
		c.delete(t, "rmqp/"+m.name, "rmqc/"+m.name) // while there is a host: the last one ends before the objects' own clean-up
	})
}

// awaitServing waits until the new host answers for the Consumer; with ClientGo that is when the dead one's Lease has run out.
func (m *morgue) awaitServing() {
	m.Helper()
	eventually(m.T, 2*time.Minute, "the new host serves the Consumer", func() error {
		code, answer, err := m.op.Post(m.Context(), m.c.appToken, "/v1alpha1/namespaces/"+namespace+"/consumers/"+m.name+":pull", `{"wait": "0s"}`)
		if err == nil && code != 200 {
			err = fmt.Errorf("%d %s", code, answer)
		}
		return err
	})
}

// bury writes n dead letters as RocketMQ's own consumers do: by the group's retry topic, with the retries used up.
func (m *morgue) bury(n int) {
	m.Helper()
	topic, group := m.topic(), "g_"+m.name
	w := wire.New(driver.Connection{NameServers: m.c.broker.NameServers(), AllowAddress: func(string) error { return nil }}, wire.Options{})
	defer w.Close()
	var wg errgroup.Group
	wg.SetLimit(32)
	for i := range n {
		wg.Go(func() error {
			_, err := w.Send(m.Context(), m.c.broker.BrokerAddr(), wire.Outgoing{
				ProducerGroup: group, Topic: wire.RetryTopic(group), BornTime: time.Now(), Body: []byte("body"), Reconsumed: 17, MaxReconsume: 16,
				Properties: map[string]string{"UNIQ_KEY": fmt.Sprintf("letter-%d", i), "RETRY_TOPIC": topic},
			})
			return err
		})
	}
	must(m.T, wg.Wait())
}

func (m *morgue) topic() string {
	m.Helper()
	out, err := m.c.control.Output(m.Context(), "get", "-n", namespace, "rmqc/"+m.name, "-o", "jsonpath={.spec.subscriptions[0].topic}")
	must(m.T, err)
	return out
}
