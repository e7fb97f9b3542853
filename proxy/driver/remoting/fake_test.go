// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"maps"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// Request codes that the fakes answer.
const (
	codeHeartbeat = 34
	codeRoute     = 105
	codeClusters  = 106
	codeSend      = 310
	codeSendBatch = 320
)

// fakeServer answers frames on loopback. It can be stopped, started again on its old or a new port, and made to hang.
type fakeServer struct {
	t      testing.TB
	answer func(*wire.Command) *wire.Command // nil = no answer
	group  sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener
	sockets  map[net.Conn]bool
	accepted int
	requests map[int]int
	addr     string
}

func newFakeServer(t testing.TB, answer func(*wire.Command) *wire.Command) *fakeServer {
	t.Helper()
	s := &fakeServer{t: t, answer: answer, requests: map[int]int{}}
	s.start("127.0.0.1:0")
	t.Cleanup(s.stop)
	return s
}

func (s *fakeServer) start(address string) {
	s.t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		s.t.Fatalf("listen: %v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listener, s.sockets, s.addr = l, map[net.Conn]bool{}, l.Addr().String()
	s.group.Go(func() { s.accept(l) })
}

func (s *fakeServer) accept(l net.Listener) {
	for {
		socket, err := l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		stopped := s.listener != l
		if !stopped {
			s.sockets[socket] = true
			s.accepted++
			s.group.Go(func() { s.serve(socket) })
		}
		s.mu.Unlock()
		if stopped {
			socket.Close()
		}
	}
}

func (s *fakeServer) serve(socket net.Conn) {
	defer socket.Close()
	r := bufio.NewReader(socket)
	for {
		cmd, err := wire.ReadFrame(r)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.requests[cmd.Code]++
		s.mu.Unlock()
		a := s.answer(cmd)
		if a == nil {
			continue
		}
		a.Opaque, a.Flag, a.Version = cmd.Opaque, a.Flag|1, 513
		frame, err := wire.AppendFrame(nil, a)
		if err != nil {
			s.t.Errorf("encode the answer: %v", err)
			return
		}
		if _, err := socket.Write(frame); err != nil {
			return
		}
	}
}

// stop closes the port and all connections.
func (s *fakeServer) stop() {
	s.mu.Lock()
	if s.listener != nil {
		s.listener.Close()
		s.listener = nil
	}
	for socket := range s.sockets {
		socket.Close()
	}
	s.mu.Unlock()
	s.group.Wait()
}

// cut closes all connections.
func (s *fakeServer) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for socket := range s.sockets {
		socket.Close()
		delete(s.sockets, socket)
	}
}

func (s *fakeServer) address() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// asked is how often a request of that code came.
func (s *fakeServer) asked(code int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[code]
}

// askedByCode is how often requests of each code came.
func (s *fakeServer) askedByCode() map[int]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.requests)
}

func (s *fakeServer) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted
}

// fakeBroker stores what is sent to it.
type fakeBroker struct {
	*fakeServer
	name string

	mu     sync.Mutex
	stored map[string]int // by id: how often
	calls  []sent
	// reply, if set, answers sends instead of storing; false = store as usual.
	reply func(cmd *wire.Command, ids []string) (*wire.Command, bool)
}

// sent is one send request.
type sent struct {
	topic, queue, sysFlag string
	ids                   []string
}

