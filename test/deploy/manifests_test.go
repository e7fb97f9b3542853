// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// objects decodes a stream of YAML documents.
func objects(t *testing.T, manifests string) []*unstructured.Unstructured {
	t.Helper()
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifests), 4096)
	var all []*unstructured.Unstructured
	for {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(object); err != nil {
			if err.Error() == "EOF" {
				return all
			}
			t.Fatalf("decode manifests: %v", err)
		}
		if len(object.Object) > 0 {
			all = append(all, object)
		}
	}
}

// convert makes a typed object of one from a manifest.
func convert(t *testing.T, from *unstructured.Unstructured, to any) {
	t.Helper()
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(from.Object, to); err != nil {
		t.Fatal(err)
	}
}

func deployment(t *testing.T) *appsv1.Deployment {
	t.Helper()
	d, err := clientset.AppsV1().Deployments(operatorNamespace).Get(context.Background(), operatorName, metav1.GetOptions{})
	if err != nil {
		t.Fatalf("the Deployment is not there after apply: %v", err)
	}
	return d
}

func TestApplyingTwiceChangesNothing(t *testing.T) {
	before := deployment(t)
	mustKubectl(t, "apply", "--server-side", "-k", filepath.Join(root, "config", "default"))
	if after := deployment(t); after.ResourceVersion != before.ResourceVersion {
		t.Errorf("the second apply wrote the Deployment again: resourceVersion %s, was %s", after.ResourceVersion, before.ResourceVersion)
	}
}

func TestDefaultNeedsNothingButKubernetes(t *testing.T) {
	known := map[string]bool{"": true, "apps": true, "policy": true, "batch": true, "rbac.authorization.k8s.io": true, "networking.k8s.io": true,
		"admissionregistration.k8s.io": true, "apiextensions.k8s.io": true}
	for _, object := range objects(t, render(t, "default")) {
		if group := object.GroupVersionKind().Group; !known[group] {
			t.Errorf("%s %s is of group %q, which a bare API server does not have", object.GetKind(), object.GetName(), group)
		}
	}
}

func TestOverlaysAddWhatTheyName(t *testing.T) {
	cases := map[string][]string{
		"overlays/cert-manager": {"Certificate/rocketmq-proxy-tls", "Issuer/rocketmq-proxy-ca"},
		"overlays/full":         {"Certificate/rocketmq-proxy-tls", "ServiceMonitor/rocketmq-proxy", "PrometheusRule/rocketmq-proxy", "ConfigMap/rocketmq-proxy-dashboard"},
		"cleanup":               {"Job/rocketmq-proxy-cleanup", "NetworkPolicy/allow-cleanup"},
	}
	for folder, want := range cases {
		t.Run(folder, func(t *testing.T) {
			found := map[string]string{}
			for _, object := range objects(t, render(t, folder)) {
				found[object.GetKind()+"/"+object.GetName()] = object.GetNamespace()
			}
			for _, name := range want {
				if namespace, ok := found[name]; !ok || namespace != operatorNamespace {
					t.Errorf("%s is missing or in namespace %q", name, namespace)
				}
			}
		})
	}
}

func TestTheWholeStopFitsIntoTheGracePeriod(t *testing.T) {
	pod := deployment(t).Spec.Template.Spec
	manager := pod.Containers[0]
	flag := func(name string) time.Duration {
		for _, arg := range manager.Args {
			if value, ok := strings.CutPrefix(arg, "--"+name+"="); ok {
				d, err := time.ParseDuration(value)
				if err != nil {
					t.Fatalf("--%s: %v", name, err)
				}
				return d
			}
		}
		t.Fatalf("the container has no --%s", name)
		return 0
	}
	preStop := time.Duration(manager.Lifecycle.PreStop.Sleep.Seconds) * time.Second
	drain, grace, total := flag("drain-timeout"), flag("shutdown-grace"), time.Duration(*pod.TerminationGracePeriodSeconds)*time.Second
	if preStop < 5*time.Second || preStop > 10*time.Second {
		t.Errorf("preStop sleeps %s, want 5 to 10 s", preStop)
	}
	if drain >= grace {
		t.Errorf("--drain-timeout %s must end before --shutdown-grace %s", drain, grace)
	}
	if left := total - preStop - grace; left < 10*time.Second {
		t.Errorf("after preStop and --shutdown-grace only %s are left before the kubelet kills, want at least 10 s", left)
	}
}

