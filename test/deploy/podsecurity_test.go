// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"context"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// admit asks the API server to create the pod of a template in the operator's namespace, without keeping it.
func admit(template corev1.PodTemplateSpec) error {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "probe", Labels: template.Labels}, Spec: template.Spec}
	_, err := clientset.CoreV1().Pods(operatorNamespace).Create(context.Background(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	return err
}

func TestTheNamespaceEnforcesRestrictedPods(t *testing.T) {
	namespace, err := clientset.CoreV1().Namespaces().Get(context.Background(), operatorNamespace, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := namespace.Labels["pod-security.kubernetes.io/enforce"]; got != "restricted" {
		t.Errorf("pod-security.kubernetes.io/enforce is %q, want restricted", got)
	}
}

func TestTheOperatorsPodIsAdmitted(t *testing.T) {
	if err := admit(deployment(t).Spec.Template); err != nil {
		t.Errorf("the Deployment's pod is refused: %v", err)
	}
}

func TestTheCleanupJobsPodIsAdmitted(t *testing.T) {
	for _, object := range objects(t, render(t, "cleanup")) {
		if object.GetKind() != "Job" {
			continue
		}
		job := &batchv1.Job{}
		convert(t, object, job)
		if err := admit(job.Spec.Template); err != nil {
			t.Errorf("the Job's pod is refused: %v", err)
		}
		return
	}
	t.Fatal("config/cleanup has no Job")
}

// Each of these must be refused; otherwise the admission above would prove nothing.
func TestALessRestrictedPodIsRefused(t *testing.T) {
	cases := map[string]func(*corev1.PodSpec){
		"privileged": func(p *corev1.PodSpec) {
			p.Containers[0].SecurityContext.Privileged = ptr.To(true)
			p.Containers[0].SecurityContext.AllowPrivilegeEscalation = ptr.To(true)
		},
		"as root":               func(p *corev1.PodSpec) { p.SecurityContext.RunAsNonRoot = nil },
		"with capabilities":     func(p *corev1.PodSpec) { p.Containers[0].SecurityContext.Capabilities = nil },
		"without seccomp":       func(p *corev1.PodSpec) { p.SecurityContext.SeccompProfile = nil },
		"on the node's network": func(p *corev1.PodSpec) { p.HostNetwork = true },
	}
	for name, weaken := range cases {
		t.Run(name, func(t *testing.T) {
			template := deployment(t).Spec.Template
			weaken(&template.Spec)
			err := admit(template)
			if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "PodSecurity") {
				t.Errorf("a pod %s was not refused by PodSecurity, got: %v", name, err)
			}
		})
	}
}

// Restricted does not ask for these; we do.
func TestTheRootFilesystemIsReadOnlyAndNoPortIsTheHosts(t *testing.T) {
	for _, container := range deployment(t).Spec.Template.Spec.Containers {
		if !ptr.Deref(container.SecurityContext.ReadOnlyRootFilesystem, false) {
			t.Errorf("container %s can write its root filesystem", container.Name)
		}
		for _, port := range container.Ports {
			if port.HostPort != 0 {
				t.Errorf("container %s takes port %d of the host", container.Name, port.HostPort)
			}
		}
	}
}
