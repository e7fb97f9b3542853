// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package rocketmq

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"path/filepath"
)

// newCredentials makes up a secret, so that no test can come to depend on a known one.
func newCredentials(user string) Credentials {
	return Credentials{AccessKey: user, SecretKey: rand.Text()}
}

// Administrator is the first user of a cluster with ACL, with every right; empty without ACL.
func (c *Cluster) Administrator() Credentials { return c.admin }

// aclConf switches the broker's authentication and authorization on, with us as the first user.
func (c *Cluster) aclConf() map[string]string {
	const authn, authz = "org.apache.rocketmq.auth.authentication.provider.", "org.apache.rocketmq.auth.authorization.provider."
	return map[string]string{
		"authConfigPath":                 filepath.Join(c.dir, "auth"),
		"authenticationEnabled":          "true",
		"authenticationProvider":         authn + "DefaultAuthenticationProvider",
		"authenticationMetadataProvider": authn + "LocalAuthenticationMetadataProvider",
		"authorizationEnabled":           "true",
		"authorizationProvider":          authz + "DefaultAuthorizationProvider",
		"authorizationMetadataProvider":  authz + "LocalAuthorizationMetadataProvider",
		"initAuthenticationUser":         fmt.Sprintf(`{"username":%q,"password":%q}`, c.admin.AccessKey, c.admin.SecretKey),
		"innerClientAuthenticationCredentials": fmt.Sprintf(`{"accessKey":%q,"secretKey":%q}`,
			c.admin.AccessKey, c.admin.SecretKey),
	}
}

type userInfo struct {
	Username   string `json:"username"`
	Password   string `json:"password"`
	UserType   string `json:"userType,omitempty"`
	UserStatus string `json:"userStatus,omitempty"`
}

// CreateUser adds a user without any right and returns its credentials; Grant gives it some.
func (c *Cluster) CreateUser(ctx context.Context, name string) (Credentials, error) {
	user := newCredentials(name)
	err := c.sendUser(ctx, codeAuthCreateUser, userInfo{Username: name, Password: user.SecretKey, UserType: "Normal", UserStatus: "enable"})
	if err != nil {
		return Credentials{}, fmt.Errorf("create user %q: %w", name, err)
	}
	return user, nil
}

// RotateSecret gives a user a new secret and returns it; the old one is refused from then on.
func (c *Cluster) RotateSecret(ctx context.Context, name string) (Credentials, error) {
	user := newCredentials(name)
	if err := c.SetSecret(ctx, user); err != nil {
		return Credentials{}, err
	}
	return user, nil
}

// SetSecret makes the broker accept exactly these credentials for the user.
func (c *Cluster) SetSecret(ctx context.Context, user Credentials) error {
	if err := c.sendUser(ctx, codeAuthUpdateUser, userInfo{Username: user.AccessKey, Password: user.SecretKey}); err != nil {
		return fmt.Errorf("change the secret of user %q: %w", user.AccessKey, err)
	}
	return nil
}

// DeleteUser removes a user.
func (c *Cluster) DeleteUser(ctx context.Context, name string) error {
	if _, err := c.askBroker(ctx, codeAuthDeleteUser, map[string]string{"username": name}, nil); err != nil {
		return fmt.Errorf("delete user %q: %w", name, err)
	}
	return nil
}

func (c *Cluster) sendUser(ctx context.Context, code int, user userInfo) error {
	body, err := json.Marshal(user)
	if err != nil {
		return err
	}
	_, err = c.askBroker(ctx, code, map[string]string{"username": user.Username}, body)
	return err
}

// Rights name topics and groups exactly; there are no patterns here.
type Rights struct {
	Publish   []string // topics
	Subscribe []string // topics
	Groups    []string // consumer groups that the user may consume as; each implies its retry topic
}

type policyEntry struct {
	Resource  string   `json:"resource"`
	Actions   []string `json:"actions"`
	SourceIPs []string `json:"sourceIps"`
	Decision  string   `json:"decision"`
}

type policy struct {
	PolicyType string        `json:"policyType"`
	Entries    []policyEntry `json:"entries"`
}

// Grant gives a user rights, once: it fails when the user has some already (Revoke first).
func (c *Cluster) Grant(ctx context.Context, name string, rights Rights) error {
	subject := "User:" + name
	body, err := json.Marshal(map[string]any{
		"subject": subject, "policies": []policy{{PolicyType: "Custom", Entries: rights.entries()}},
	})
	if err != nil {
		return fmt.Errorf("grant rights to user %q: %w", name, err)
	}
	if _, err := c.askBroker(ctx, codeAuthCreateACL, map[string]string{"subject": subject}, body); err != nil {
		return fmt.Errorf("grant rights to user %q: %w", name, err)
	}
	return nil
}

// Revoke takes all rights from a user.
func (c *Cluster) Revoke(ctx context.Context, name string) error {
	if _, err := c.askBroker(ctx, codeAuthDeleteACL, map[string]string{"subject": "User:" + name}, nil); err != nil {
		return fmt.Errorf("revoke the rights of user %q: %w", name, err)
	}
	return nil
}

func (r Rights) entries() []policyEntry {
	actions := map[string][]string{}
	var order []string
	add := func(resource, action string) {
		if _, known := actions[resource]; !known {
			order = append(order, resource)
		}
		actions[resource] = append(actions[resource], action)
	}
	for _, topic := range r.Publish {
		add("Topic:"+topic, "Pub")
	}
	for _, topic := range r.Subscribe {
		add("Topic:"+topic, "Sub")
	}
	for _, group := range r.Groups {
		add("Group:"+group, "Sub")
	}
	entries := []policyEntry{}
	for _, resource := range order {
		entries = append(entries, policyEntry{Resource: resource, Actions: actions[resource], SourceIPs: []string{}, Decision: "Allow"})
	}
	return entries
}
