// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/proxy/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/test/load"
)

// tokens is one Consumer's deliveries on two hosts.
type tokens struct {
	t        *testing.T
	name     string
	a, b     proxyv1alpha1.ConsumerServiceClient
	attempts map[string][]int32 // by message id, as they were delivered
}

// pull takes what comes until all of want have come once more, and answers their tokens by id. More than that is for the caller to find.
func (k *tokens) pull(from proxyv1alpha1.ConsumerServiceClient, within time.Duration, want ...string) map[string]string {
	k.t.Helper()
	got := map[string]string{}
	for end := time.Now().Add(within); ; {
		answer, err := from.Pull(k.t.Context(), &proxyv1alpha1.PullRequest{Namespace: namespace, Consumer: k.name, MaxMessages: 100, Wait: durationpb.New(2 * time.Second)})
		must(k.t, err)
		for _, d := range answer.GetDeliveries() {
			id := d.GetMessage().GetId()
			got[id] = d.GetAckToken()
			k.attempts[id] = append(k.attempts[id], d.GetDeliveryAttempt())
		}
		if !slices.ContainsFunc(want, func(id string) bool { return got[id] == "" }) {
			return got
		}
		if time.Now().After(end) {
			k.t.Fatalf("of %q only %v came within %s", want, k.attempts, within)
		}
	}
}

func (k *tokens) want(what string, result *proxyv1alpha1.TokenResult, want proxyv1alpha1.TokenResult_Outcome) {
	k.t.Helper()
	if result.GetOutcome() != want {
		k.t.Errorf("%s: %s (%s), want %s", what, result.GetOutcome(), result.GetDetail(), want)
	}
}

// ack acknowledges through a host and demands an outcome.
func (k *tokens) ack(what string, through proxyv1alpha1.ConsumerServiceClient, token string, want proxyv1alpha1.TokenResult_Outcome) {
	k.t.Helper()
	for try := 0; ; try++ {
		answer, err := through.Ack(k.t.Context(), &proxyv1alpha1.AckRequest{Namespace: namespace, Consumer: k.name, AckTokens: []string{token}})
		must(k.t, err)
		result := answer.GetResults()[0]
		if result.GetOutcome() != proxyv1alpha1.TokenResult_RETRY || try == 20 {
			k.want(what, result, want)
			return
		}
		load.Backoff(k.t.Context(), try) // as the API asks of applications
	}
}

// extend answers the new token.
func (k *tokens) extend(through proxyv1alpha1.ConsumerServiceClient, token string, by time.Duration) string {
	k.t.Helper()
	return k.tryExtend(through, token, by, proxyv1alpha1.TokenResult_OK)
}

func (k *tokens) tryExtend(through proxyv1alpha1.ConsumerServiceClient, token string, by time.Duration, want proxyv1alpha1.TokenResult_Outcome) string {
	k.t.Helper()
	answer, err := through.ModifyAckDeadline(k.t.Context(), &proxyv1alpha1.ModifyAckDeadlineRequest{
		Namespace: namespace, Consumer: k.name, Modifications: []*proxyv1alpha1.ModifyEntry{{AckToken: token, AckDeadline: durationpb.New(by)}},
	})
	must(k.t, err)
	result := answer.GetResults()[0]
	k.want("an extension", result, want)
	return result.GetNewToken()
}

// nack gives a delivery back.
func (k *tokens) nack(through proxyv1alpha1.ConsumerServiceClient, token string, delay time.Duration) {
	k.t.Helper()
	answer, err := through.Nack(k.t.Context(), &proxyv1alpha1.NackRequest{Namespace: namespace, Consumer: k.name,
		Nacks: []*proxyv1alpha1.NackEntry{{AckToken: token, Delay: durationpb.New(delay)}}})
	must(k.t, err)
	k.want("a nack", answer.GetResults()[0], proxyv1alpha1.TokenResult_OK)
}