// One host serves at any time: while nodes are drained, and while a new version is rolled out.
func TestOneHostAlwaysServes(t *testing.T) {
	d := deployment(t)
	rolling := d.Spec.Strategy.RollingUpdate
	if *d.Spec.Replicas < 2 || rolling == nil || rolling.MaxUnavailable.IntValue() != 0 || rolling.MaxSurge.IntValue() != 1 {
		t.Errorf("%d replicas with strategy %+v; a roll-out must start a host before it stops one", *d.Spec.Replicas, d.Spec.Strategy)
	}
	budget, err := clientset.PolicyV1().PodDisruptionBudgets(operatorNamespace).Get(context.Background(), operatorName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
	if err != nil {
		t.Fatal(err)
	}
	if budget.Spec.MaxUnavailable == nil || budget.Spec.MaxUnavailable.IntValue() != 1 || !selector.Matches(labels.Set(d.Spec.Template.Labels)) {
		t.Errorf("the disruption budget is %+v; it must let one pod of the Deployment go at a time, and one", budget.Spec)
	}
	spread := map[string]bool{}
	for _, c := range d.Spec.Template.Spec.TopologySpreadConstraints {
		selector, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
		if err != nil || !selector.Matches(labels.Set(d.Spec.Template.Labels)) {
			t.Errorf("the constraint for %s does not select the pods: %v", c.TopologyKey, err)
		}
		spread[c.TopologyKey] = c.WhenUnsatisfiable == corev1.ScheduleAnyway // a cluster with one node must get both
	}
	if !spread["topology.kubernetes.io/zone"] || !spread["kubernetes.io/hostname"] {
		t.Errorf("hosts are spread over %v, want zones and nodes, where there is room", spread)
	}
}

func TestGoMemoryLimitIsAShareOfTheContainersLimit(t *testing.T) {
	manager := deployment(t).Spec.Template.Spec.Containers[0]
	limit := manager.Resources.Limits.Memory().Value()
	for _, env := range manager.Env {
		if env.Name != "GOMEMLIMIT" {
			continue
		}
		mib, err := strconv.ParseInt(strings.TrimSuffix(env.Value, "MiB"), 10, 64)
		if err != nil {
			t.Fatalf("GOMEMLIMIT %q: %v", env.Value, err)
		}
		if share := float64(mib<<20) / float64(limit); share < 0.75 || share > 0.85 {
			t.Errorf("GOMEMLIMIT %s is %.0f %% of limits.memory, want 75 to 85", env.Value, share*100)
		}
		return
	}
	t.Error("the container has no GOMEMLIMIT")
}

func TestServicesReachPortsOfThePod(t *testing.T) {
	template := deployment(t).Spec.Template
	named := map[string]int32{}
	for _, port := range template.Spec.Containers[0].Ports {
		named[port.Name] = port.ContainerPort
	}
	want := map[string]map[int32]int32{"rocketmq-proxy": {8081: 8081, 8080: 8080}, "rocketmq-proxy-metrics": {8443: 8443}}
	for name, ports := range want {
		service, err := clientset.CoreV1().Services(operatorNamespace).Get(context.Background(), name, metav1.GetOptions{})
		if err != nil {
			t.Errorf("Service %s: %v", name, err)
			continue
		}
		if !labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(template.Labels)) {
			t.Errorf("Service %s does not select the Deployment's pods", name)
		}
		if len(service.Spec.Ports) != len(ports) {
			t.Errorf("Service %s has %d ports, want %d", name, len(service.Spec.Ports), len(ports))
		}
		for _, port := range service.Spec.Ports {
			if got := named[port.TargetPort.StrVal]; got != ports[port.Port] {
				t.Errorf("Service %s port %d leads to %d, want %d", name, port.Port, got, ports[port.Port])
			}
		}
	}
}

