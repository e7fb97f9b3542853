// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ConsumerSpec is what applications may receive, and how.
//
// +kubebuilder:validation:XValidation:rule="has(self.group) == has(oldSelf.group) && (!has(self.group) || self.group == oldSelf.group)",fieldPath=".group",message="group cannot be changed later: create another Consumer with this group"
// +kubebuilder:validation:XValidation:rule="has(self.subscriptions) == has(oldSelf.subscriptions) && (!has(self.subscriptions) || self.subscriptions == oldSelf.subscriptions)",fieldPath=".subscriptions",message="subscriptions cannot be changed later: members of one group with different subscriptions lose messages; create another Consumer with a group of its own"
// +kubebuilder:validation:XValidation:rule="has(self.startFrom) == has(oldSelf.startFrom) && (!has(self.startFrom) || self.startFrom == oldSelf.startFrom)",fieldPath=".startFrom",message="startFrom cannot be set, changed or removed later: the group already has its position"
// +kubebuilder:validation:XValidation:rule="has(self.startTime) == (has(self.startFrom) && self.startFrom == 'Timestamp')",fieldPath=".startTime",message="startTime is needed with startFrom Timestamp, and belongs to it alone"
// +kubebuilder:validation:XValidation:rule="has(self.startTime) == has(oldSelf.startTime) && (!has(self.startTime) || self.startTime == oldSelf.startTime)",fieldPath=".startTime",message="startTime cannot be set, changed or removed later: the group already has its position"
// +kubebuilder:validation:XValidation:rule="!has(self.connection) || !has(self.connection.__namespace__) || self.subscriptions.all(s, size(s.topic) + size(self.connection.__namespace__) < 127)",fieldPath=".subscriptions",message="subscriptions: RocketMQ takes at most 127 characters for namespace%topic: shorten the topic or connection.namespace"
// +kubebuilder:validation:XValidation:rule="!has(self.connection) || !has(self.connection.__namespace__) || size(self.group) + size(self.connection.__namespace__) < 120",fieldPath=".group",message="group: RocketMQ takes at most 120 characters for namespace%group: shorten the group or connection.namespace"
// +kubebuilder:validation:XValidation:rule="!has(self.connection) || !has(self.connection.tls) || !has(self.driver) || self.driver != 'ClientGo'",fieldPath=".connection.tls",message="connection.tls needs driver Remoting or Auto: ClientGo cannot check certificates; remove tls or change driver"
// +kubebuilder:validation:XValidation:rule="!has(self.idleTimeoutSeconds) || self.idleTimeoutSeconds == 0 || !has(self.driver) || self.driver != 'ClientGo'",fieldPath=".idleTimeoutSeconds",message="idleTimeoutSeconds needs driver Remoting or Auto: each stop of a ClientGo consumer leaves goroutines behind; remove idleTimeoutSeconds or change driver"
// +kubebuilder:validation:XValidation:rule="has(self.model) == has(oldSelf.model) && (!has(self.model) || self.model == oldSelf.model)",fieldPath=".model",message="model cannot be set, changed or removed later: receivers have their positions under it; create another Consumer with a group of its own"
// +kubebuilder:validation:XValidation:rule="!has(self.model) || self.model != 'Broadcasting' || size(self.group) + (has(self.connection) && has(self.connection.__namespace__) ? size(self.connection.__namespace__) + 1 : 0) <= 98",fieldPath=".group",message="group: with model Broadcasting at most 98 characters for namespace%group: each receiver's group has 22 more"
// +kubebuilder:validation:XValidation:rule="!has(self.model) || self.model != 'Broadcasting' || !has(self.driver) || self.driver != 'ClientGo'",fieldPath=".model",message="model Broadcasting needs driver Remoting or Auto: ClientGo keeps no position for a receiver"
// +kubebuilder:validation:XValidation:rule="!has(self.model) || self.model != 'Broadcasting' || !has(self.idleTimeoutSeconds) || self.idleTimeoutSeconds == 0",fieldPath=".idleTimeoutSeconds",message="idleTimeoutSeconds: with model Broadcasting each receiver's client is closed a minute after the receiver has gone; remove idleTimeoutSeconds"
// +kubebuilder:validation:XValidation:rule="!has(self.broadcast) || has(self.model) && self.model == 'Broadcasting'",fieldPath=".broadcast",message="broadcast needs model Broadcasting; remove broadcast, or create another Consumer with that model"
// +kubebuilder:validation:XValidation:rule="has(self.order) == has(oldSelf.order) && (!has(self.order) || self.order == oldSelf.order)",fieldPath=".order",message="order cannot be set, changed or removed later: all members of a group must deliver in order, or none; create another Consumer with a group of its own"
// +kubebuilder:validation:XValidation:rule="!has(self.order) || self.order != 'Ordered' || !has(self.driver) || self.driver != 'ClientGo'",fieldPath=".order",message="order: Ordered needs driver Remoting or Auto: ClientGo has no leases in order; remove order or change driver"
// +kubebuilder:validation:XValidation:rule="!has(self.order) || self.order != 'Ordered' || !has(self.model) || self.model != 'Broadcasting'",fieldPath=".order",message="order: Ordered needs model Clustering: create a Consumer with a group of its own for each receiver in order"
type ConsumerSpec struct {
	CommonSpec `json:",inline"`

	// group is the RocketMQ consumer group, 1 to 120 characters. RocketMQ keeps its position per group, and it must not be used by
	// another Consumer or another program with other subscriptions. It cannot be changed later.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=120
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9_|-]+$')",message="group may contain only letters, digits, _, | and -"
	// +kubebuilder:validation:XValidation:rule="!(self in ['DEFAULT_CONSUMER', 'TOOLS_CONSUMER', 'FILTERSRV_CONSUMER', 'SELF_TEST_C_GROUP']) && !self.startsWith('CID_RMQ_SYS_')",message="group: RocketMQ keeps this name for itself, choose another one"
	Group string `json:"group"`

	// subscriptions are the topics to receive, 1 to 32, each once. They cannot be changed later.
	// +required
	// +listType=map
	// +listMapKey=topic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	Subscriptions []Subscription `json:"subscriptions"`

	// startFrom is where the group begins in a queue in which it has no position yet: Latest, Earliest, or Timestamp with startTime. A group
	// that has a position continues there. It cannot be changed later. Absent: Latest.
	// +optional
	// +default="Latest"
	StartFrom StartFrom `json:"startFrom,omitempty"`

	// startTime is where the group begins with startFrom Timestamp: in every queue at the first message that RocketMQ stored at this time or
	// later, by the broker's clock. While it is ahead no client starts. It cannot be changed later. Absent: startFrom is something else.
	// +optional
	StartTime *metav1.Time `json:"startTime,omitempty"`

	// order is how the messages of a queue are delivered: Unordered, or Ordered, one batch after the other, each to one receiver, and nothing more of the
	// queue before all of a batch are acknowledged; messages with equal sharding keys are in one queue. Ordered needs the driver Remoting, or Auto
	// with brokers of 5.0 or newer, and a group that nobody reads without order. It cannot be changed later. Absent: Unordered.
	// +optional
	// +default="Unordered"
	Order Order `json:"order,omitempty"`

	// ackDeadlineSeconds is how long an application has to acknowledge a delivery before it comes again, 10 to 600; a receiver may ask
	// for another time. Absent: 60.
	// +optional
	// +default=60
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=600
	AckDeadlineSeconds int32 `json:"ackDeadlineSeconds,omitempty"`

	// maxInFlight is how many deliveries may be with applications at a time, per host, 1 to 10000. When so many are, nothing more is
	// fetched from RocketMQ. Absent: 256.
	// +optional
	// +default=256
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	MaxInFlight int32 `json:"maxInFlight,omitempty"`

	// maxInFlightBytes is the same limit in bytes, 1 to 4294967296 (4 GiB). A single larger message is delivered alone. Absent:
	// 67108864 (64 MiB).
	// +optional
	// +default=67108864
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=4294967296
	MaxInFlightBytes int64 `json:"maxInFlightBytes,omitempty"`

	// maxDeliveryAttempts is how often a message is delivered before it goes to the group's dead-letter topic, 1 to 100. Absent: 16.
	// +optional
	// +default=16
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MaxDeliveryAttempts int32 `json:"maxDeliveryAttempts,omitempty"`

	// retryBackoff is when a message comes again that an application has nacked without naming a delay. What was not answered at all comes again at its ack
	// deadline, whatever this says. The driver has the last word: Remoting takes at least 2 s, ClientGo the next longer of RocketMQ's 18 delays; the
	// answer to the nack has the real one. Absent: at once, or as soon as the driver can.
	// +optional
	RetryBackoff *RetryBackoff `json:"retryBackoff,omitempty"`

	// model is who gets a message: Clustering - one of the receivers, or Broadcasting - every receiver. With Broadcasting each receiver names itself by
	// client_id, and its progress is kept under that name at the brokers, so that it goes on wherever it comes again; a new one begins by startFrom. The limits
	// of deliveries (maxInFlight, maxInFlightBytes, rateLimit), attempts and dead letters are then each receiver's own. The driver ClientGo cannot, so it needs
	// Remoting, or Auto with brokers of 5.0 or newer. It cannot be changed later. Absent: Clustering.
	// +optional
	// +default="Clustering"
	Model Model `json:"model,omitempty"`

	// broadcast bounds the receivers of model Broadcasting. It may be changed at any time. Absent: the defaults of its fields.
	// +optional
	Broadcast *Broadcast `json:"broadcast,omitempty"`

	// rateLimit bounds what is fetched for applications, on each host. Deliveries beyond it are not refused but come later: they wait in RocketMQ, where no
	// ack deadline runs. It may be changed at any time. Absent: no limit.
	// +optional
	RateLimit *RateLimit `json:"rateLimit,omitempty"`

	// idleTimeoutSeconds stops the client when no receiver was there for so long, 0 to 604800 (a week); the next receiver starts it again. The driver
	// ClientGo cannot, so it needs Remoting, or Auto with brokers of 5.0 or newer. Absent: 0, never.
	// +optional
	// +default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=604800
	IdleTimeoutSeconds int32 `json:"idleTimeoutSeconds,omitempty"`
}

