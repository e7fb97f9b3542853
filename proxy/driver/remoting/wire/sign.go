// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // RocketMQ's ACL signs with HMAC-SHA1; there is no other choice on the wire.
	"encoding/base64"
	"slices"
	"strings"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// Names of the fields that carry a signature.
const (
	fieldAccessKey     = "AccessKey"
	fieldSignature     = "Signature"
	fieldSecurityToken = "SecurityToken"
	// signatureFields is how many they are.
	signatureFields = 3
)

// sign adds the fields of RocketMQ's ACL to c: HMAC-SHA1 with the secret key over the values of all fields, the access key and the token
// included, in the order of their names, and then the body. The command's fields are in pairs afterwards.
func sign(c *Command, who driver.Credentials) {
	if who.IsZero() {
		return
	}
	signed := make([]field, 0, len(c.pairs)+len(c.Fields)+signatureFields)
	signed = append(signed, c.pairs...)
	for name, value := range c.Fields {
		if name != fieldSignature { // an older one
			signed = append(signed, field{name, value})
		}
	}
	signed = append(signed, field{fieldAccessKey, who.AccessKey})
	if who.SecurityToken != "" {
		signed = append(signed, field{fieldSecurityToken, who.SecurityToken})
	}
	slices.SortFunc(signed, func(a, b field) int { return strings.Compare(a.name, b.name) })
	mac := hmac.New(sha1.New, []byte(who.SecretKey))
	var values []byte
	for _, f := range signed {
		values = append(values, f.value...)
	}
	// Neither can fail: a hash takes everything.
	_, _ = mac.Write(values)
	_, _ = mac.Write(c.Body)
	c.Fields, c.pairs = nil, append(signed, field{fieldSignature, base64.StdEncoding.EncodeToString(mac.Sum(nil))})
}
