// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The application's side, as examples/README.md has it: applied, admitted in a restricted namespace, and with the rights that it needs only.
func TestTheExampleApplicationHasExactlyItsTwoRights(t *testing.T) {
	const shop = "example-shop"
	mustKubectl(t, "create", "namespace", shop)
	mustKubectl(t, "label", "namespace", shop, "pod-security.kubernetes.io/enforce=restricted")
	out := mustKubectl(t, "apply", "-n", shop, "-k", filepath.Join(root, "examples", "kubernetes"))
	if strings.Contains(out, "would violate PodSecurity") {
		t.Errorf("the pods are not restricted: %s", out)
	}
	sender, receiver := serviceAccount(shop, "orders-sender"), serviceAccount(shop, "orders-receiver")
	send := func(namespace, name string) access {
		return access{verb: "send", group: proxyGroup, resource: "producers", namespace: namespace, name: name}
	}
	receive := func(namespace, name string) access {
		return access{verb: "receive", group: proxyGroup, resource: "consumers", namespace: namespace, name: name}
	}
	cases := []struct {
		name    string
		allowed bool
		got     bool
	}{
		{"the sender sends through its Producer", true, may(t, sender, send(shop, "orders").attributes())},
		{"the sender does not send through another", false, may(t, sender, send(shop, "payments").attributes())},
		{"the sender does not send in another namespace", false, may(t, sender, send("default", "orders").attributes())},
		{"the sender does not receive", false, may(t, sender, receive(shop, "orders-mailer").attributes())},
		{"the receiver receives from its Consumer", true, may(t, receiver, receive(shop, "orders-mailer").attributes())},
		{"the receiver does not receive from another", false, may(t, receiver, receive(shop, "other").attributes())},
		{"the receiver does not send", false, may(t, receiver, send(shop, "orders").attributes())},
		{"the receiver does not read the object", false, may(t, receiver, access{verb: "get", group: proxyGroup, resource: "consumers", namespace: shop, name: "orders-mailer"}.attributes())},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.got != c.allowed {
				t.Errorf("allowed: %t, want %t", c.got, c.allowed)
			}
		})
	}
}

// The pods' token must be for the proxy, and useless at the API server.
func TestTheExamplesTokenIsForTheProxyOnly(t *testing.T) {
	const audience = "rocketmq-proxy"
	projected := ""
	for _, object := range objects(t, mustKubectl(t, "kustomize", filepath.Join(root, "examples", "kubernetes"))) {
		if object.GetKind() != "Job" {
			continue
		}
		job := &batchv1.Job{}
		convert(t, object, job)
		for _, volume := range job.Spec.Template.Spec.Volumes {
			if volume.Projected != nil && volume.Projected.Sources[0].ServiceAccountToken != nil {
				projected = volume.Projected.Sources[0].ServiceAccountToken.Audience
			}
		}
	}
	if projected != audience {
		t.Fatalf("the pod's token has the audience %q, want %q", projected, audience)
	}
	args := strings.Join(deployment(t).Spec.Template.Spec.Containers[0].Args, " ")
	if !strings.Contains(args, "--token-audience="+audience) {
		t.Errorf("the operator asks for another audience: %s", args)
	}
	ctx := context.Background()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{GenerateName: "token-", Namespace: "default"}}
	account, err := clientset.CoreV1().ServiceAccounts("default").Create(ctx, account, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{audience}}}
	token, err := clientset.CoreV1().ServiceAccounts("default").CreateToken(ctx, account.Name, request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		audiences []string
		valid     bool
	}{{[]string{audience}, true}, {nil, false}} { // nil: the API server's own
		review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token.Status.Token, Audiences: c.audiences}}
		answer, err := clientset.AuthenticationV1().TokenReviews().Create(ctx, review, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if answer.Status.Authenticated != c.valid {
			t.Errorf("valid for the audiences %v: %t, want %t", c.audiences, answer.Status.Authenticated, c.valid)
		}
	}
}

// The rights name objects; a sample that was renamed would leave the application without any.
func TestTheSamplesAreAcceptedAndAreThoseThatTheExampleUses(t *testing.T) {
	out := mustKubectl(t, "apply", "--dry-run=server", "-n", "default", "-k", filepath.Join(root, "config", "samples"))
	for _, want := range []string{"producer.proxy.rocketmq.io/orders ", "consumer.proxy.rocketmq.io/orders-mailer "} {
		if !strings.Contains(out, want) {
			t.Errorf("the samples have no %s: %s", want, out)
		}
	}
}