// RetryBackoff holds exactly one way to choose the delay before a message comes again.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.exponential) && has(self.stepsSeconds))",fieldPath=".stepsSeconds",message="retryBackoff: exponential and stepsSeconds exclude each other, keep one of them"
// +kubebuilder:validation:XValidation:rule="has(self.exponential) || has(self.stepsSeconds)",message="retryBackoff must have exponential or stepsSeconds; leave retryBackoff out for redelivery at once"
type RetryBackoff struct {
	// exponential makes the delay grow with each delivery, up to a cap. Absent: see stepsSeconds.
	// +optional
	Exponential *ExponentialBackoff `json:"exponential,omitempty"`

	// stepsSeconds are the delays after the first delivery, the second and so on, 1 to 32 of them, each 0 to 7200; the last one is for all that follow.
	// Absent: see exponential.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:Minimum=0
	// +kubebuilder:validation:items:Maximum=7200
	StepsSeconds []int32 `json:"stepsSeconds,omitempty"`
}

// ExponentialBackoff is a delay that is multiplied with each delivery.
//
// +kubebuilder:validation:XValidation:rule="self.maxSeconds >= self.initialSeconds",fieldPath=".maxSeconds",message="maxSeconds must not be below initialSeconds"
type ExponentialBackoff struct {
	// initialSeconds is the delay after the first delivery, 1 to 7200.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=7200
	InitialSeconds int32 `json:"initialSeconds"`

	// maxSeconds is the longest delay, from initialSeconds to 7200.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=7200
	MaxSeconds int32 `json:"maxSeconds"`

	// multiplier is by how much the delay grows with each further delivery, 1 to 10. Absent: 2.
	// +optional
	// +default=2
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10
	Multiplier int32 `json:"multiplier,omitempty"`
}