// forge changes one character in the middle.
func forge(token string) string {
	i, other := len(token)/2, "A"
	if token[i] == 'A' {
		other = "B"
	}
	return token[:i] + other + token[i+1:]
}

// TestAckTokensTellTheTruthOnTwoHosts is tests.md D4 on a real broker: each case is a message of its own, all delivered by host A at once, so that one wait
// for the end of the leases shows for all of them whether they come again.
func TestAckTokensTellTheTruthOnTwoHosts(t *testing.T) {
	const deadline = 25 * time.Second
	ok, expired, invalid := proxyv1alpha1.TokenResult_OK, proxyv1alpha1.TokenResult_EXPIRED, proxyv1alpha1.TokenResult_INVALID
	c := start(t)
	h := startHosts(t, c)
	name, topic := unique(t), c.topic(t, 4)
	c.apply(t, producer(name, topic), consumer(name, "g_"+name, topic, "ackDeadlineSeconds: "+seconds(deadline)), consumer(name+"-other", "o_"+name, topic))
	c.waitReady(t, "rmqp/"+name, "rmqc/"+name, "rmqc/"+name+"-other")
	k := &tokens{t: t, name: name, attempts: map[string][]int32{},
		a: proxyv1alpha1.NewConsumerServiceClient(c.dial(t, h.ops[0])), b: proxyv1alpha1.NewConsumerServiceClient(c.dial(t, h.ops[1]))}
	acked := []string{"twice", "answer-lost", "other-host", "extended", "extended-there", "extended-other-host", "host-dead", "extended-host-dead", "stranger", "acked-then-extended"}
	again := []string{"late", "late-other-host", "forged", "old-token", "nacked", "old-token-other-host", "old-token-extended-there", "nacked-other-host",
		"old-token-host-dead", "nacked-host-dead"}
	sendAll(t, c, h.ops[0], name, slices.Concat(acked, again))

	began := time.Now()
	token := k.pull(k.a, deadline/2, slices.Concat(acked, again)...)
	k.ack("the first ack", k.a, token["twice"], ok)
	k.ack("the second ack", k.a, token["twice"], ok)
	k.ack("the third ack, through the other host", k.b, token["twice"], ok)
	lost, cancel := context.WithCancel(t.Context())
	time.AfterFunc(2*time.Millisecond, cancel) // whether it was done is unknown: that is the point
	_, _ = k.a.Ack(lost, &proxyv1alpha1.AckRequest{Namespace: namespace, Consumer: name, AckTokens: []string{token["answer-lost"]}})
	k.ack("an ack whose answer was lost, again", k.a, token["answer-lost"], ok)
	k.ack("an ack through the other host", k.b, token["other-host"], ok)
	extended := k.extend(k.a, token["extended"], deadline)
	k.ack("the old token after an extension", k.a, token["extended"], expired)
	k.ack("the new token", k.a, extended, ok)
	k.ack("the new token through the other host", k.b, k.extend(k.a, token["extended-there"], deadline), ok)
	k.ack("the new token of an extension through the other host", k.b, k.extend(k.b, token["extended-other-host"], deadline), ok)
	old := token["old-token"]
	k.extend(k.a, old, deadline)
	k.ack("the old token, and never the new one", k.a, old, expired)
	k.ack("a forged token", k.a, forge(token["forged"]), invalid)
	k.ack("a forged token on the other host", k.b, forge(token["forged"]), invalid)
	stranger := &tokens{t: t, name: name + "-other", a: k.a, b: k.b}
	stranger.ack("a token of another Consumer", k.a, token["stranger"], invalid)
	stranger.ack("a token of another Consumer on the other host", k.b, token["stranger"], invalid)
	k.ack("and of the right one", k.a, token["stranger"], ok)
	k.nack(k.a, token["nacked"], deadline/2)
	k.ack("an ack after the nack", k.a, token["nacked"], expired)
	// Two operations on two hosts, which only the host that delivered can judge.
	k.extend(k.a, token["old-token-other-host"], deadline)
	k.ack("the old token through a host that has not seen the extension", k.b, token["old-token-other-host"], expired)
	k.extend(k.b, token["old-token-extended-there"], deadline)
	k.ack("the old token where it was delivered, after an extension through the other host", k.a, token["old-token-extended-there"], expired)
	k.nack(k.a, token["nacked-other-host"], deadline/2)
	k.ack("an ack through the other host after the nack", k.b, token["nacked-other-host"], expired)
	k.ack("an ack through the other host", k.b, token["acked-then-extended"], ok)
	k.tryExtend(k.a, token["acked-then-extended"], deadline, expired)
	// What only a dead host knew. RocketMQ is asked in its place, and has an OK for tokens that were replaced or nacked; what they are for comes again.
	k.extend(k.a, token["old-token-host-dead"], deadline)
	k.nack(k.a, token["nacked-host-dead"], deadline/2)
	renewed := k.extend(k.a, token["extended-host-dead"], deadline)
	must(t, h.ops[0].Kill())
	k.ack("an ack after the death of the host that delivered", k.b, token["host-dead"], ok)
	k.ack("the old token after the death of the host that extended", k.b, token["old-token-host-dead"], ok)
	k.ack("an ack after the death of the host that nacked", k.b, token["nacked-host-dead"], ok)
	k.ack("the old token after that death, of what is acknowledged with the new one next", k.b, token["extended-host-dead"], ok)
	k.ack("the new token after the death of the host that made it", k.b, renewed, ok)
	if took := time.Since(began); took > deadline {
		t.Fatalf("the machine took %s for what should end before the deadlines of %s", took, deadline)
	}

	h.again(0)
	k.a = proxyv1alpha1.NewConsumerServiceClient(c.dial(t, h.ops[0]))
	time.Sleep(time.Until(began.Add(deadline + time.Second))) // the end of the leases is the fact that is waited for
	k.ack("late, through the host's next incarnation", k.a, token["late"], expired)
	k.ack("late, through the other host", k.b, token["late-other-host"], expired)
	second := k.pull(k.b, 2*deadline, again...)
	for _, id := range again {
		k.ack("the second delivery of "+id, k.b, second[id], ok)
	}
	k.quiet(deadline/2, acked, again)
	c.delete(t, "rmqp/"+name, "rmqc/"+name, "rmqc/"+name+"-other")
}

