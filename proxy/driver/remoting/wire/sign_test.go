// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// The expected values were computed with: printf '%s' CONTENT | openssl dgst -sha1 -hmac SECRET -binary | base64.
func TestSign(t *testing.T) {
	for _, c := range []struct {
		name string
		who  driver.Credentials
		cmd  Command
		want string
	}{
		{
			"values in the order of names, then the body",
			driver.Credentials{AccessKey: "ak", SecretKey: "sk"},
			Command{Fields: map[string]string{"topic": "T", "b": "2"}, Body: []byte("body")},
			"JbYpOA1UbnJ0S0viTaqCMnwJ5bk=", // ak + 2 + T + body: upper case sorts first
		},
		{
			"the security token is signed too",
			driver.Credentials{AccessKey: "ak", SecretKey: "sk", SecurityToken: "tok"},
			Command{},
			"WkZX4KYUgRSRJ+sa8aFX2LMgkyg=", // ak + tok
		},
		{
			"an older signature is not signed",
			driver.Credentials{AccessKey: "ak", SecretKey: "sk", SecurityToken: "tok"},
			Command{Fields: map[string]string{"Signature": "old"}},
			"WkZX4KYUgRSRJ+sa8aFX2LMgkyg=",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			sign(&c.cmd, c.who)
			fields := make(map[string]string)
			for _, f := range c.cmd.pairs {
				fields[f.name] = f.value
			}
			if got := fields["Signature"]; got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if fields["AccessKey"] != c.who.AccessKey || fields["SecurityToken"] != c.who.SecurityToken || len(fields) != len(c.cmd.pairs) {
				t.Errorf("fields %v", c.cmd.pairs)
			}
		})
	}
}

func TestSignLeavesCommandsAloneWithoutCredentials(t *testing.T) {
	c := Command{Code: 1}
	sign(&c, driver.Credentials{})
	if c.Fields != nil {
		t.Errorf("fields %v", c.Fields)
	}
}

func TestErrorsNeverShowTheSecret(t *testing.T) {
	who := driver.Credentials{AccessKey: "access-7", SecretKey: "secret-7", SecurityToken: "token-7"}
	p := answering(t, func(*Command) *Command { return &Command{Code: CodeNoPermission, Remark: "no"} })
	connection := connectionTo(p.address())
	connection.Credentials = who
	_, err := newClient(t, connection).Route(t.Context(), "T")
	text := fmt.Sprintf("%v %+v %#v", err, err, err)
	for _, secret := range []string{who.AccessKey, who.SecretKey, who.SecurityToken} {
		if strings.Contains(text, secret) {
			t.Errorf("%q is in %s", secret, text)
		}
	}
}
