// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package rocketmq

import (
	"context"
	"crypto/hmac"
	"crypto/sha1" // the protocol's signature is HMAC-SHA1
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"time"
)

const (
	callTimeout = 10 * time.Second
	maxFrame    = 64 << 20
)

// Request and response codes of RocketMQ's remoting protocol that administration needs.
const (
	codeQueryMessage        = 12
	codeUpdateTopic         = 17
	codeBrokerRuntimeInfo   = 28
	codeClusterInfo         = 106
	codeUpdateGroup         = 200
	codeAllGroups           = 201
	codeConsumerConnections = 203
	codeProducerConnections = 204
	codeDeleteGroup         = 207
	codeConsumeStats        = 208
	codeDeleteTopicBroker   = 215
	codeDeleteTopicNamesrv  = 216
	codeAuthCreateUser      = 3001
	codeAuthUpdateUser      = 3002
	codeAuthDeleteUser      = 3003
	codeAuthCreateACL       = 3006
	codeAuthUpdateACL       = 3007
	codeAuthDeleteACL       = 3008

	responseOK          = 0
	responseSystemError = 1
	responseNotFound    = 22
	responseNotOnline   = 206
)

// ResponseError is the answer of a broker or name server that refused a request.
type ResponseError struct {
	Code   int
	Remark string
}

func (e *ResponseError) Error() string { return fmt.Sprintf("CODE %d: %s", e.Code, e.Remark) }

// Credentials sign requests to a broker with ACL.
type Credentials struct {
	AccessKey string
	SecretKey string
}

// header is a frame's header in its JSON form.
type header struct {
	Code      int               `json:"code"`
	Language  string            `json:"language"`
	Version   int               `json:"version"`
	Opaque    int               `json:"opaque"`
	Flag      int               `json:"flag"`
	Remark    string            `json:"remark,omitempty"`
	ExtFields map[string]string `json:"extFields,omitempty"`
}

// call sends one request on a connection of its own and returns the answer's body. A refusal is a *ResponseError.
func (c *Cluster) call(ctx context.Context, addr string, code int, fields map[string]string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := c.dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close() // one answer has been read by then; nothing can be lost
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // a cancelled caller does not wait
	defer stop()

	frame, err := encode(header{Code: code, Language: "GO", Version: 317, Opaque: 1, ExtFields: sign(c.admin, fields, body)}, body)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(frame); err != nil {
		return nil, fmt.Errorf("send request %d to %s: %w", code, addr, err)
	}
	answer, answerBody, err := decode(conn)
	if err != nil {
		return nil, fmt.Errorf("read the answer of %s to request %d: %w", addr, code, err)
	}
	if answer.Code != responseOK {
		return nil, &ResponseError{Code: answer.Code, Remark: answer.Remark}
	}
	return answerBody, nil
}

func (c *Cluster) dial(ctx context.Context, addr string) (net.Conn, error) {
	secure, err := c.tlsConfig()
	if err != nil {
		return nil, err
	}
	if secure != nil {
		return (&tls.Dialer{Config: secure}).DialContext(ctx, "tcp", addr)
	}
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

// sign adds the three fields of a signed request: HMAC-SHA1 over the field values in the order of their names, then the body.
func sign(as Credentials, fields map[string]string, body []byte) map[string]string {
	if as.AccessKey == "" {
		return fields
	}
	signed := map[string]string{"AccessKey": as.AccessKey}
	maps.Copy(signed, fields)
	var content strings.Builder
	for _, key := range slices.Sorted(maps.Keys(signed)) {
		content.WriteString(signed[key])
	}
	mac := hmac.New(sha1.New, []byte(as.SecretKey))
	mac.Write([]byte(content.String()))
	mac.Write(body)
	signed["Signature"] = base64.StdEncoding.EncodeToString(mac.Sum(nil))
	return signed
}

// encode builds length | header length (its top byte 0 says JSON) | header | body.
func encode(h header, body []byte) ([]byte, error) {
	head, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode the header: %w", err)
	}
	frame := make([]byte, 0, 8+len(head)+len(body))
	frame = binary.BigEndian.AppendUint32(frame, uint32(4+len(head)+len(body)))
	frame = binary.BigEndian.AppendUint32(frame, uint32(len(head)))
	return append(append(frame, head...), body...), nil
}

func decode(r io.Reader) (header, []byte, error) {
	var h header
	var sizes [8]byte
	if _, err := io.ReadFull(r, sizes[:]); err != nil {
		return h, nil, err
	}
	length, headLength := binary.BigEndian.Uint32(sizes[:4]), binary.BigEndian.Uint32(sizes[4:])
	if length < 4 || length > maxFrame || headLength > length-4 {
		return h, nil, fmt.Errorf("a frame of %d bytes with a header of %d", length, headLength)
	}
	rest := make([]byte, length-4)
	if _, err := io.ReadFull(r, rest); err != nil {
		return h, nil, err
	}
	if err := json.Unmarshal(rest[:headLength], &h); err != nil {
		return h, nil, fmt.Errorf("decode the header: %w", err)
	}
	return h, rest[headLength:], nil
}
