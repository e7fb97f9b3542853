// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"context"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const proxyGroup = "proxy.rocketmq.io"

// may asks the API server, as user, whether user may do it: the same question that every real request is put to.
func may(t *testing.T, user rest.ImpersonationConfig, a authorizationv1.ResourceAttributes) bool {
	t.Helper()
	config := rest.CopyConfig(admin)
	config.Impersonate = user
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &a}}
	answer, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(context.Background(), review, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Status.Allowed
}

func serviceAccount(namespace, name string) rest.ImpersonationConfig {
	return rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + namespace + ":" + name,
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"},
	}
}

type access struct {
	verb, group, resource, subresource, namespace, name string
}

func (a access) attributes() authorizationv1.ResourceAttributes {
	return authorizationv1.ResourceAttributes{Verb: a.verb, Group: a.group, Resource: a.resource, Subresource: a.subresource, Namespace: a.namespace, Name: a.name}
}

// What the code needs, no more: an addition to the role has to be added here with its reason.
func TestTheOperatorMayDoWhatItsWorkNeeds(t *testing.T) {
	operator := serviceAccount(operatorNamespace, operatorName)
	needs := []access{}
	for _, resource := range []string{"producers", "consumers"} {
		for _, verb := range []string{"get", "list", "watch", "patch"} { // patch: the finalizer
			needs = append(needs, access{verb: verb, group: proxyGroup, resource: resource, namespace: "shop"})
		}
		needs = append(needs, access{verb: "patch", group: proxyGroup, resource: resource, subresource: "status", namespace: "shop"})
	}
	for _, verb := range []string{"get", "list", "create", "update", "delete"} { // this host's Lease, and who else lives
		needs = append(needs, access{verb: verb, group: "coordination.k8s.io", resource: "leases", namespace: operatorNamespace})
	}
	for _, verb := range []string{"get", "create", "update"} { // the keys of ack tokens
		needs = append(needs, access{verb: verb, resource: "secrets", namespace: operatorNamespace, name: keysSecret})
	}
	needs = append(needs,
		access{verb: "get", resource: "secrets", namespace: "shop", name: "rocketmq-credentials"},
		access{verb: "create", group: "authentication.k8s.io", resource: "tokenreviews"},
		access{verb: "create", group: "authorization.k8s.io", resource: "subjectaccessreviews"},
		access{verb: "create", group: "events.k8s.io", resource: "events", namespace: "shop"},
	)
	for _, need := range needs {
		if !may(t, operator, need.attributes()) {
			t.Errorf("the operator may not %s %s %s/%s", need.verb, need.namespace, need.resource, need.subresource)
		}
	}
}

func TestTheOperatorMayNotDoMore(t *testing.T) {
	operator := serviceAccount(operatorNamespace, operatorName)
	refused := []access{
		{verb: "list", resource: "secrets"}, {verb: "watch", resource: "secrets"},
		{verb: "list", resource: "secrets", namespace: "shop"}, {verb: "watch", resource: "secrets", namespace: "shop"},
		{verb: "list", resource: "secrets", namespace: operatorNamespace}, {verb: "watch", resource: "secrets", namespace: operatorNamespace},
		{verb: "update", resource: "secrets", namespace: operatorNamespace, name: tlsSecret}, {verb: "patch", resource: "secrets", namespace: operatorNamespace, name: keysSecret},
		{verb: "delete", resource: "secrets", namespace: operatorNamespace, name: keysSecret}, {verb: "update", resource: "secrets", namespace: "shop", name: keysSecret},
		{verb: "create", resource: "secrets", namespace: "shop"}, {verb: "update", resource: "secrets", namespace: "shop"},
		{verb: "patch", resource: "secrets", namespace: "shop"}, {verb: "delete", resource: "secrets", namespace: "shop"},
		{verb: "create", group: proxyGroup, resource: "producers", namespace: "shop"},
		{verb: "delete", group: proxyGroup, resource: "producers", namespace: "shop"},
		{verb: "delete", group: proxyGroup, resource: "consumers", namespace: "shop"},
		// The data plane's verbs are the applications'; the operator asks about them, it does not have them.
		{verb: "send", group: proxyGroup, resource: "producers", namespace: "shop"},
		{verb: "receive", group: proxyGroup, resource: "consumers", namespace: "shop"},
		{verb: "manage", group: proxyGroup, resource: "consumers", namespace: "shop"},
		{verb: "create", group: "coordination.k8s.io", resource: "leases", namespace: "shop"},
		{verb: "list", group: "coordination.k8s.io", resource: "leases"},
		{verb: "delete", group: "coordination.k8s.io", resource: "leases", namespace: "kube-node-lease"},
		{verb: "create", resource: "pods", namespace: operatorNamespace}, {verb: "create", resource: "pods", namespace: "shop"},
		{verb: "delete", resource: "pods", namespace: operatorNamespace}, {verb: "create", resource: "pods", subresource: "exec", namespace: "shop"},
		{verb: "list", resource: "pods"},
		{verb: "create", resource: "serviceaccounts", subresource: "token", namespace: operatorNamespace},
		{verb: "impersonate", resource: "users"}, {verb: "impersonate", resource: "serviceaccounts", namespace: "shop"},
		{verb: "create", group: "rbac.authorization.k8s.io", resource: "rolebindings", namespace: "shop"},
		{verb: "escalate", group: "rbac.authorization.k8s.io", resource: "clusterroles"},
		{verb: "bind", group: "rbac.authorization.k8s.io", resource: "clusterroles"},
		{verb: "update", group: "rbac.authorization.k8s.io", resource: "clusterroles"},
		{verb: "patch", group: "apiextensions.k8s.io", resource: "customresourcedefinitions"},
		{verb: "get", resource: "configmaps", namespace: "shop"},
		{verb: "list", resource: "namespaces"},
	}
	for _, want := range refused {
		if may(t, operator, want.attributes()) {
			t.Errorf("the operator may %s %s/%s in %q; it has no use for that", want.verb, want.resource, want.subresource, want.namespace)
		}
	}
}

