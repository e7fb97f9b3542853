// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

type flight struct{}
type Window struct{}
type Receiver struct{}
type Sealer struct{}
type Key [32]byte

func RandomKey() Key                                                 { panic("skeleton") }
func NewSealer(keys ...Key) (*Sealer, error)                         { panic("skeleton") }
func NewWindow(c driver.Consumer, o Options) *Window                 { panic("skeleton") }
func (w *Window) SetSettings(s Settings)                             { panic("skeleton") }
func (w *Window) Attach(o ReceiverOptions) (*Receiver, error)        { panic("skeleton") }
func (w *Window) Ack(ctx context.Context, tokens []string) []Result  { panic("skeleton") }
func (w *Window) Nack(ctx context.Context, nacks []Nack) []Result    { panic("skeleton") }
func (w *Window) Modify(ctx context.Context, mods []Modify) []Result { panic("skeleton") }
func (w *Window) InFlight() (messages int, bytes int64)              { panic("skeleton") }
func (w *Window) Err() error                                         { panic("skeleton") }
func (w *Window) Drain(ctx context.Context) DrainReport              { panic("skeleton") }
func (w *Window) Close()                                             { panic("skeleton") }
func (r *Receiver) Ready() <-chan struct{}                           { panic("skeleton") }
func (r *Receiver) Take(maxMessages int, maxBytes int64) []Delivery  { panic("skeleton") }
func (r *Receiver) Written(ds []Delivery)                            { panic("skeleton") }
func (r *Receiver) Unwritten(ds []Delivery)                          { panic("skeleton") }
func (r *Receiver) Draining() <-chan struct{}                        { panic("skeleton") }
func (r *Receiver) Close()                                           { panic("skeleton") }

var _ = time.Now