// MultiplierOrDefault is multiplier, or its default.
func (e *ExponentialBackoff) MultiplierOrDefault() int {
	return int(nonZeroOr(e.Multiplier, defaultMultiplier))
}

// Model is who of a Consumer's receivers gets a message.
//
// +kubebuilder:validation:Enum=Clustering;Broadcasting
type Model string

// The two values of spec.model.
const (
	ModelClustering   Model = "Clustering"
	ModelBroadcasting Model = "Broadcasting"
)

// Broadcast bounds the receivers of a broadcasting Consumer. Each has a group of its own at the brokers.
type Broadcast struct {
	// maxReceivers is how many receivers (client ids) there may be, on all hosts, those included that have gone and not expired, 1 to 1000. One more is
	// refused. Absent: 100.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	MaxReceivers int32 `json:"maxReceivers,omitempty"`

	// receiverExpirySeconds is for how long a receiver may be away until its group and its position are deleted at the brokers, 3600 (an hour) to 31536000 (a
	// year). One that comes later is new. Absent: 259200, 3 days, for which brokers keep messages unless they are configured otherwise.
	// +optional
	// +kubebuilder:validation:Minimum=3600
	// +kubebuilder:validation:Maximum=31536000
	ReceiverExpirySeconds int32 `json:"receiverExpirySeconds,omitempty"`
}

const (
	defaultMaxReceivers          = 100
	defaultReceiverExpirySeconds = 259200
)

// Broadcasting reports whether every receiver gets every message.
func (s *ConsumerSpec) Broadcasting() bool { return s.Model == ModelBroadcasting }

// MaxReceivers is broadcast.maxReceivers, or its default.
func (s *ConsumerSpec) MaxReceivers() int {
	if s.Broadcast == nil {
		return defaultMaxReceivers
	}
	return int(nonZeroOr(s.Broadcast.MaxReceivers, defaultMaxReceivers))
}

