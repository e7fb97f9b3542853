// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ProducerSpec is what applications may send, and how.
//
// +kubebuilder:validation:XValidation:rule="has(self.group) == has(oldSelf.group) && (!has(self.group) || self.group == oldSelf.group)",fieldPath=".group",message="group cannot be set, changed or removed later: create another Producer with this group"
// +kubebuilder:validation:XValidation:rule="!has(self.connection) || !has(self.connection.__namespace__) || self.topics.all(t, size(t) + size(self.connection.__namespace__) < 127)",fieldPath=".topics",message="topics: RocketMQ takes at most 127 characters for namespace%topic: shorten the topic or connection.namespace"
// +kubebuilder:validation:XValidation:rule="!has(self.group) || !has(self.connection) || !has(self.connection.__namespace__) || size(self.group) + size(self.connection.__namespace__) < 120",fieldPath=".group",message="group: RocketMQ takes at most 120 characters for namespace%group: shorten the group or connection.namespace"
// +kubebuilder:validation:XValidation:rule="!has(self.connection) || !has(self.connection.tls) || !has(self.driver) || self.driver != 'ClientGo'",fieldPath=".connection.tls",message="connection.tls needs driver Remoting or Auto: ClientGo cannot check certificates; remove tls or change driver"
// +kubebuilder:validation:XValidation:rule="!has(self.transactions) || !has(self.driver) || self.driver != 'ClientGo'",fieldPath=".transactions",message="transactions need driver Remoting or Auto: ClientGo cannot tell whether a commit was done; remove transactions or change driver"
// +kubebuilder:validation:XValidation:rule="!has(self.transactions) || !has(self.transactions.checkURL) || !has(self.idleTimeoutSeconds) || self.idleTimeoutSeconds == 0",fieldPath=".idleTimeoutSeconds",message="idleTimeoutSeconds must be 0 with transactions.checkURL: a client that was stopped asks nobody; use TransactionChecks streams, which keep it running, or remove one of them"
type ProducerSpec struct {
	CommonSpec `json:",inline"`

	// group is the RocketMQ producer group, 1 to 120 characters. It cannot be changed later. Absent: the object's namespace and name,
	// joined by "_"; status.group shows it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=120
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9_|-]+$')",message="group may contain only letters, digits, _, | and -"
	// +kubebuilder:validation:XValidation:rule="!(self in ['DEFAULT_PRODUCER', 'CLIENT_INNER_PRODUCER'])",message="group: RocketMQ keeps this name for itself, choose another one"
	Group string `json:"group,omitempty"`

	// topics are the topics that applications may send to, 1 to 64, without the RocketMQ namespace. With exactly one topic a message
	// need not name it. The list may be changed at any time.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=127
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[A-Za-z0-9_|%-]+$')",message="each of topics may contain only letters, digits, _, |, % and -"
	// +kubebuilder:validation:items:XValidation:rule="!self.startsWith('%RETRY%')",message="topics: only RocketMQ itself writes to retry topics (%RETRY%...), name the topic itself"
	Topics []string `json:"topics"`

	// sendTimeoutSeconds bounds one try to send, 1 to 60. Absent: 3.
	// +optional
	// +default=3
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=60
	SendTimeoutSeconds int32 `json:"sendTimeoutSeconds,omitempty"`

	// retries is how many more tries may follow a failed one, 0 to 5, inside the caller's deadline. Absent: 2.
	// +optional
	// +default=2
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=5
	Retries *int32 `json:"retries,omitempty"`

	// maxMessageBytes is the largest message: body, properties, keys, tag and id together, 1 to 33554432 (32 MiB). Brokers have a limit of their own for
	// the body (maxMessageSize, 4 MiB by default), and a request to the proxy may have 16 MiB unless --max-request-bytes says otherwise. Absent: 4194304.
	// +optional
	// +default=4194304
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=33554432
	MaxMessageBytes int32 `json:"maxMessageBytes,omitempty"`

	// compressAboveBytes is the body size in bytes above which bodies are compressed, 0 to 33554432; 0 never compresses. Absent: 4096.
	// +optional
	// +default=4096
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=33554432
	CompressAboveBytes *int32 `json:"compressAboveBytes,omitempty"`

	// batching puts messages that wait while a send to their topic is under way into one request: Enabled or Disabled. A lone message is
	// never delayed. Absent: Enabled.
	// +optional
	// +default="Enabled"
	Batching Batching `json:"batching,omitempty"`

	// rateLimit bounds what applications may send, on each host. A send passes while less than a second's worth is used up, however large it is, and is
	// refused as a whole, before anything is stored, with RESOURCE_EXHAUSTED and the time to wait, while what passed before is more than that. It may be
	// changed at any time. Absent: no limit.
	// +optional
	RateLimit *RateLimit `json:"rateLimit,omitempty"`

	// deduplicationWindowSeconds is for how long after a message with an id of the application's was stored the same id is not sent again but answered with the
	// first result, 0 to 3600, on each host by itself and for each topic; 0 = every message is sent. The same id with other content is refused. It does not
	// cover a repetition that reaches another host, a client that was opened anew, nor more than 100000 ids (or 32 MiB) at a time, of which the oldest are
	// forgotten first. It may be changed at any time. Absent: 0.
	// +optional
	// +default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=3600
	DeduplicationWindowSeconds int32 `json:"deduplicationWindowSeconds,omitempty"`

	// idleTimeoutSeconds stops the client when nothing was sent for so long, 0 to 604800 (a week); the next message starts it again.
	// Absent: 0, never.
	// +optional
	// +default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=604800
	IdleTimeoutSeconds int32 `json:"idleTimeoutSeconds,omitempty"`

	// transactions lets applications begin transactions: messages that nobody gets before they are committed. They need the driver Remoting, and brokers
	// 5.x; where the brokers have ACL, the credentials need Sub on the topics and on the group beside Pub on the topics. Absent: BeginTransaction is
	// refused.
	// +optional
	Transactions *TransactionsSpec `json:"transactions,omitempty"`
}

