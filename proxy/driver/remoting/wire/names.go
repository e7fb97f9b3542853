// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import "strings"

// Prefixes of the topics that brokers keep for a group.
const (
	retryPrefix = "%RETRY%"
	dlqPrefix   = "%DLQ%"
)

// WithNamespace is the name of a topic or group as brokers know it.
func WithNamespace(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "%" + name
}

// WithoutNamespace takes the prefix off again. A name of another namespace is left as it is.
func WithoutNamespace(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return strings.TrimPrefix(name, namespace+"%")
}

// RetryTopic is the topic of group's retries; group has its namespace.
func RetryTopic(group string) string { return retryPrefix + group }

// DeadLetterTopic is the topic of group's dead letters; group has its namespace.
func DeadLetterTopic(group string) string { return dlqPrefix + group }