func TestNetworkPoliciesDenyByDefaultAndOpenNamedPortsOnly(t *testing.T) {
	list, err := clientset.NetworkingV1().NetworkPolicies(operatorNamespace).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	template := deployment(t).Spec.Template
	ports := map[string]bool{}
	for _, port := range template.Spec.Containers[0].Ports {
		ports[port.Name] = true
	}
	denies, peers := false, false
	for _, policy := range list.Items {
		if policy.Name == "default-deny" {
			denies = len(policy.Spec.PodSelector.MatchLabels) == 0 && len(policy.Spec.PolicyTypes) == 2 && len(policy.Spec.Ingress)+len(policy.Spec.Egress) == 0
			continue
		}
		if !labels.SelectorFromSet(policy.Spec.PodSelector.MatchLabels).Matches(labels.Set(template.Labels)) {
			t.Errorf("NetworkPolicy %s does not select the operator's pods, so it allows nothing", policy.Name)
		}
		checkIngress(t, policy, ports)
		if policy.Name == "allow-peers" {
			peers = reachesItself(policy)
		}
	}
	if !peers {
		t.Error("no policy lets the operator's pods reach each other's gRPC port, in both directions")
	}
	if !denies {
		t.Error("there is no policy that denies everything in both directions by default")
	}
}

// reachesItself reports whether the policy lets the pods that it selects call each other's gRPC port.
func reachesItself(policy networkingv1.NetworkPolicy) bool {
	own := func(others []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) bool {
		return len(others) == 1 && others[0].PodSelector != nil && others[0].NamespaceSelector == nil && len(ports) == 1 && ports[0].Port.StrVal == "grpc" &&
			maps.Equal(others[0].PodSelector.MatchLabels, policy.Spec.PodSelector.MatchLabels)
	}
	in, out := policy.Spec.Ingress, policy.Spec.Egress
	return len(in) == 1 && own(in[0].From, in[0].Ports) && len(out) == 1 && own(out[0].To, out[0].Ports)
}

func checkIngress(t *testing.T, policy networkingv1.NetworkPolicy, ports map[string]bool) {
	t.Helper()
	for _, rule := range policy.Spec.Ingress {
		if len(rule.From) == 0 || len(rule.Ports) == 0 {
			t.Errorf("NetworkPolicy %s has an ingress rule for everybody or every port", policy.Name)
		}
		for _, port := range rule.Ports {
			if !ports[port.Port.StrVal] {
				t.Errorf("NetworkPolicy %s opens port %q, which the pod does not have", policy.Name, port.Port.String())
			}
		}
	}
}

func TestCertificateCoversEveryServiceAndFillsTheMountedSecret(t *testing.T) {
	mounted := ""
	for _, volume := range deployment(t).Spec.Template.Spec.Volumes {
		if volume.Secret != nil {
			mounted = volume.Secret.SecretName
		}
	}
	if mounted != tlsSecret {
		t.Fatalf("the pod mounts Secret %q, want %q", mounted, tlsSecret)
	}
	for _, object := range objects(t, render(t, "overlays/cert-manager")) {
		if object.GetKind() != "Certificate" || object.GetName() != tlsSecret {
			continue
		}
		names, _, _ := unstructured.NestedStringSlice(object.Object, "spec", "dnsNames")
		secret, _, _ := unstructured.NestedString(object.Object, "spec", "secretName")
		if secret != mounted {
			t.Errorf("cert-manager fills Secret %q, the pod mounts %q", secret, mounted)
		}
		for _, service := range []string{"rocketmq-proxy", "rocketmq-proxy-metrics"} {
			if want := service + "." + operatorNamespace + ".svc"; !strings.Contains(strings.Join(names, " ")+" ", want+" ") {
				t.Errorf("the certificate does not cover %s", want)
			}
		}
		return
	}
	t.Error("the overlay has no certificate for the pod")
}

// TestTheDocumentedCommandMakesTheSecret runs the command of config/README.md as it is written there.
func TestTheDocumentedCommandMakesTheSecret(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(root, "config", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```sh\n(openssl req .*?)```").FindSubmatch(readme)
	if block == nil {
		t.Fatal("config/README.md has no sh block that begins with `openssl req`")
	}
	out, err := shell(t, t.TempDir(), string(block[1]))
	if err != nil {
		t.Fatalf("the documented command fails: %v\n%s", err, out)
	}
	secret, err := clientset.CoreV1().Secrets(operatorNamespace).Get(context.Background(), tlsSecret, metav1.GetOptions{})
	if err != nil {
		t.Fatalf("the documented command made no Secret: %v", err)
	}
	if secret.Type != corev1.SecretTypeTLS {
		t.Errorf("the Secret is of type %s, want %s", secret.Type, corev1.SecretTypeTLS)
	}
	verifyCertificate(t, secret)
}
