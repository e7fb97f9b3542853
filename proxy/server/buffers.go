// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"
)

// bufferExponents are the sizes of the buffers in which requests and answers are put together, as powers of 2: 256 bytes to 1 MiB. grpc-go's own
// pool has nothing between 32 KiB and 1 MiB and clears each buffer as a whole, so that a Send of 32 messages of 1 KiB holds and clears 1 MiB, which costs
// more than all the rest of it.
var bufferExponents = []uint8{8, 12, 14, 15, 16, 17, 18, 19, 20}

// grpc-go takes a pool for its codec in an init function only.
func init() {
	pool, err := mem.NewBinaryTieredBufferPool(bufferExponents...)
	if err != nil {
		panic(err) // sizes that no address has: no input can cause it
	}
	experimental.SetDefaultBufferPool(pool)
}