// quiet demands that nothing more comes, and that each message came as often as it should.
func (k *tokens) quiet(long time.Duration, once, twice []string) {
	k.t.Helper()
	for end := time.Now().Add(long); time.Now().Before(end); {
		k.pull(k.b, time.Second)
	}
	for _, id := range once {
		if got := k.attempts[id]; !slices.Equal(got, []int32{1}) {
			k.t.Errorf("%s was acknowledged and delivered with the attempts %v", id, got)
		}
	}
	for _, id := range twice {
		if got := k.attempts[id]; !slices.Equal(got, []int32{1, 2}) {
			k.t.Errorf("%s should come again once; it was delivered with the attempts %v", id, got)
		}
	}
}

// sendAll sends one message for each id.
func sendAll(t *testing.T, c *cluster, op *localenv.Operator, producer string, ids []string) {
	t.Helper()
	messages := make([]string, len(ids))
	for i, id := range ids {
		messages[i] = fmt.Sprintf(`{"text":"x","id":%q}`, id)
	}
	code, answer, err := op.Post(t.Context(), c.appToken, "/v1alpha1/namespaces/"+namespace+"/producers/"+producer+":send", `{"messages":[`+strings.Join(messages, ",")+`]}`)
	must(t, err)
	if code != 200 || strings.Contains(string(answer), `"error"`) {
		t.Fatalf("send: %d %s", code, answer)
	}
}
