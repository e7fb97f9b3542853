// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// Condition types. All of them are always present once a host has looked at the object.
const (
	// ConditionReady is the summary: some host runs the client of this generation and no live host reports a failure. A client that
	// was stopped by its idle time-out counts as ready. The message names the host that is in trouble.
	ConditionReady = "Ready"
	// ConditionAccepted says whether the object can work at all: its group is free, its addresses are allowed, RocketMQ takes its values.
	ConditionAccepted = "Accepted"
	// ConditionCredentialsReady says whether the Secrets (credentials, certificates) are there, complete, and taken by RocketMQ. The message
	// names the Secret and the key that is wrong.
	ConditionCredentialsReady = "CredentialsReady"
	// ConditionConnected says whether the client works: name servers and brokers answer, the topics have routes.
	ConditionConnected = "Connected"
	// ConditionReconciling is True while a client is starting, being replaced, retried or drained (kstatus: in progress).
	ConditionReconciling = "Reconciling"
	// ConditionStalled is True when nothing will change before the user changes the object or what it refers to (kstatus: failed).
	ConditionStalled = "Stalled"
	// ConditionSingleHostDriver is there, and True, only when several hosts are alive and the driver can serve this Consumer on one host
	// only. The message names the host that serves it; receivers that reach another host are sent away with UNAVAILABLE.
	ConditionSingleHostDriver = "SingleHostDriver"
)

// Reasons that more than one condition uses.
const (
	// ReasonPending: no host has got so far yet.
	ReasonPending = "Pending"
	// ReasonSuspended: spec.suspend is true; no client runs.
	ReasonSuspended = "Suspended"
	// ReasonTerminating: the object is being deleted; hosts drain and shut down their clients.
	ReasonTerminating = "Terminating"
	// ReasonSucceeded: nothing is going on and nothing is wrong.
	ReasonSucceeded = "Succeeded"
)

// Reasons of Ready when it is True. When it is False it has the reason of the part that is wrong.
const (
	// ReasonReady: the client of this generation runs.
	ReasonReady = "Ready"
	// ReasonIdle: the client was stopped by its idle time-out and starts at the next use.
	ReasonIdle = "Idle"
)

// Reasons of Accepted.
const (
	// ReasonAccepted: the object can work.
	ReasonAccepted = "Accepted"
	// ReasonGroupInUse: an older object uses the same group of the same RocketMQ.
	ReasonGroupInUse = "GroupInUse"
	// ReasonNameServersMissing: neither the object nor the operator names a name server.
	ReasonNameServersMissing = "NameServersMissing"
	// ReasonAddressRefused: a name server, a broker address or a checkURL is not on the operator's allow-list.
	ReasonAddressRefused = "AddressRefused"
	// ReasonInvalidConfiguration: a value can never work; the message names the field.
	ReasonInvalidConfiguration = "InvalidConfiguration"
	// ReasonInvalidFilter: the broker refuses the SQL filter, or has filters switched off.
	ReasonInvalidFilter = "InvalidFilter"
	// ReasonUnsupported: the driver or the broker cannot do what the object asks for.
	ReasonUnsupported = "Unsupported"
)

// Reasons of CredentialsReady.
const (
	// ReasonCredentialsFound: the Secrets have what is needed; RocketMQ has not refused it.
	ReasonCredentialsFound = "CredentialsFound"
	// ReasonNotRequired: the object names no Secret.
	ReasonNotRequired = "NotRequired"
	// ReasonSecretNotFound: the Secret does not exist in the object's namespace.
	ReasonSecretNotFound = "SecretNotFound"
	// ReasonSecretKeyMissing: the Secret lacks a key that is needed, or it is empty: accessKey or secretKey of credentials; of certificates tls.key beside
	// tls.crt, or every key.
	ReasonSecretKeyMissing = "SecretKeyMissing"
	// ReasonSecretKeyInvalid: a key of the Secret does not hold what it should: no certificate in ca.crt or tls.crt, or a tls.key that does not
	// belong to tls.crt.
	ReasonSecretKeyInvalid = "SecretKeyInvalid"
	// ReasonSecretNotReadable: the API server does not let the operator read the Secret, or cannot be reached.
	ReasonSecretNotReadable = "SecretNotReadable"
	// ReasonCredentialsRefused: RocketMQ refuses the credentials.
	ReasonCredentialsRefused = "CredentialsRefused"
)

// Reasons of Connected, beside ReasonIdle, ReasonSuspended and ReasonPending.
const (
	// ReasonConnected: the client works.
	ReasonConnected = "Connected"
	// ReasonStarting: the client is being started and proven.
	ReasonStarting = "Starting"
	// ReasonDraining: the client finishes what is in flight.
	ReasonDraining = "Draining"
	// ReasonBrokerUnavailable: a name server or a broker cannot be reached or does not answer; it is tried again and again.
	ReasonBrokerUnavailable = "BrokerUnavailable"
	// ReasonBrokerVersionUnknown: spec.driver is Auto and the brokers could not be asked for their version, so the driver cannot be chosen; they are
	// asked again and again. A client that runs stays.
	ReasonBrokerVersionUnknown = "BrokerVersionUnknown"
	// ReasonTopicNotFound: RocketMQ does not know a topic; it is tried again and again.
	ReasonTopicNotFound = "TopicNotFound"
	// ReasonGroupHasClassicMembers: clients that do not pop are in the Consumer's group; it is tried again until they have left.
	ReasonGroupHasClassicMembers = "GroupHasClassicMembers"
	// ReasonStartTimeAhead: spec.startTime has not come yet; the client starts when it has.
	ReasonStartTimeAhead = "StartTimeAhead"
	// ReasonShuttingDown: the host is stopping and starts no client.
	ReasonShuttingDown = "ShuttingDown"
)

// Reasons of Reconciling and Stalled, beside the ones above.
const (
	// ReasonProgressing: a client is starting or being replaced.
	ReasonProgressing = "Progressing"
	// ReasonProgressingWithRetry: the last try failed; another one follows by itself.
	ReasonProgressingWithRetry = "ProgressingWithRetry"
)

// Reasons of SingleHostDriver.
const (
	// ReasonSeveralHosts: more hosts are alive than the driver can use for this Consumer.
	ReasonSeveralHosts = "SeveralHosts"
)
