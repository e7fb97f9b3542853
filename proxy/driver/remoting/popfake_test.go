// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// Request codes of consumers.
const (
	codeQueryOffset  = 14
	codeCreateGroup  = 200
	codeMembers      = 203
	codePop          = 200050
	codeAck          = 200051
	codeChange       = 200053
	codeNotification = 200054
	codeBatchAck     = 200151
)

// popBroker lends messages. It is a broker of a fakeRocket.
type popBroker struct {
	name string

	mu     sync.Mutex
	queue  []fakeMessage
	offset int64
	acked  map[string]int // by "queue/offset"
	// reply, if set, answers a request; false = as usual.
	reply func(cmd *wire.Command) (*wire.Command, bool)
}

type fakeMessage struct {
	id, tag string
	born    int64
	// more are properties as they are written.
	more    string
	sysFlag int
}

// popping makes the named brokers of f lend messages.
func (f *fakeRocket) popping() map[string]*popBroker {
	all := map[string]*popBroker{}
	for name, b := range f.brokers {
		p := &popBroker{name: name, acked: map[string]int{}}
		b.answer = p.handle
		all[name] = p
	}
	return all
}

func (b *popBroker) put(n int, tag string) map[string]bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	ids := map[string]bool{}
	for range n {
		m := fakeMessage{id: uuid.NewString(), tag: tag}
		ids[m.id] = true
		b.queue = append(b.queue, m)
	}
	return ids
}

func (b *popBroker) replying(reply func(cmd *wire.Command) (*wire.Command, bool)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reply = reply
}

func (b *popBroker) ackedCount() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.acked)
}

func (b *popBroker) handle(cmd *wire.Command) *wire.Command {
	b.mu.Lock()
	reply := b.reply
	b.mu.Unlock()
	if reply != nil {
		if a, done := reply(cmd); done {
			return a
		}
	}
	switch cmd.Code {
	case codeQueryOffset:
		return &wire.Command{Code: wire.CodeQueryNotFound}
	case codeMembers:
		return &wire.Command{Code: wire.CodeConsumerNotOnline}
	case codeNotification:
		return &wire.Command{Fields: map[string]string{"hasMsg": strconv.FormatBool(b.waits()), "pollingFull": "false"}}
	case codePop:
		return b.pop(cmd)
	case codeAck:
		b.ack(cmd.Fields["queueId"] + "/" + cmd.Fields["offset"])
	case codeBatchAck:
		b.batchAck(cmd.Body)
	case codeChange:
		return &wire.Command{Fields: map[string]string{"popTime": now(), "invisibleTime": cmd.Fields["invisibleTime"], "reviveQid": "0"}}
	}
	return &wire.Command{}
}

func now() string { return strconv.FormatInt(time.Now().UnixMilli(), 10) }

func (b *popBroker) waits() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.queue) > 0
}

func (b *popBroker) ack(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.acked[key]++
}

func (b *popBroker) batchAck(body []byte) {
	var request struct {
		Acks []struct {
			Start int64  `json:"so"`
			Queue int    `json:"q"`
			Bits  string `json:"b"`
		} `json:"acks"`
	}
	if json.Unmarshal(body, &request) != nil {
		return
	}
	for _, a := range request.Acks {
		bits, err := base64.StdEncoding.DecodeString(a.Bits)
		if err != nil {
			return
		}
		for i := range len(bits) * 8 {
			if bits[i/8]&(1<<(i%8)) != 0 {
				b.ack(strconv.Itoa(a.Queue) + "/" + strconv.FormatInt(a.Start+int64(i), 10))
			}
		}
	}
}

// pop answers at once, a long poll a moment later: the fakes answer one request after the other.
func (b *popBroker) pop(cmd *wire.Command) *wire.Command {
	if cmd.Fields["pollTime"] != "0" && !b.waits() {
		time.Sleep(20 * time.Millisecond)
	}
	most, _ := strconv.Atoi(cmd.Fields["maxMsgNums"])
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := b.queue[:min(most, len(b.queue))]
	b.queue = b.queue[len(taken):]
	a := &wire.Command{Code: wire.CodePollTimeout, Fields: map[string]string{
		"popTime": now(), "invisibleTime": cmd.Fields["invisibleTime"], "reviveQid": "0", "restNum": strconv.Itoa(len(b.queue)),
	}}
	if len(taken) == 0 {
		return a
	}
	a.Code = wire.CodeSuccess
	a.Fields["startOffsetInfo"] = "0 0 " + strconv.FormatInt(b.offset, 10)
	for _, m := range taken {
		a.Body = appendMessage(a.Body, cmd.Fields["topic"], b.offset, m)
		b.offset++
	}
	return a
}