func (b *fakeBroker) handle(cmd *wire.Command) *wire.Command {
	if cmd.Code != codeSend && cmd.Code != codeSendBatch {
		return &wire.Command{}
	}
	if cmd.Fields["e"] == strconv.Itoa(1<<30) {
		return &wire.Command{Code: wire.CodeInvalidParameter, Remark: "queueId is illegal"}
	}
	var ids []string
	if cmd.Code == codeSend {
		ids = []string{idIn(cmd.Fields["i"])}
	} else {
		ids = idsOf(cmd.Body)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reply != nil {
		if a, done := b.reply(cmd, ids); done {
			return a
		}
	}
	offset, all := len(b.stored), ""
	for i, id := range ids {
		b.stored[id]++
		if i > 0 {
			all += ","
		}
		all += "offset-id"
	}
	b.calls = append(b.calls, sent{cmd.Fields["b"], cmd.Fields["e"], cmd.Fields["f"], ids})
	return &wire.Command{Fields: map[string]string{"queueId": cmd.Fields["e"], "queueOffset": strconv.Itoa(offset), "msgId": all}}
}

func (b *fakeBroker) replying(reply func(cmd *wire.Command, ids []string) (*wire.Command, bool)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reply = reply
}

// code makes every send fail with that code.
func (b *fakeBroker) code(code int, remark string) {
	b.replying(func(*wire.Command, []string) (*wire.Command, bool) {
		return &wire.Command{Code: code, Remark: remark}, true
	})
}

// hang makes every send wait for ever.
func (b *fakeBroker) hang() {
	b.replying(func(*wire.Command, []string) (*wire.Command, bool) { return nil, true })
}

func (b *fakeBroker) sends() []sent {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls
}

func (b *fakeBroker) has(id string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stored[id]
}

func idIn(properties string) string {
	for len(properties) > 0 {
		var one string
		one, properties = cut(properties, '\x02')
		if name, value := cut(one, '\x01'); name == driver.PropertyID {
			return value
		}
	}
	return ""
}

func cut(s string, at byte) (string, string) {
	for i := range len(s) {
		if s[i] == at {
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// idsOf reads the ids of a batch's body.
func idsOf(body []byte) (ids []string) {
	for len(body) > 0 {
		one := body[:binary.BigEndian.Uint32(body)]
		body = body[len(one):]
		length := binary.BigEndian.Uint32(one[16:])
		ids = append(ids, idIn(string(one[20+length+2:])))
	}
	return ids
}

// fakeRocket is a RocketMQ of fakes: name servers that tell the same routes, and brokers.
type fakeRocket struct {
	t           testing.TB
	driver      *Driver
	nameServers []*fakeServer
	brokers     map[string]*fakeBroker

	mu     sync.Mutex
	topics map[string][]fakeShare
}

type fakeShare struct {
	broker           string
	queues, perm     int
	withoutAddresses bool
}

func newFakeRocket(t testing.TB, nameServers int, brokers ...string) *fakeRocket {
	t.Helper()
	f := &fakeRocket{t: t, driver: New(logr.Discard()), brokers: map[string]*fakeBroker{}, topics: map[string][]fakeShare{}}
	for range nameServers {
		f.nameServers = append(f.nameServers, newFakeServer(t, f.nameServer))
	}
	for _, name := range brokers {
		b := &fakeBroker{name: name, stored: map[string]int{}}
		b.fakeServer = newFakeServer(t, b.handle)
		f.brokers[name] = b
	}
	return f
}

// topic makes or changes a topic.
func (f *fakeRocket) topic(name string, shares ...fakeShare) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.topics[name] = shares
}

// everywhere is a topic of queues queues on every broker.
func (f *fakeRocket) everywhere(name string, queues int) {
	var shares []fakeShare
	for broker := range f.brokers {
		shares = append(shares, fakeShare{broker: broker, queues: queues, perm: 6})
	}
	f.topic(name, shares...)
}

func (f *fakeRocket) nameServer(cmd *wire.Command) *wire.Command {
	if cmd.Code == codeClusters {
		return &wire.Command{Body: []byte(`{"brokerAddrTable":{}}`)}
	}
	f.mu.Lock()
	shares, found := f.topics[cmd.Fields["topic"]]
	f.mu.Unlock()
	if !found {
		return &wire.Command{Code: wire.CodeTopicNotExist, Remark: "no route info of this topic"}
	}
	queues, brokers := []map[string]any{}, []map[string]any{}
	for _, s := range shares {
		addresses := map[string]string{"0": f.brokers[s.broker].address()}
		if s.withoutAddresses {
			addresses = map[string]string{}
		}
		queues = append(queues, map[string]any{"brokerName": s.broker, "readQueueNums": s.queues, "writeQueueNums": s.queues, "perm": s.perm})
		brokers = append(brokers, map[string]any{"cluster": "c", "brokerName": s.broker, "brokerAddrs": addresses})
	}
	body, err := json.Marshal(map[string]any{"queueDatas": queues, "brokerDatas": brokers})
	if err != nil {
		f.t.Errorf("encode a route: %v", err)
	}
	return &wire.Command{Body: body}
}

func (f *fakeRocket) connection() driver.Connection {
	c := driver.Connection{AllowAddress: func(string) error { return nil }}
	for _, s := range f.nameServers {
		c.NameServers = append(c.NameServers, s.address())
	}
	return c
}

func (f *fakeRocket) config(topics ...string) driver.ProducerConfig {
	return driver.ProducerConfig{
		Connection: f.connection(), ClientID: "fake", Group: "producers", Topics: topics,
		SendTimeout: 3 * time.Second, Retries: 2, CompressAbove: 4096, MaxMessageBytes: 4 << 20,
	}
}

func (f *fakeRocket) producer(cfg driver.ProducerConfig) *producer {
	f.t.Helper()
	p, err := f.driver.OpenProducer(within(f.t, 20*time.Second), cfg)
	if err != nil {
		f.t.Fatalf("open the producer: %v", err)
	}
	f.t.Cleanup(func() { mustClose(f.t, p) })
	return p.(*producer)
}