// The rights are a closed list: a marker that adds a rule must be seen here.
func TestTheRoleNamesNoWildcard(t *testing.T) {
	role, err := clientset.RbacV1().ClusterRoles().Get(context.Background(), operatorName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	local, err := clientset.RbacV1().Roles(operatorNamespace).Get(context.Background(), operatorName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range append(role.Rules, local.Rules...) {
		for _, part := range [][]string{rule.Verbs, rule.Resources, rule.APIGroups} {
			for _, value := range part {
				if value == "*" {
					t.Errorf("rule %v has a wildcard", rule)
				}
			}
		}
	}
}

// Nothing aggregates the labelled roles here (no controller manager runs), so each is bound by itself and its labels are checked.
func TestPeopleGetWhatTheirRoleSays(t *testing.T) {
	bind := func(user, role string) rest.ImpersonationConfig {
		mustKubectl(t, "create", "rolebinding", "-n", "default", user, "--clusterrole="+role, "--user="+user)
		return rest.ImpersonationConfig{UserName: user, Groups: []string{"system:authenticated"}}
	}
	viewer, editor, data := bind("view-user", "rocketmq-proxy-viewer"), bind("edit-user", "rocketmq-proxy-editor"), bind("data-user", "rocketmq-proxy-data-plane")
	cases := []struct {
		name    string
		user    rest.ImpersonationConfig
		access  access
		allowed bool
	}{
		{"a viewer reads objects", viewer, access{verb: "list", group: proxyGroup, resource: "consumers", namespace: "default"}, true},
		{"a viewer does not write them", viewer, access{verb: "create", group: proxyGroup, resource: "consumers", namespace: "default"}, false},
		{"a viewer does not read messages", viewer, access{verb: "receive", group: proxyGroup, resource: "consumers", namespace: "default"}, false},
		{"an editor creates objects", editor, access{verb: "create", group: proxyGroup, resource: "producers", namespace: "default"}, true},
		{"an editor does not forge status", editor, access{verb: "patch", group: proxyGroup, resource: "producers", subresource: "status", namespace: "default"}, false},
		{"an editor does not read messages", editor, access{verb: "receive", group: proxyGroup, resource: "consumers", namespace: "default"}, false},
		{"the data plane's role receives", data, access{verb: "receive", group: proxyGroup, resource: "consumers", namespace: "default"}, true},
		{"the data plane's role manages", data, access{verb: "manage", group: proxyGroup, resource: "consumers", namespace: "default"}, true},
		{"an editor does not redrive", editor, access{verb: "manage", group: proxyGroup, resource: "consumers", namespace: "default"}, false},
		{"the data plane's role does not see objects", data, access{verb: "get", group: proxyGroup, resource: "consumers", namespace: "default"}, false},
		{"nobody leaves his namespace", data, access{verb: "receive", group: proxyGroup, resource: "consumers", namespace: "kube-system"}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := may(t, c.user, c.access.attributes()); got != c.allowed {
				t.Errorf("allowed: %t, want %t", got, c.allowed)
			}
		})
	}
}

func TestUserRolesAggregateIntoTheClustersOwn(t *testing.T) {
	want := map[string][]string{
		"rocketmq-proxy-viewer":     {"view", "edit", "admin"},
		"rocketmq-proxy-editor":     {"edit", "admin"},
		"rocketmq-proxy-data-plane": {"admin"},
	}
	for name, targets := range want {
		role, err := clientset.RbacV1().ClusterRoles().Get(context.Background(), name, metav1.GetOptions{})
		if err != nil {
			t.Errorf("ClusterRole %s: %v", name, err)
			continue
		}
		for _, target := range []string{"view", "edit", "admin"} {
			if got, wanted := aggregates(role, target), contains(targets, target); got != wanted {
				t.Errorf("%s aggregates to %s: %t, want %t", name, target, got, wanted)
			}
		}
	}
}

func aggregates(role *rbacv1.ClusterRole, target string) bool {
	return role.Labels["rbac.authorization.k8s.io/aggregate-to-"+target] == "true"
}

func contains(list []string, value string) bool {
	for _, v := range list {
		if v == value {
			return true
		}
	}
	return false
}
