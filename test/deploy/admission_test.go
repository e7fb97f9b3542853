// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const producerManifest = `
apiVersion: proxy.rocketmq.io/v1alpha1
kind: Producer
metadata:
  name: %s
  namespace: default
spec:
  topics: [orders]
  connection:
    nameServers: ["namesrv.example:9876"]
    credentialsSecretRef:
      name: %s
`

// apply applies a Producer that names a Secret, as user.
func applyAs(user, name, secret string) (string, error) {
	return kubectl(fmt.Sprintf(producerManifest, name, secret), "apply", "--server-side", "--as="+user, "-f", "-")
}

func TestWhoNamesASecretMustBeAllowedToReadIt(t *testing.T) {
	mustKubectl(t, "create", "rolebinding", "-n", "default", "mallory-edits", "--clusterrole=rocketmq-proxy-editor", "--user=mallory")
	mustKubectl(t, "create", "rolebinding", "-n", "default", "mallory-views", "--clusterrole=rocketmq-proxy-viewer", "--user=mallory")
	mustKubectl(t, "create", "role", "-n", "default", "one-secret", "--verb=get", "--resource=secrets", "--resource-name=own")
	mustKubectl(t, "create", "rolebinding", "-n", "default", "mallory-one-secret", "--role=one-secret", "--user=mallory")

	// The policy is active a moment after it was stored; until then the API server lets everything pass.
	waitForRefusal(t, "mallory", "stolen", "someone-elses")

	if out, err := applyAs("mallory", "honest", "own"); err != nil {
		t.Errorf("a Secret that the user may read is refused: %v\n%s", err, out)
	}
	out, err := applyAs("mallory", "honest", "someone-elses")
	if err == nil {
		t.Error("an update to a Secret that the user may not read is accepted")
	} else if !strings.Contains(out, "credentialsSecretRef.name: mallory may not get the Secret default/someone-elses") {
		t.Errorf("the refusal does not say which field, who and which Secret: %s", out)
	}
	// Somebody without the Secret may still touch the object as long as the reference stays.
	mustKubectl(t, "create", "rolebinding", "-n", "default", "eve-edits", "--clusterrole=rocketmq-proxy-editor", "--user=eve")
	mustKubectl(t, "create", "rolebinding", "-n", "default", "eve-views", "--clusterrole=rocketmq-proxy-viewer", "--user=eve")
	mustKubectl(t, "label", "--as=eve", "-n", "default", "producers.proxy.rocketmq.io/honest", "touched=yes")
	mustKubectl(t, "delete", "-n", "default", "producers.proxy.rocketmq.io/honest", "--wait=false")

	certificates := func(name, credentials, secret string) (string, error) {
		manifest := fmt.Sprintf(producerManifest, name, credentials) + "    tls: {secretRef: {name: " + secret + "}}\n"
		return kubectl(manifest, "apply", "--server-side", "--as=mallory", "-f", "-")
	}
	if out, err := certificates("encrypted", "own", "own"); err != nil {
		t.Errorf("certificates that the user may read are refused: %v\n%s", err, out)
	}
	// That it may name the credentials does not excuse the certificates.
	out, err = certificates("encrypted", "own", "someone-elses")
	if err == nil {
		t.Error("certificates that the user may not read are accepted")
	} else if !strings.Contains(out, "tls.secretRef.name: mallory may not get the Secret default/someone-elses") {
		t.Errorf("the refusal does not say which field, who and which Secret: %s", out)
	}
	mustKubectl(t, "delete", "-n", "default", "producers.proxy.rocketmq.io/encrypted", "--wait=false")
}

func waitForRefusal(t *testing.T, user, name, secret string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		out, err := kubectl(fmt.Sprintf(producerManifest, name, secret), "apply", "--server-side", "--dry-run=server", "--as="+user, "-f", "-")
		if err != nil && strings.Contains(out, "may not get the Secret") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("30 s after it was applied the policy still lets %s name Secret %s: %v\n%s", user, secret, err, out)
		}
	}
}