// appendMessage writes a message as brokers send it; see wire.DecodeMessages.
func appendMessage(dst []byte, topic string, offset int64, m fakeMessage) []byte {
	start := len(dst)
	u32 := func(n int) { dst = binary.BigEndian.AppendUint32(dst, uint32(n)) }
	u64 := func(n int64) { dst = binary.BigEndian.AppendUint64(dst, uint64(n)) }
	body := "body of " + m.id
	u32(0)
	u32(-626843481)
	u32(0)
	u32(0) // queue
	u32(0)
	u64(offset)
	u64(offset)
	u32(m.sysFlag)
	u64(cmp.Or(m.born, time.Now().UnixMilli()))
	u64(0) // host
	u64(time.Now().UnixMilli())
	u64(0)
	u32(0) // reconsumed
	u64(0)
	u32(len(body))
	dst = append(dst, body...)
	dst = append(append(dst, byte(len(topic))), topic...)
	properties := "UNIQ_KEY\x01" + m.id + "\x02"
	if m.tag != "" {
		properties += "TAGS\x01" + m.tag + "\x02"
	}
	properties += m.more
	dst = append(binary.BigEndian.AppendUint16(dst, uint16(len(properties))), properties...)
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start))
	return dst
}

func (f *fakeRocket) consumerConfig(topic, tag string) driver.ConsumerConfig {
	return driver.ConsumerConfig{
		Connection: f.connection(), ClientID: "fake", Group: "group", StartFrom: driver.Earliest,
		Subscriptions: []driver.Subscription{{Topic: topic, Tag: tag}},
	}
}

func (f *fakeRocket) consumer(cfg driver.ConsumerConfig) *consumer {
	f.t.Helper()
	c, err := f.driver.OpenConsumer(within(f.t, 20*time.Second), cfg)
	if err != nil {
		f.t.Fatalf("open the consumer: %v", err)
	}
	f.t.Cleanup(func() { mustClose(f.t, c) })
	return c.(*consumer)
}

// onlyPops lets reply answer pops, and everything else go its way.
func onlyPops(reply func() *wire.Command) func(*wire.Command) (*wire.Command, bool) {
	return func(cmd *wire.Command) (*wire.Command, bool) {
		if cmd.Code != codePop {
			return nil, false
		}
		return reply(), true
	}
}

func TestGarbageInAnswersEndsNothingAndIsTold(t *testing.T) {
	good := func(body []byte, change ...string) *wire.Command {
		a := &wire.Command{Body: body, Fields: map[string]string{
			"popTime": now(), "invisibleTime": "60000", "reviveQid": "0", "restNum": "0", "startOffsetInfo": "0 0 0",
		}}
		for i := 0; i < len(change); i += 2 {
			a.Fields[change[i]] = change[i+1]
		}
		return a
	}
	message := appendMessage(nil, "t", 5, fakeMessage{id: "x"})
	huge := append([]byte(nil), message...)
	binary.BigEndian.PutUint32(huge, 0x7fffffff)
	for name, reply := range map[string]func() *wire.Command{
		"a body of rubbish":           func() *wire.Command { return good([]byte("rubbish")) },
		"a message that is cut":       func() *wire.Command { return good(message[:len(message)/2]) },
		"a message of a huge length":  func() *wire.Command { return good(huge) },
		"no fields":                   func() *wire.Command { return &wire.Command{Body: message} },
		"a pop time that is none":     func() *wire.Command { return good(message, "popTime", "soon") },
		"a negative invisible time":   func() *wire.Command { return good(message, "invisibleTime", "-9223372036854775808") },
		"start offsets that are none": func() *wire.Command { return good(message, "startOffsetInfo", ";;;") },
		"a start far before the offset": func() *wire.Command {
			return good(append([]byte(nil), appendMessage(nil, "t", 1<<40, fakeMessage{id: "x"})...))
		},
		"an unknown code": func() *wire.Command { return &wire.Command{Code: 4711, Remark: "what?"} },
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			f := newFakeRocket(t, 1, "a")
			f.everywhere("t", 1)
			b := f.popping()["a"]
			b.replying(onlyPops(reply))
			c := f.consumer(f.consumerConfig("t", ""))
			receiveNone(t, c, 300*time.Millisecond, "the answer is garbage")
			if err := c.Err(); err == nil {
				t.Error("Err does not tell")
			}
			if asked := f.brokers["a"].asked(codePop); asked > 8 {
				t.Errorf("asked %d times in 300 ms", asked)
			}
			b.replying(nil)
			ids := b.put(3, "")
			got := receive(t, c, 3, time.Minute)
			same(t, ids, got)
			acknowledge(t, c, got...)
			if err := c.Err(); err != nil {
				t.Errorf("Err after it works again: %v", err)
			}
		})
	}
}

