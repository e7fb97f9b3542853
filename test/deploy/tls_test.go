// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"os/exec"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// verifyCertificate proves that who trusts ca.crt can talk to both Services.
func verifyCertificate(t *testing.T, secret *corev1.Secret) {
	t.Helper()
	pair, err := tls.X509KeyPair(secret.Data["tls.crt"], secret.Data["tls.key"])
	if err != nil {
		t.Fatalf("tls.crt and tls.key do not belong together: %v", err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(secret.Data["ca.crt"]) {
		t.Fatal("ca.crt holds no certificate; clients have nothing to trust")
	}
	for _, host := range []string{"rocketmq-proxy." + operatorNamespace + ".svc", "rocketmq-proxy-metrics." + operatorNamespace + ".svc"} {
		if _, err := leaf.Verify(x509.VerifyOptions{DNSName: host, Roots: roots}); err != nil {
			t.Errorf("who trusts ca.crt refuses %s: %v", host, err)
		}
	}
}

// shell runs a documented command in dir, with this package's kubectl first in the path and an administrator's kubeconfig.
func shell(t *testing.T, dir, command string) (string, error) {
	t.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", command)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig, "PATH="+assets+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}
