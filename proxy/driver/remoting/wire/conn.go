// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bufio"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// writeTimeout bounds one write to the socket, of at most roundBytes. A peer that takes nothing for so long is gone.
	writeTimeout = 10 * time.Second
	// roundBytes is how much the writer takes from the queue at once, and the most that it writes with one deadline.
	roundBytes = 256 << 10
	// recordBytes is the size of a TLS record: small frames are joined into one.
	recordBytes = 16 << 10
)

// conn is one connection of a link. The reader goroutine takes answers to their calls; the writer goroutine is the only one that writes. Both
// end when the connection is over.
type conn struct {
	link   *link
	socket net.Conn
	group  sync.WaitGroup // reader and writer
	// lastRead is when the peer's last byte came (UnixNano); proven: it has sent a whole frame, so it speaks the protocol.
	lastRead atomic.Int64
	proven   atomic.Bool

	// Guarded by the link's lock.
	over   bool
	pinged time.Time
}

// startConn starts the goroutines. It wants the link's lock.
func startConn(l *link, socket net.Conn) *conn {
	c := &conn{link: l, socket: socket}
	c.lastRead.Store(time.Now().UnixNano())
	for _, work := range []func(){c.read, c.write} {
		l.client.running.Add(1)
		c.group.Go(func() {
			defer l.client.running.Done()
			work()
		})
	}
	return c
}

func (c *conn) silentFor(now time.Time) time.Duration {
	return time.Duration(now.UnixNano() - c.lastRead.Load())
}

// Read is the socket's, with a note of when: a peer that sends a large answer slowly is alive.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.socket.Read(p)
	if n > 0 {
		c.lastRead.Store(time.Now().UnixNano())
	}
	return n, err
}

func (c *conn) read() {
	r := bufio.NewReaderSize(c, c.link.client.options.ReadBufferBytes)
	for {
		cmd, err := ReadFrame(r)
		if err != nil {
			c.link.end(c, fmt.Errorf("read from %s: %w", c.link.address, err))
			return
		}
		c.proven.Store(true)
		if cmd.IsResponse() {
			c.link.answer(cmd)
		} else {
			c.serve(cmd)
		}
	}
}

// serve takes a request of the peer. One that wants an answer gets one, so that the peer does not wait in vain.
func (c *conn) serve(cmd *Command) {
	var answer *Command
	if c.link.client.options.OnRequest != nil {
		answer = c.link.client.options.OnRequest(c.link.address, cmd)
	}
	if cmd.Flag&flagOneWay != 0 {
		return
	}
	if answer == nil {
		answer = &Command{Code: CodeNotSupported, Remark: fmt.Sprintf("request %d is not supported", cmd.Code)}
	}
	answer.Version, answer.Opaque, answer.Flag = protocolVersion, cmd.Opaque, flagResponse
	c.link.reply(answer)
}

// write sends what is queued, what waits already with one system call.
func (c *conn) write() {
	w := newRoundWriter(c.socket)
	var round []*call
	for {
		round = c.link.takeRound(c, round[:0])
		if len(round) == 0 {
			return
		}
		err := w.write(round)
		for _, x := range round {
			freeFrame(x.frame)
		}
		if err != nil {
			c.link.end(c, fmt.Errorf("write to %s: %w", c.link.address, err))
			return
		}
	}
}

// roundWriter writes rounds of frames.
type roundWriter struct {
	socket net.Conn
	// gathered is what the next write takes, size its bytes; going is what is left of it during the write.
	gathered, going net.Buffers
	size            int
	// joined copies it together for TLS, which would make a record and a system call of each frame. A plain socket takes them as they are.
	joined *bufio.Writer
}

func newRoundWriter(socket net.Conn) *roundWriter {
	w := &roundWriter{socket: socket}
	if _, plain := socket.(*net.TCPConn); !plain {
		w.joined = bufio.NewWriterSize(socket, recordBytes)
	}
	return w
}

// write writes the frames in parts of at most roundBytes, so that each has a deadline of its own: slow is not gone.
func (w *roundWriter) write(round []*call) error {
	for _, x := range round {
		for frame := *x.frame; len(frame) > 0; {
			n := min(len(frame), roundBytes-w.size)
			w.gathered = append(w.gathered, frame[:n])
			w.size += n
			frame = frame[n:]
			if w.size == roundBytes {
				if err := w.flush(); err != nil {
					return err
				}
			}
		}
	}
	return w.flush()
}

func (w *roundWriter) flush() error {
	if w.size == 0 {
		return nil
	}
	if err := w.socket.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if w.joined == nil {
		w.going = w.gathered
		_, err := w.going.WriteTo(w.socket)
		w.gathered, w.size = w.gathered[:0], 0
		return err
	}
	for _, b := range w.gathered {
		if _, err := w.joined.Write(b); err != nil {
			return err
		}
	}
	w.gathered, w.size = w.gathered[:0], 0
	return w.joined.Flush()
}