func TestCloseDoesNotWaitForABrokerThatAnswersNothing(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a")
	f.everywhere("t", 1)
	b := f.popping()["a"]
	b.replying(onlyPops(func() *wire.Command { return nil }))
	c := f.consumer(f.consumerConfig("t", ""))
	done := make(chan error, 1)
	go func() {
		_, err := c.Fetch(t.Context(), fetchOf(10, time.Minute))
		done <- err
	}()
	eventually(t, 5*time.Second, func() error {
		if pops, _ := c.inTheAir(); pops == 0 {
			return errors.New("nothing is in the air")
		}
		return nil
	})
	start := time.Now()
	mustClose(t, c)
	if took := time.Since(start); took > time.Second {
		t.Errorf("Close took %v", took)
	}
	if err := <-done; !errors.Is(err, driver.ErrClosed) {
		t.Errorf("Fetch answered %v", err)
	}
}

func TestABrokerThatAnswersNothingDoesNotDelayAnother(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a", "b")
	f.everywhere("t", 1)
	brokers := f.popping()
	c := f.consumer(f.consumerConfig("t", ""))
	brokers["b"].put(1, "")
	stuck := receive(t, c, 1, time.Minute)[0]
	brokers["b"].replying(func(*wire.Command) (*wire.Command, bool) { return nil, true })
	for range 20 {
		start := time.Now()
		ids := brokers["a"].put(1, "")
		got := receive(t, c, 1, time.Minute)
		same(t, ids, got)
		ctx := within(t, 500*time.Millisecond)
		errs := c.Ack(ctx, []driver.Handle{got[0].Handle, stuck.Handle})
		if errs[0] != nil || errs[1] == nil || !driver.Retryable(errs[1]) {
			t.Fatalf("acks: %v", errs)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("a message and its ack took %v", took)
		}
	}
}

func TestABrokerThatKnowsNoBatchOfAcksIsAskedSingly(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a")
	f.everywhere("t", 1)
	b := f.popping()["a"]
	b.replying(func(cmd *wire.Command) (*wire.Command, bool) {
		return &wire.Command{Code: wire.CodeNotSupported}, cmd.Code == codeBatchAck
	})
	c := f.consumer(f.consumerConfig("t", ""))
	b.put(20, "")
	acknowledge(t, c, receive(t, c, 20, time.Minute)...)
	if n := b.ackedCount(); n != 20 {
		t.Errorf("%d of 20 are acknowledged", n)
	}
}

func TestMessagesWithATagOfTheSameHashAreDismissed(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a")
	f.everywhere("t", 1)
	b := f.popping()["a"]
	c := f.consumer(f.consumerConfig("t", "Aa"))
	b.put(3, "BB")
	ids := b.put(2, "Aa")
	b.put(2, "BB")
	got := receive(t, c, 2, time.Minute)
	same(t, ids, got)
	receiveNone(t, c, 200*time.Millisecond, "the others have another tag")
	eventually(t, 5*time.Second, func() error {
		if n := b.ackedCount(); n != 5 {
			return errors.New(strconv.Itoa(n) + " are acknowledged, not 5")
		}
		return nil
	})
	acknowledge(t, c, got...)
}

func TestAGroupThatMayNotBeCreatedIsExplained(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a")
	f.everywhere("t", 1)
	f.popping()["a"].replying(func(cmd *wire.Command) (*wire.Command, bool) {
		switch cmd.Code {
		case codeNotification:
			return &wire.Command{Code: wire.CodeGroupNotExist}, true
		case codeCreateGroup:
			return &wire.Command{Code: wire.CodeNoPermission, Remark: "no"}, true
		}
		return nil, false
	})
	_, err := f.driver.OpenConsumer(within(t, 20*time.Second), f.consumerConfig("t", ""))
	if err == nil || !strings.Contains(err.Error(), "mqadmin updateSubGroup -g group") || !driver.Retryable(err) {
		t.Errorf("the error must tell how to create the group, and be tried again: %v", err)
	}
}

func TestNothingIsAskedForAHandleThatIsOver(t *testing.T) {
	noLeaks(t)
	f := newFakeRocket(t, 1, "a")
	f.everywhere("t", 1)
	b := f.popping()["a"]
	c := f.consumer(f.consumerConfig("t", ""))
	b.put(1, "")
	r := receive(t, c, 1, minLease)[0]
	time.Sleep(minLease)
	before := f.brokers["a"].asked(codeAck) + f.brokers["a"].asked(codeBatchAck) + f.brokers["a"].asked(codeChange)
	wantReason(t, "Ack", c.Ack(t.Context(), []driver.Handle{r.Handle})[0], driver.LeaseExpired)
	wantReason(t, "GiveBack", c.GiveBack(t.Context(), []driver.Handle{r.Handle})[0], driver.LeaseExpired)
	_, err := c.Nack(t.Context(), r.Handle, 0)
	wantReason(t, "Nack", err, driver.LeaseExpired)
	if after := f.brokers["a"].asked(codeAck) + f.brokers["a"].asked(codeBatchAck) + f.brokers["a"].asked(codeChange); after != before {
		t.Errorf("the broker was asked %d times", after-before)
	}
}
