// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Finalizer is on every Producer and Consumer that a host may run a client for. It goes when every host has reported that it runs none.
const Finalizer = "proxy.rocketmq.io/shutdown"

// ClientStatus is what the hosts report about a Producer or a Consumer. It never holds a secret.
type ClientStatus struct {
	// observedGeneration is the metadata.generation that the conditions speak of; -1 until a host has looked at the object.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// conditions: Ready is the summary; Accepted, CredentialsReady and Connected are its parts; Reconciling and Stalled say whether
	// something is still going on or waits for the user. Absent: no host has looked at the object yet.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// hosts lists the hosts in trouble, and while the object is being deleted the hosts that have let go of it. Absent: nothing to
	// tell. A healthy object has no entries.
	// +optional
	// +listType=map
	// +listMapKey=host
	// +kubebuilder:validation:MaxItems=1000
	Hosts []HostStatus `json:"hosts,omitempty"`

	// endpoint is where applications reach the proxy over gRPC, host:port. Absent: the operator was not told its own address.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Endpoint string `json:"endpoint,omitempty"`

	// group is the RocketMQ group in effect, without the RocketMQ namespace. Absent: no host has looked at the object yet.
	// +optional
	// +kubebuilder:validation:MaxLength=255
	Group string `json:"group,omitempty"`

	// driver is the driver in effect. Absent: no host has looked at the object yet.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Driver string `json:"driver,omitempty"`
}

// HostState says why a host has an entry in status.hosts.
//
// +kubebuilder:validation:Enum=Failed;Released
type HostState string

const (
	// HostFailed: the host cannot run the client of this generation. The entry goes when it works again.
	HostFailed HostState = "Failed"
	// HostReleased: the object is being deleted and the host runs no client of it any more, and will not start one.
	HostReleased HostState = "Released"
)

// HostStatus is the entry of one host. Each host writes its own only.
type HostStatus struct {
	// host is the name of the host's Lease in the operator's namespace.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Host string `json:"host"`

	// incarnation is the process that wrote this entry: the Lease's holder at that time.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Incarnation string `json:"incarnation"`

	// uid is the object that the entry speaks of. An entry with another UID than the object's own came too late and means nothing.
	// +required
	UID types.UID `json:"uid"`

	// generation is the metadata.generation that the entry speaks of. Absent: the entry does not depend on it.
	// +optional
	Generation int64 `json:"generation,omitempty"`

	// state is Failed or Released.
	// +required
	State HostState `json:"state"`

	// reason is why, one word, the same as in a condition. Absent: nothing failed.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	Reason string `json:"reason,omitempty"`

	// message is why, for people. Absent: nothing failed.
	// +optional
	// +kubebuilder:validation:MaxLength=2048
	Message string `json:"message,omitempty"`

	// since is when the host came into this state.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`

	// receipt says how the client was shut down. Absent: the host ran none.
	// +optional
	Receipt *Receipt `json:"receipt,omitempty"`
}

// Receipt says how a client was shut down.
type Receipt struct {
	// inFlight is the number of messages or sends under way when the drain began. Absent: 0.
	// +optional
	InFlight int32 `json:"inFlight,omitempty"`

	// drained is how many of them were finished in time: acknowledged or sent. Absent: 0.
	// +optional
	Drained int32 `json:"drained,omitempty"`

	// givenBack is how many were returned to RocketMQ because no application had seen them. Absent: 0.
	// +optional
	GivenBack int32 `json:"givenBack,omitempty"`

	// leftLeased is how many stayed with applications; RocketMQ delivers them again at their deadline. Absent: 0.
	// +optional
	LeftLeased int32 `json:"leftLeased,omitempty"`

	// tookMilliseconds is the time from the stop to the end of the client. Absent: 0.
	// +optional
	TookMilliseconds int64 `json:"tookMilliseconds,omitempty"`

	// forced says that the drain deadline ended the wait. Absent: false.
	// +optional
	Forced bool `json:"forced,omitempty"`

	// error is what the shutdown could not free. Absent: nothing was left.
	// +optional
	// +kubebuilder:validation:MaxLength=2048
	Error string `json:"error,omitempty"`
}

// Common gives what Producers and Consumers share, to be read or changed in place.
func (p *Producer) Common() *CommonSpec { return &p.Spec.CommonSpec }

// Reported gives the status, to be read or changed in place.
func (p *Producer) Reported() *ClientStatus { return &p.Status }

// Common gives what Producers and Consumers share, to be read or changed in place.
func (c *Consumer) Common() *CommonSpec { return &c.Spec.CommonSpec }

// Reported gives the status, to be read or changed in place.
func (c *Consumer) Reported() *ClientStatus { return &c.Status.ClientStatus }
