// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"container/heap"
	"container/list"
	"time"

	library "github.com/apache/rocketmq-client-go/v2/consumer"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// status of an arrival.
type status int

const (
	// arriving: it passed the inlet; its callback has not begun, or one before it in its queue has not.
	arriving status = iota
	// waiting: it may be leased.
	waiting
	// leased: a caller of Fetch has it until its deadline.
	leased
	// settling: a nack or a dead letter is being written; the lease cannot be used for anything else meanwhile.
	settling
	// finished: the verdict is given. It is not in the table any more.
	finished
)

// arrival is one message that the library brought, from the inlet until its callback returns.
type arrival struct {
	id      uint64
	queue   *queue
	content driver.Received // as it came; never handed out, but cloned
	size    int64           // content.Bytes()
	// broker is what the wire needs to send the message back or to write it again.
	broker brokerCopy

	status  status
	claimed bool // the callback runs and waits for verdict
	verdict chan library.ConsumeResult

	attempt  int
	lease    uint32 // number of the last lease; 0 = never leased
	deadline time.Time
	latest   time.Time     // the latest deadline that any handle of it says
	inLine   *list.Element // place among the waiting
	inHeap   int           // place among the leased; -1 = none
}

// brokerCopy is what RocketMQ stored of a message beyond what driver.Received shows.
type brokerCopy struct {
	// topic is the topic it was sent to, with its namespace, also when it came from the retry topic.
	topic           string
	commitLogOffset int64
	offsetID        string
	properties      map[string]string
	reconsumed      int
}

// deadlines orders leased arrivals by their deadline. It implements heap.Interface.
type deadlines []*arrival

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].deadline.Before(d[j].deadline) }
func (d deadlines) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].inHeap, d[j].inHeap = i, j
}

// Push is for package heap.
func (d *deadlines) Push(x any) {
	a := x.(*arrival)
	a.inHeap = len(*d)
	*d = append(*d, a)
}

// Pop is for package heap.
func (d *deadlines) Pop() any {
	last := len(*d) - 1
	a := (*d)[last]
	(*d)[last] = nil
	*d = (*d)[:last]
	a.inHeap = -1
	return a
}

func (d *deadlines) put(a *arrival) {
	if a.inHeap >= 0 {
		heap.Fix(d, a.inHeap)
		return
	}
	heap.Push(d, a)
}

func (d *deadlines) remove(a *arrival) {
	if a.inHeap >= 0 {
		heap.Remove(d, a.inHeap)
	}
}
