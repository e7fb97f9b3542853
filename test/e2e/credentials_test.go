// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/localenv"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/hack/rocketmq"
)

// user makes a broker user that may do what f does.
func (f *traffic) user(name string) rocketmq.Credentials {
	f.t.Helper()
	user, err := f.c.broker.CreateUser(f.t.Context(), name)
	must(f.t, err)
	f.grant(name)
	return user
}

func (f *traffic) grant(name string) {
	f.t.Helper()
	rights := rocketmq.Rights{Publish: []string{f.topic}, Subscribe: []string{f.topic}, Groups: []string{"g_" + f.name}}
	must(f.t, f.c.broker.Grant(f.t.Context(), name, rights))
}

// secret writes the Secret that both objects name.
func (f *traffic) secret(of rocketmq.Credentials) {
	f.t.Helper()
	must(f.t, f.c.control.Apply(f.t.Context(), fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: %s}\nstringData: {accessKey: %q, secretKey: %q}\n",
		f.name, namespace, of.AccessKey, of.SecretKey)))
}

func (f *traffic) withSecret() string {
	return "connection: {credentialsSecretRef: {name: " + f.name + "}}"
}

// nudge changes what asks for no other client, so that the Secret is read now and not within its 60 s. The long form waits.
func (f *traffic) nudge(drain int) {
	f.t.Helper()
	if !long() {
		f.apply(f.withSecret(), fmt.Sprintf("drainTimeoutSeconds: %d", drain))
	}
}

// members are the clients that serve: the ids of the group's members as the broker lists them. Those of Remoting are no members; they are known by
// the connections of their credentials.
func (f *traffic) members() []string {
	f.t.Helper()
	if f.driver == "Remoting" {
		ids, err := connectionsTo(f.op.PID(), f.c.broker.BrokerAddr())
		must(f.t, err)
		return ids
	}
	connections, err := f.c.broker.ConsumerConnections(f.t.Context(), "g_"+f.name)
	must(f.t, err)
	var ids []string
	for _, connection := range connections {
		ids = append(ids, connection.ClientID)
	}
	return ids
}

// awaitReplaced waits until none of old serves any more, and another one does.
func (f *traffic) awaitReplaced(old []string) {
	f.t.Helper()
	eventually(f.t, 90*time.Second, "another client", func() error {
		now := f.members()
		isOld := func(id string) bool { return slices.Contains(old, id) }
		if len(now) == 0 || slices.ContainsFunc(now, isOld) {
			return fmt.Errorf("before %q, now %q", old, now)
		}
		return nil
	})
	f.c.waitGeneration(f.t, 30*time.Second, f.objects()...)
}

// awaitRefused waits until both objects say that the credentials are refused, and checks that they do not say which ones.
func (f *traffic) awaitRefused(secrets ...rocketmq.Credentials) {
	f.t.Helper()
	for _, object := range f.objects() {
		for _, kind := range []string{"CredentialsReady", "Ready"} {
			message := f.c.awaitCondition(f.t, 90*time.Second, object, kind, "CredentialsRefused")
			for _, secret := range secrets {
				if strings.Contains(message, secret.SecretKey) {
					f.t.Errorf("%s of %s holds a secret: %s", kind, object, message)
				}
			}
		}
	}
}

// TestCredentialsThatAreRotatedUnderLoadLoseNothing is tests.md D10 on a broker that checks them: wrong from the start; then, under load,
// replaced by another user's, by wrong ones, and by the right ones again. The long form goes on with a secret that changes in place.
func TestCredentialsThatAreRotatedUnderLoadLoseNothing(t *testing.T) {
	c := withBroker(t, rocketmq.Options{ACL: true})
	op := c.operator(t, localenv.OperatorOptions{})
	onDriversAtOnce(t, func(t *testing.T, driver string) { rotated(t, c, op, driver) })
}

