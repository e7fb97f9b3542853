// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package main

const nothing = "Nothing."

// advice says what to do about a condition's reason.
var advice = map[string]string{
	"Pending":     "Wait a second. If it stays: is the operator running (`kubectl get pods,leases -n rocketmq-proxy-system`), and does it watch this namespace (`--watch-namespaces`)?",
	"Suspended":   "Set `spec.suspend: false` to start it again.",
	"Terminating": "Wait for the drain. `status.hosts` against the Leases of the operator's namespace shows which host has not let go; see \"Delete hangs\".",
	"Succeeded":   nothing,
	"Ready":       nothing,
	"Idle":        "Nothing: the next message starts the client. `spec.idleTimeoutSeconds` is the reason.",
	"Accepted":    nothing,

	"GroupInUse":         "Give this object another `spec.group`, or delete the older object that has it. RocketMQ loses messages when members of one group differ.",
	"NameServersMissing": "Set `spec.connection.nameServers`, or `--default-name-servers` of the operator.",
	"AddressRefused": "The message names the address. Correct it, or allow it by `--allowed-name-servers`. Brokers too: the name server must announce an address " +
		"(`brokerIP1`) that is allowed.",
	"InvalidConfiguration": "The message names the field; change it.",
	"InvalidFilter":        "Correct the expression in a new Consumer (subscriptions cannot change), or set `enablePropertyFilter=true` on the brokers.",
	"Unsupported":          "The message says what. docs/drivers.md has what each driver can do.",

	"CredentialsFound":   nothing,
	"NotRequired":        nothing,
	"SecretNotFound":     "Create the Secret in the object's namespace, or correct the name. It is looked for again every minute at the latest.",
	"SecretKeyMissing":   "The message names the Secret and the key. Credentials need `accessKey` and `secretKey`, both not empty; `tls.crt` and `tls.key` come together.",
	"SecretKeyInvalid":   "The message names the Secret and the key. Put PEM there: certificates in `ca.crt` and `tls.crt`, the key of `tls.crt` in `tls.key`.",
	"SecretNotReadable":  "Has the operator's role been changed? `kubectl auth can-i get secret/<name> -n <namespace> --as=system:serviceaccount:rocketmq-proxy-system:rocketmq-proxy-operator`.",
	"CredentialsRefused": "Correct the Secret, or the account and its permissions in RocketMQ. While an earlier client works it goes on serving.",

	"Connected":              nothing,
	"Starting":               "Wait. If it stays, the Event and the operator's log say at which address it waits.",
	"Draining":               "Wait; at most `spec.drainTimeoutSeconds`.",
	"BrokerUnavailable":      "Are name server and broker up, and does the network policy let the operator out to their ports? It is tried again with back-off, up to a minute apart.",
	"BrokerVersionUnknown":   "As for BrokerUnavailable: the message has the address that does not answer. To start without the brokers' answer, name a driver in `spec.driver`.",
	"TopicNotFound":          "Create the topic, or correct the name (and `connection.namespace`, which becomes its prefix).",
	"GroupHasClassicMembers": "Stop the clients that push or pull in this group (the message names one), or set `driver: ClientGo`, or take another group: messages would be split between both, and retries lost.",
	"StartTimeAhead":         "Nothing: the client starts at `spec.startTime`. If the time is wrong, delete the Consumer and create it anew.",
	"ShuttingDown":           "Nothing: the host stops, another one takes over or the same comes back.",

	"Progressing":          "Wait.",
	"ProgressingWithRetry": "Look at the condition that is False; its message has the error of the last try.",
	"SeveralHosts":         "Nothing, where it is expected: receivers that reach another host get UNAVAILABLE and try again. See \"Several hosts\" for when one replica is the better choice.",
}