// TransactionsSpec is how transactions are done. An empty one, {}, is enough: applications are asked by their TransactionChecks streams.
type TransactionsSpec struct {
	// checkURL is where hosts ask what became of a transaction that nobody has ended, by POST, while no TransactionChecks stream takes the question: http:// or
	// https:// with a certificate that the operator's image trusts. Redirects are not followed, and the operator's rules for addresses apply
	// (--allowed-name-servers). Absent: only streams are asked.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="isURL(self) && url(self).getScheme() in ['http', 'https'] && url(self).getHostname() != '' && !self.contains('@') && !self.contains('#')",message="checkURL must be http://host[:port]/path or https://..., without a user and without #"
	CheckURL string `json:"checkURL,omitempty"`
}

// Batching switches the joining of waiting messages on or off.
//
// +kubebuilder:validation:Enum=Enabled;Disabled
type Batching string

// The two values of spec.batching.
const (
	BatchingEnabled  Batching = "Enabled"
	BatchingDisabled Batching = "Disabled"
)

// SendTimeout is sendTimeoutSeconds, or its default.
func (s *ProducerSpec) SendTimeout() time.Duration {
	return seconds(nonZeroOr(s.SendTimeoutSeconds, defaultSendTimeoutSeconds))
}

// RetriesOrDefault is retries, or its default.
func (s *ProducerSpec) RetriesOrDefault() int { return int(valueOr(s.Retries, defaultRetries)) }

// MaxMessageBytesOrDefault is maxMessageBytes, or its default.
func (s *ProducerSpec) MaxMessageBytesOrDefault() int {
	return int(nonZeroOr(s.MaxMessageBytes, defaultMaxMessageBytes))
}

// CompressAbove is compressAboveBytes, or its default; 0 = never.
func (s *ProducerSpec) CompressAbove() int {
	return int(valueOr(s.CompressAboveBytes, defaultCompressAboveBytes))
}

// IdleTimeout is idleTimeoutSeconds; 0 = never.
func (s *ProducerSpec) IdleTimeout() time.Duration { return seconds(s.IdleTimeoutSeconds) }

// DeduplicationWindow is deduplicationWindowSeconds; 0 = every message is sent.
func (s *ProducerSpec) DeduplicationWindow() time.Duration {
	return seconds(s.DeduplicationWindowSeconds)
}

// Producer lets applications send to some topics of one RocketMQ through the proxy. While it exists every host runs a client for it;
// deleting it shuts the clients down, and it is gone when they are.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=rmqp,categories=rocketmq
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="whether applications can send"
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,description="why, in one word"
// +kubebuilder:printcolumn:name="Group",type=string,JSONPath=`.status.group`,description="the RocketMQ group in effect"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Driver",type=string,priority=1,JSONPath=`.status.driver`,description="the driver in effect"
// +kubebuilder:printcolumn:name="Topics",type=string,priority=1,JSONPath=`.spec.topics`,description="what may be sent to"
type Producer struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what applications may send, and how.
	// +required
	Spec ProducerSpec `json:"spec"`

	// status is what the hosts report.
	// +optional
	// +kubebuilder:default={"observedGeneration":-1}
	Status ClientStatus `json:"status,omitempty"`
}

// ProducerList is a list of Producers.
//
// +kubebuilder:object:root=true
type ProducerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Producer `json:"items"`
}
