// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bufio"
	"net"
	"sync"
)

// serveEcho answers every command with its own body.
func serveEcho(socket net.Conn) {
	r := bufio.NewReader(socket)
	for {
		c, err := ReadFrame(r)
		if err != nil {
			return
		}
		frame, err := AppendFrame(nil, &Command{Opaque: c.Opaque, Flag: flagResponse, Body: c.Body})
		if err != nil {
			return
		}
		if _, err := socket.Write(frame); err != nil {
			return
		}
	}
}

// serveReversed reads n commands before it answers any, the last one first.
func serveReversed(socket net.Conn, n int, mu *sync.Mutex, held *[][]byte) {
	r := bufio.NewReader(socket)
	for {
		c, err := ReadFrame(r)
		if err != nil {
			return
		}
		frame, err := AppendFrame(nil, &Command{Opaque: c.Opaque, Flag: flagResponse, Body: c.Body})
		if err != nil {
			return
		}
		mu.Lock()
		*held = append(*held, frame)
		ready := len(*held) == n
		mu.Unlock()
		for i := n - 1; ready && i >= 0; i-- {
			if _, err := socket.Write((*held)[i]); err != nil {
				return
			}
		}
	}
}