// ReceiverExpiry is broadcast.receiverExpirySeconds, or its default.
func (s *ConsumerSpec) ReceiverExpiry() time.Duration {
	if s.Broadcast == nil {
		return seconds(defaultReceiverExpirySeconds)
	}
	return seconds(nonZeroOr(s.Broadcast.ReceiverExpirySeconds, defaultReceiverExpirySeconds))
}

// Subscription is one topic and what of it is received.
type Subscription struct {
	// topic is the topic to receive, without the RocketMQ namespace.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=127
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9_|%-]+$')",message="topic may contain only letters, digits, _, |, % and -"
	// +kubebuilder:validation:XValidation:rule="!self.startsWith('%RETRY%')",message="topic: retry topics (%RETRY%...) are received with the group itself, name the topic itself"
	Topic string `json:"topic"`

	// filter chooses messages by tag or by an SQL expression over properties. Absent: every message.
	// +optional
	Filter *Filter `json:"filter,omitempty"`
}

// Filter holds exactly one kind of filter.
//
// +kubebuilder:validation:XValidation:rule="!(has(self.tag) && has(self.sql))",fieldPath=".sql",message="filter: tag and sql exclude each other, keep one of them"
// +kubebuilder:validation:XValidation:rule="has(self.tag) || has(self.sql)",message="filter must have tag or sql; leave filter out to receive every message"
type Filter struct {
	// tag is one tag, or several joined by "||" ("created || paid"). Absent: see sql.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Tag string `json:"tag,omitempty"`

	// sql is an SQL-92 expression over the messages' properties ("amount > 10 AND region = 'eu'"). The broker must have
	// enablePropertyFilter switched on. Absent: see tag.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	SQL string `json:"sql,omitempty"`
}

// Order is how the messages of a queue are delivered.
//
// +kubebuilder:validation:Enum=Unordered;Ordered
type Order string

// The values of spec.order.
const (
	OrderUnordered Order = "Unordered"
	OrderOrdered   Order = "Ordered"
)

// StartFrom is where a group without a position begins.
//
// +kubebuilder:validation:Enum=Latest;Earliest;Timestamp
type StartFrom string

// The values of spec.startFrom.
const (
	StartFromLatest    StartFrom = "Latest"
	StartFromEarliest  StartFrom = "Earliest"
	StartFromTimestamp StartFrom = "Timestamp"
)

// AckDeadline is ackDeadlineSeconds, or its default.
func (s *ConsumerSpec) AckDeadline() time.Duration {
	return seconds(nonZeroOr(s.AckDeadlineSeconds, defaultAckDeadlineSeconds))
}

// MaxInFlightOrDefault is maxInFlight, or its default.
func (s *ConsumerSpec) MaxInFlightOrDefault() int {
	return int(nonZeroOr(s.MaxInFlight, defaultMaxInFlight))
}

// MaxInFlightBytesOrDefault is maxInFlightBytes, or its default.
func (s *ConsumerSpec) MaxInFlightBytesOrDefault() int64 {
	return nonZeroOr(s.MaxInFlightBytes, defaultMaxInFlightBytes)
}

// MaxDeliveryAttemptsOrDefault is maxDeliveryAttempts, or its default.
func (s *ConsumerSpec) MaxDeliveryAttemptsOrDefault() int {
	return int(nonZeroOr(s.MaxDeliveryAttempts, defaultMaxDeliveryAttempts))
}

// Consumer lets applications receive from some topics of one RocketMQ through the proxy, as one consumer group. While it exists a host runs
// a client for it; deleting it shuts the clients down, and it is gone when they are.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=rmqc,categories=rocketmq
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`,description="whether applications can receive"
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`,description="why, in one word"
// +kubebuilder:printcolumn:name="Group",type=string,JSONPath=`.status.group`,description="the RocketMQ group in effect"
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Driver",type=string,priority=1,JSONPath=`.status.driver`,description="the driver in effect"
// +kubebuilder:printcolumn:name="Topics",type=string,priority=1,JSONPath=`.spec.subscriptions`,description="what is received"
type Consumer struct {
	metav1.TypeMeta `json:",inline"`
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec is what applications may receive, and how.
	// +required
	Spec ConsumerSpec `json:"spec"`

	// status is what the hosts report.
	// +optional
	// +kubebuilder:default={"observedGeneration":-1}
	Status ConsumerStatus `json:"status,omitempty"`
}

// ConsumerList is a list of Consumers.
//
// +kubebuilder:object:root=true
type ConsumerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Consumer `json:"items"`
}

// IdleTimeout is idleTimeoutSeconds; 0 = never.
func (s *ConsumerSpec) IdleTimeout() time.Duration { return seconds(s.IdleTimeoutSeconds) }
