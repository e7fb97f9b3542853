// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // RocketMQ's ACL signs with HMAC-SHA1; there is no other choice on the wire.
	"encoding/base64"
	"maps"
	"slices"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// Names of the fields that carry a signature.
const (
	fieldAccessKey     = "AccessKey"
	fieldSignature     = "Signature"
	fieldSecurityToken = "SecurityToken"
)

// sign adds the fields of RocketMQ's ACL to c: HMAC-SHA1 with the secret key over the values of all fields, the access key and the token
// included, in the order of their names, and then the body.
func sign(c *Command, who driver.Credentials) {
	if who.IsZero() {
		return
	}
	if c.Fields == nil {
		c.Fields = make(map[string]string, 3)
	}
	delete(c.Fields, fieldSignature)
	c.Fields[fieldAccessKey] = who.AccessKey
	if who.SecurityToken != "" {
		c.Fields[fieldSecurityToken] = who.SecurityToken
	}
	mac := hmac.New(sha1.New, []byte(who.SecretKey))
	for _, name := range slices.Sorted(maps.Keys(c.Fields)) {
		mac.Write([]byte(c.Fields[name]))
	}
	mac.Write(c.Body)
	c.Fields[fieldSignature] = base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