func rotated(t *testing.T, c *cluster, op *localenv.Operator, driver string) {
	t.Helper()
	f := planTraffic(t, c, op)
	f.driver = driver
	one, two := f.user("one-"+driver), f.user("two-"+driver)
	wrong := rocketmq.Credentials{AccessKey: two.AccessKey, SecretKey: "not-the-secret"}
	f.secret(wrong)
	f.apply(f.withSecret())
	f.awaitRefused(wrong, two)
	code, answer, err := op.Post(t.Context(), c.appToken, "/v1alpha1/namespaces/"+namespace+"/producers/"+f.name+":send", `{"messages":[{"text":"a"}]}`)
	must(t, err)
	if code != http.StatusBadRequest || !strings.Contains(string(answer), "CredentialsRefused") {
		t.Errorf("a send answered %d %s; expected 400 with CredentialsRefused", code, answer)
	}
	f.secret(one)
	f.begin(3, func() *grpc.ClientConn { return c.dial(t, op) }, f.withSecret())
	finish := f.sendInBackground(f.sends(math.MaxInt, 16, 10*time.Millisecond))
	f.awaitAcked(500)

	first := f.members()
	f.secret(two)
	f.nudge(31)
	f.awaitReplaced(first)
	f.awaitNoOldProducer()
	must(t, c.broker.DeleteUser(t.Context(), one.AccessKey)) // whoever still used it would fail now
	f.awaitAcked(500)

	second := f.members()
	f.secret(wrong)
	f.nudge(32)
	f.awaitRefused(wrong, two)
	f.awaitAcked(500)
	now := f.members()
	if slices.ContainsFunc(second, func(id string) bool { return !slices.Contains(now, id) }) {
		t.Errorf("the old client %q did not go on serving while the new credentials were wrong: %q", second, now)
	}
	f.secret(two)
	c.waitGeneration(t, 60*time.Second, f.objects()...)
	f.awaitAcked(500)
	finish()
	counts := f.ledger.Counts()
	if counts.SendRetries != 0 {
		t.Errorf("%d sends had to be tried again", counts.SendRetries)
	}
	t.Logf("rotated to another user, to wrong credentials and back: %+v", counts)
	if long() {
		f.rotateInPlace(two)
	}
	must(t, c.control.Kubectl(t.Context(), discard{}, "delete", "secret", "-n", namespace, f.name)) // a delete needs no Secret
	f.finish()
}

// awaitNoOldProducer waits until the Producer's object has nothing to finish any more. The broker lists producers up to 30 s late, so it
// cannot be asked.
func (f *traffic) awaitNoOldProducer() {
	f.t.Helper()
	eventually(f.t, 60*time.Second, "nothing going on at the Producer", func() error {
		if status, reason, message := f.c.condition(f.t, "rmqp/"+f.name, "Reconciling"); status != "False" {
			return fmt.Errorf("reconciling=%q: %s: %s", status, reason, message)
		}
		samples, err := f.op.Metrics(f.t.Context(), f.c.monToken)
		if err != nil {
			return err
		}
		var draining float64
		for name, n := range samples {
			if strings.HasPrefix(name, "rocketmq_proxy_clients{") && strings.Contains(name, `kind="Producer"`) && strings.Contains(name, `state="Draining"`) {
				draining += n
			}
		}
		if draining != 0 {
			return errors.New("a Producer's client is draining")
		}
		return nil
	})
}

// rotateInPlace is the rotation that cannot be seamless: the user's secret changes at the broker first, so that for a while the client holds one
// that is refused. It must be said, and end by itself once the Secret is right.
func (f *traffic) rotateInPlace(user rocketmq.Credentials) {
	f.t.Helper()
	o := f.sends(math.MaxInt, 8, 20*time.Millisecond)
	o.Prefix, o.Stubborn = o.Prefix+"-in-place", true
	finish := f.sendInBackground(o)
	f.awaitAcked(300)
	rotated, err := f.c.broker.RotateSecret(f.t.Context(), user.AccessKey)
	must(f.t, err)
	f.awaitRefused(user, rotated)
	f.secret(rotated)
	began := time.Now()
	f.c.waitGeneration(f.t, 90*time.Second, f.objects()...)
	f.awaitAcked(300)
	f.t.Logf("secret changed in place: serving again %s after the Secret was right", time.Since(began).Round(100*time.Millisecond))
	finish()
}
