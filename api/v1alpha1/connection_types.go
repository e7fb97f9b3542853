// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import "time"

// Connection says where RocketMQ is and who we are there.
type Connection struct {
	// nameServers are the addresses of RocketMQ's name servers, each host:port ("rocketmq-namesrv.rocketmq:9876", "10.0.0.7:9876",
	// "[2001:db8::7]:9876"). Host names are resolved again and again, so a name server may move. Absent: the name servers that the
	// operator was started with; when it has none, the object is not accepted.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=262
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^([A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?|[[][0-9A-Fa-f:.]+[]]):[0-9]+$') && !self.contains('..')",message="each of connection.nameServers must be host:port, for example rocketmq-namesrv:9876, 10.0.0.7:9876 or [2001:db8::7]:9876, without a scheme and without blanks"
	// +kubebuilder:validation:items:XValidation:rule="!self.startsWith('[') || (self.contains(']:') && isIP(self.substring(1, self.lastIndexOf(']:'))) && ip(self.substring(1, self.lastIndexOf(']:'))).family() == 6)",message="connection.nameServers: only an IPv6 address stands in brackets, for example [2001:db8::7]:9876"
	// +kubebuilder:validation:items:XValidation:rule="!self.matches(':[0-9]+$') || self.matches(':([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$')",message="connection.nameServers: the port must be 1 to 65535, written without leading zeros"
	NameServers []string `json:"nameServers,omitempty"`

	// namespace is the RocketMQ namespace: topics and groups are used as namespace%name. It has nothing to do with the Kubernetes
	// namespace. Absent: no prefix.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9_-]+$')",message="connection.namespace may contain only letters, digits, _ and -: it becomes the prefix of every topic and group"
	Namespace string `json:"namespace,omitempty"`

	// credentialsSecretRef names the Secret with the credentials of RocketMQ's ACL. Absent: no credentials are sent.
	// +optional
	CredentialsSecretRef *CredentialsSecretRef `json:"credentialsSecretRef,omitempty"`

	// tls encrypts the connections to name servers and brokers; "tls: {}" does so with the system's root certificates. The driver ClientGo
	// cannot, so it needs Remoting, or Auto with brokers of 5.0 or newer. Absent: connections are plain TCP.
	// +optional
	TLS *TLS `json:"tls,omitempty"`
}

// TLS says how connections to RocketMQ are encrypted.
type TLS struct {
	// secretRef names the Secret with certificates: ours, and those that RocketMQ's are checked against. Absent: RocketMQ's certificates are checked
	// against the root certificates of the operator's system, and no certificate is shown.
	// +optional
	SecretRef *TLSSecretRef `json:"secretRef,omitempty"`

	// serverName is the name that the certificate of every name server and broker must carry, a host name or an IP address. Brokers are most often
	// announced by their IP address, and then a certificate for a name needs it. Absent: the host or address that is connected to.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="isIP(self) || self.matches('^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?([.][A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*$')",message="connection.tls.serverName must be a host name or an IP address, without a port and without a *"
	ServerName string `json:"serverName,omitempty"`
}

// TLSSecretRef names a Secret of the object's own namespace, in the form of the type kubernetes.io/tls. Its keys, each optional but the last two only
// together: ca.crt (one or more certificates in PEM; without it the system's roots count), tls.crt and tls.key (our certificate and its key in PEM,
// for brokers that ask for one). The operator reads it by name every minute; a changed Secret is proven to work before it replaces the running client.
type TLSSecretRef struct {
	// name is the name of the Secret, in the namespace of the object that refers to it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// CredentialsSecretRef names a Secret of the object's own namespace. Its keys: accessKey and secretKey (required), securityToken (optional).
// The operator reads it by name every minute, and sooner when RocketMQ refuses the credentials; a changed Secret is proven to work before
// it replaces the running client.
type CredentialsSecretRef struct {
	// name is the name of the Secret, in the namespace of the object that refers to it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// Keys of the Secret that connection.credentialsSecretRef names.
const (
	// SecretAccessKey is the name of the account; required, not empty.
	SecretAccessKey = "accessKey"
	// SecretSecretKey signs the requests; required, not empty.
	SecretSecretKey = "secretKey"
	// SecretSecurityToken is a temporary token that some clouds add; optional.
	SecretSecurityToken = "securityToken"
)

// Keys of the Secret that connection.tls.secretRef names.
const (
	// SecretCA holds the certificates that RocketMQ's are checked against; optional.
	SecretCA = "ca.crt"
	// SecretCertificate is what we show to RocketMQ; optional, with SecretPrivateKey only.
	SecretCertificate = "tls.crt"
	// SecretPrivateKey belongs to SecretCertificate; optional, with it only.
	SecretPrivateKey = "tls.key"
)

// DriverName chooses the way to talk to RocketMQ.
//
// +kubebuilder:validation:Enum=Auto;ClientGo;Remoting
type DriverName string

const (
	// DriverAuto leaves the choice to the operator: Remoting when every broker is 5.0 or newer, ClientGo when one is older. status.driver shows it.
	DriverAuto DriverName = "Auto"
	// DriverClientGo is apache/rocketmq-client-go, for brokers 4.x and 5.x.
	DriverClientGo DriverName = "ClientGo"
	// DriverRemoting is our own client of RocketMQ's protocol, for brokers 5.x.
	DriverRemoting DriverName = "Remoting"
)

// CommonSpec is what a Producer and a Consumer share.
type CommonSpec struct {
	// connection says where RocketMQ is and who we are there. Absent: the operator's default name servers, no namespace, no credentials.
	// It may be changed at any time: the new connection is proven to work before it replaces the one in use.
	// +optional
	Connection Connection `json:"connection,omitempty,omitzero"`

	// driver is the way to talk to RocketMQ: Auto, ClientGo (brokers 4.x and 5.x) or Remoting (brokers 5.x); docs/drivers.md compares them. Auto asks
	// the brokers for their version: Remoting when all are 5.0 or newer, else ClientGo; status.driver shows the choice. It may be changed at any time:
	// what is in flight is drained, and the other driver goes on where this one stopped. Absent: Auto.
	// +optional
	// +default="Auto"
	Driver DriverName `json:"driver,omitempty"`

	// suspend stops the object's clients on every host, as deletion does, and keeps the object. Absent: false.
	// +optional
	// +default=false
	Suspend bool `json:"suspend,omitempty"`

	// drainTimeoutSeconds is how long a client may take to finish what is in flight when it is stopped, 0 to 600. Absent: 30.
	// +optional
	// +default=30
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=600
	DrainTimeoutSeconds *int32 `json:"drainTimeoutSeconds,omitempty"`
}

// RateLimit bounds messages and bytes a second. It holds for each host by itself: hosts that counted together would have to ask each other before each
// message.
//
// +kubebuilder:validation:XValidation:rule="has(self.messagesPerSecond) || has(self.bytesPerSecond)",message="rateLimit must have messagesPerSecond or bytesPerSecond; leave rateLimit out for no limit"
type RateLimit struct {
	// messagesPerSecond is how many messages may pass in a second, on each host, 1 to 10000000. Absent: no limit.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000000
	MessagesPerSecond int32 `json:"messagesPerSecond,omitempty"`

	// bytesPerSecond is how many bytes of messages (body, properties, keys, tag and id) may pass in a second, on each host, 1 to 1099511627776 (1 TiB).
	// Absent: no limit.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1099511627776
	BytesPerSecond int64 `json:"bytesPerSecond,omitempty"`
}

// Values for fields that are absent in an object which the API server has not defaulted. They equal the defaults in the schema.
const (
	defaultDrainTimeoutSeconds = 30
	defaultSendTimeoutSeconds  = 3
	defaultRetries             = 2
	defaultMaxMessageBytes     = 4 << 20
	defaultCompressAboveBytes  = 4096
	defaultAckDeadlineSeconds  = 60
	defaultMaxInFlight         = 256
	defaultMaxInFlightBytes    = 64 << 20
	defaultMaxDeliveryAttempts = 16
	defaultMultiplier          = 2
)

// DrainTimeout is drainTimeoutSeconds, or its default.
func (s *CommonSpec) DrainTimeout() time.Duration {
	return seconds(valueOr(s.DrainTimeoutSeconds, defaultDrainTimeoutSeconds))
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }

func valueOr[T any](p *T, absent T) T {
	if p == nil {
		return absent
	}
	return *p
}

func nonZeroOr[T comparable](v, absent T) T {
	var zero T
	if v == zero {
		return absent
	}
	return v
}
