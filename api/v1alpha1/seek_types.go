// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// SeekAnnotation on a Consumer moves it: Earliest, Latest, or a time of RFC 3339. Each value is done once; to move to the same place again, take the annotation
// away first, or write the time differently.
const SeekAnnotation = "proxy.rocketmq.io/seek-to"

// SeekByAnnotation is status.seek.by of a seek that the annotation asked for.
const SeekByAnnotation = "annotation"

// ConsumerStatus is what the hosts report about a Consumer.
type ConsumerStatus struct {
	ClientStatus `json:",inline"`

	// seek is the last seek of the Consumer, by its annotation or by a call. Absent: there was none.
	// +optional
	Seek *SeekStatus `json:"seek,omitempty"`

	// lag is roughly what waits for the Consumer in RocketMQ, while that is much: from 1000 messages on, or when the oldest has waited for five minutes. It is
	// written when it has become another size, at most once a minute; the metrics have it exactly. Absent: little waits, or nobody could tell yet.
	// +optional
	Lag *LagStatus `json:"lag,omitempty"`
}

// LagStatus is roughly what waits for a Consumer.
type LagStatus struct {
	// waiting is the number of messages of all topics that waited, retries included.
	// +required
	Waiting int64 `json:"waiting"`

	// oldestAgeSeconds is how long the oldest of them had waited. Absent: it was not known.
	// +optional
	OldestAgeSeconds int64 `json:"oldestAgeSeconds,omitempty"`

	// at is when RocketMQ was asked.
	// +required
	At metav1.Time `json:"at"`
}

// SeekState says how far a seek is.
//
// +kubebuilder:validation:Enum=Moving;Done;Failed
type SeekState string

const (
	// SeekMoving: a host moves the group, or tries again.
	SeekMoving SeekState = "Moving"
	// SeekDone: every queue of every subscription has moved.
	SeekDone SeekState = "Done"
	// SeekFailed: it cannot be done; the message says why. Nothing is tried again.
	SeekFailed SeekState = "Failed"
)

// SeekStatus is a seek: who asked for what, and what became of it.
type SeekStatus struct {
	// id tells this seek from others.
	// +required
	// +kubebuilder:validation:MaxLength=63
	ID string `json:"id"`

	// to is where the group is moved: Earliest, Latest or a time; of a bad annotation its text.
	// +required
	// +kubebuilder:validation:MaxLength=128
	To string `json:"to"`

	// by is who asked: "annotation", or the account of the caller of Seek.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	By string `json:"by,omitempty"`

	// annotation is the value of the annotation proxy.rocketmq.io/seek-to that was seen last; it is done once. Absent: there is none.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	Annotation string `json:"annotation,omitempty"`

	// state is Moving, Done or Failed.
	// +required
	State SeekState `json:"state"`

	// host moves the group, or did.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Host string `json:"host,omitempty"`

	// incarnation is the process on that host. When it is gone before it has finished, another host begins anew.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Incarnation string `json:"incarnation,omitempty"`

	// requestedAt is when the seek was taken up.
	// +optional
	RequestedAt *metav1.Time `json:"requestedAt,omitempty"`

	// completedAt is when it was done or had failed. Absent: it goes on.
	// +optional
	CompletedAt *metav1.Time `json:"completedAt,omitempty"`

	// message is why it has failed or is tried again, for people. Absent: nothing is wrong.
	// +optional
	// +kubebuilder:validation:MaxLength=2048
	Message string `json:"message,omitempty"`

	// mark is how hosts tell what was fetched before the seek; it is the driver's. Absent: nothing has moved yet, or the driver needs none.
	// +optional
	// +kubebuilder:validation:MaxLength=16384
	Mark string `json:"mark,omitempty"`
}
