// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package rocketmq

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

var shared = NewShared(Options{})

// victim, set in the environment, makes the test binary start a cluster, print both process ids, and wait to be killed.
const victim = "ROCKETMQ_VICTIM"

func TestMain(m *testing.M) {
	if os.Getenv(victim) == "1" {
		beVictim()
	}
	os.Exit(shared.Run(m))
}

func beVictim() {
	c, err := Start(context.Background(), Options{Log: os.Stderr})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(c.broker.pid, c.nameServer.pid)
	select {}
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// send stores one message with the real client library and returns its error.
func send(ctx context.Context, c *Cluster, topic string, as Credentials) error {
	p, err := producer.NewDefaultProducer(
		producer.WithNameServer(c.NameServers()), producer.WithRetry(0),
		producer.WithGroupName("g"+topic), producer.WithInstanceName(topic+time.Now().Format("150405.000000")),
		producer.WithCredentials(primitive.Credentials{AccessKey: as.AccessKey, SecretKey: as.SecretKey}))
	if err != nil {
		return err
	}
	if err := p.Start(); err != nil {
		return err
	}
	result, err := p.SendSync(ctx, primitive.NewMessage(topic, []byte("hello")))
	if err == nil && result.Status != primitive.SendOK {
		err = errors.New(result.String())
	}
	return errors.Join(err, p.Shutdown())
}

// alive counts a zombie as dead: an orphan's new parent may take its time to reap it.
func alive(pid int) bool {
	if pid == 0 || syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	return !strings.Contains(string(stat), ") Z ")
}

func TestBrokerSurvivesKillOnTheSamePortsWithItsMessages(t *testing.T) {
	c, ctx := shared.Cluster(t), testContext(t)
	must(t, c.CreateTopic(ctx, "survives", 4, map[string]string{"message.type": "NORMAL"}))
	must(t, send(ctx, c, "survives", Credentials{}))

	addr, pid := c.BrokerAddr(), c.BrokerPID()
	must(t, c.KillBroker())
	if alive(pid) || c.BrokerPID() != 0 {
		t.Fatalf("broker %d lives after KillBroker", pid)
	}
	must(t, c.KillBroker()) // nothing to do, no error
	must(t, c.StartBroker(ctx))
	if c.BrokerAddr() != addr {
		t.Errorf("the broker came back at %s, was %s", c.BrokerAddr(), addr)
	}
	must(t, send(ctx, c, "survives", Credentials{}))
	out, err := c.Admin(ctx, "topicStatus", "-t", "survives")
	must(t, err)
	if got := sumOfMaxOffsets(out); got != 2 {
		t.Errorf("the topic holds %d messages after the kill, want 2:\n%s", got, out)
	}
}

// sumOfMaxOffsets adds the fourth column of mqadmin's topicStatus.
func sumOfMaxOffsets(out string) int {
	sum := 0
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) >= 4 && f[0] == "broker-a" {
			for _, digit := range []byte(f[3]) {
				sum += int(digit - '0') // one message per queue at most
			}
		}
	}
	return sum
}

func TestProgressIsEmptyForAGroupThatNeverConsumed(t *testing.T) {
	c, ctx := shared.Cluster(t), testContext(t)
	must(t, c.CreateGroup(ctx, Group{Name: "silent"}))
	progress, err := c.ConsumerProgress(ctx, "silent")
	must(t, err)
	if len(progress) != 0 {
		t.Errorf("got %+v, want nothing", progress)
	}
	for _, list := range []func(context.Context, string) ([]Connection, error){c.ConsumerConnections, c.ProducerConnections} {
		connections, err := list(ctx, "silent")
		must(t, err)
		if len(connections) != 0 {
			t.Errorf("got %+v, want nobody", connections)
		}
	}
	must(t, c.DeleteGroup(ctx, "silent"))
}

func TestProgressAndConnectionsShowARealConsumer(t *testing.T) {
	c, ctx := shared.Cluster(t), testContext(t)
	must(t, c.CreateTopic(ctx, "progress", 1, nil))
	must(t, c.CreateGroup(ctx, Group{Name: "progress-group"}))
	must(t, send(ctx, c, "progress", Credentials{}))

	got := make(chan string, 10)
	p, err := consumer.NewPushConsumer(
		consumer.WithNameServer(c.NameServers()), consumer.WithGroupName("progress-group"),
		consumer.WithInstance("progress-instance"), consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset))
	must(t, err)
	must(t, p.Subscribe("progress", consumer.MessageSelector{},
		func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
			for _, m := range messages {
				got <- string(m.Body)
			}
			return consumer.ConsumeSuccess, nil
		}))
	must(t, p.Start())
	select {
	case body := <-got:
		if body != "hello" {
			t.Errorf("received %q", body)
		}
	case <-ctx.Done():
		t.Fatal("nothing was received")
	}
	connections, err := c.ConsumerConnections(ctx, "progress-group")
	must(t, err)
	if len(connections) != 1 || !strings.Contains(connections[0].ClientID, "progress-instance") {
		t.Errorf("the broker lists %+v, want the one consumer", connections)
	}
	must(t, p.Shutdown()) // commits the offset

	must(t, send(ctx, c, "progress", Credentials{})) // nobody takes this one
	progress, err := c.ConsumerProgress(ctx, "progress-group")
	must(t, err)
	want := QueueProgress{Topic: "progress", Queue: 0, BrokerOffset: 2, ConsumerOffset: 1}
	if !slices.Contains(progress, want) || progress.Diff() != 1 {
		t.Errorf("progress is %+v, want it to contain %+v and a difference of 1", progress, want)
	}
}

func TestDeletedTopicIsUnknown(t *testing.T) {
	c, ctx := shared.Cluster(t), testContext(t)
	must(t, c.CreateTopic(ctx, "short-lived", 1, nil))
	must(t, c.DeleteTopic(ctx, "short-lived"))
	if err := send(ctx, c, "short-lived", Credentials{}); err == nil {
		t.Error("a message was taken for a deleted topic")
	}
}

func TestPausedBrokerAnswersAgainAfterResume(t *testing.T) {
	c, ctx := shared.Cluster(t), testContext(t)
	must(t, c.PauseBroker())
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := c.brokerAnswers(short); !isTimeout(err) {
		t.Errorf("a paused broker gave %v, want a time-out", err)
	}
	must(t, c.ResumeBroker())
	must(t, c.brokerAnswers(ctx))
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

func TestBrokerRegistersAgainAfterTheNameServerCameBack(t *testing.T) {
	c, ctx := shared.Cluster(t), testContext(t)
	must(t, c.StopNameServer())
	if err := c.nameServerAnswers(ctx); err == nil {
		t.Error("the name server answers after StopNameServer")
	}
	must(t, c.StartNameServer(ctx))
	must(t, c.brokerRegistered(ctx))
}

func TestStopBrokerLeavesTheNameServerAndComesBack(t *testing.T) {
	c, ctx := shared.Cluster(t), testContext(t)
	must(t, c.StopBroker(ctx))
	if err := c.brokerRegistered(ctx); err == nil {
		t.Error("the broker is still in the cluster list after StopBroker")
	}
	must(t, c.StartBroker(ctx))
	if err := c.StartBroker(ctx); err == nil {
		t.Error("a second StartBroker beside the running one was accepted")
	}
}

func TestStopLeavesNoProcessAndNoFile(t *testing.T) {
	c, ctx := StartForTest(t, Options{}), testContext(t)
	broker, nameServer, dir := c.BrokerPID(), c.nameServer.pid, c.Dir()
	must(t, c.Stop())
	for _, pid := range []int{broker, nameServer} {
		if alive(pid) {
			t.Errorf("process %d lives after Stop", pid)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary folder is still there: %v", err)
	}
	must(t, c.Stop())
	if err := c.StartBroker(ctx); err == nil {
		t.Error("a stopped cluster started a broker")
	}
}

func TestJVMsDieWhenTheirParentIsKilled(t *testing.T) {
	RequireForTest(t)
	if runtime.GOOS != "linux" {
		t.Skip("only Linux ties a child's life to its parent's")
	}
	self, err := os.Executable()
	must(t, err)
	parent := exec.Command(self)
	parent.Env = append(os.Environ(), victim+"=1")
	parent.Stderr = os.Stderr
	out, err := parent.StdoutPipe()
	must(t, err)
	must(t, parent.Start())
	var broker, nameServer int
	if _, err := fmt.Fscan(out, &broker, &nameServer); err != nil {
		t.Fatalf("read the process ids: %v", err)
	}
	if !alive(broker) || !alive(nameServer) {
		t.Fatalf("broker %d or name server %d is not running", broker, nameServer)
	}
	must(t, parent.Process.Kill())
	_ = parent.Wait() // "signal: killed", as asked
	ctx := testContext(t)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for alive(broker) || alive(nameServer) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("a JVM lives on after its parent was killed")
		}
	}
	// What the next start does: it removes the home that the killed one left.
	home, owner, err := takeHome(os.Stderr)
	must(t, err)
	must(t, removeHome(home, owner))
}

func TestUsersOfABrokerWithACLHaveOnlyTheirRights(t *testing.T) {
	c, ctx := StartForTest(t, Options{ACL: true}), testContext(t)
	must(t, c.CreateTopic(ctx, "mine", 1, nil))
	must(t, c.CreateTopic(ctx, "other", 1, nil))
	alice, err := c.CreateUser(ctx, "alice")
	must(t, err)
	must(t, c.Grant(ctx, "alice", Rights{Publish: []string{"mine"}}))

	must(t, send(ctx, c, "mine", alice))
	must(t, send(ctx, c, "other", c.Administrator()))
	for name, try := range map[string]func() error{
		"a topic without a right": func() error { return send(ctx, c, "other", alice) },
		"no credentials":          func() error { return send(ctx, c, "mine", Credentials{}) },
		"a wrong secret":          func() error { return send(ctx, c, "mine", Credentials{"alice", "guessed"}) },
	} {
		if err := try(); err == nil {
			t.Errorf("%s: the broker took the message", name)
		}
	}

	rotated, err := c.RotateSecret(ctx, "alice")
	must(t, err)
	must(t, send(ctx, c, "mine", rotated))
	if err := send(ctx, c, "mine", alice); err == nil {
		t.Error("the old secret still works after RotateSecret")
	}
	must(t, c.Revoke(ctx, "alice"))
	if err := send(ctx, c, "mine", rotated); err == nil {
		t.Error("a user without rights was allowed to send")
	}
	must(t, c.DeleteUser(ctx, "alice"))
}

// The 4.x line is compared by `make test-long`.
func TestTheOldLineStartsAndTakesMessages(t *testing.T) {
	if os.Getenv("LONG") != "1" {
		t.Skip("long: RocketMQ 4.9.7 runs in `make test-long` (LONG=1)")
	}
	c, ctx := StartForTest(t, Options{Version: Version4}), testContext(t)
	must(t, c.CreateTopic(ctx, "old", 2, nil))
	must(t, send(ctx, c, "old", Credentials{}))
	must(t, c.CreateGroup(ctx, Group{Name: "old-group"}))
	progress, err := c.ConsumerProgress(ctx, "old-group")
	must(t, err)
	if len(progress) != 0 {
		t.Errorf("got %+v, want nothing", progress)
	}
	must(t, c.KillBroker())
	must(t, c.StartBroker(ctx))
	must(t, send(ctx, c, "old", Credentials{}))
}

func TestASecondBrokerJoinsAndTakesItsShareOfATopic(t *testing.T) {
	c := shared.Cluster(t)
	ctx := testContext(t)
	other := StartForTest(t, Options{Join: c})
	must(t, c.CreateTopic(ctx, "shared-by-two", 1, nil))
	must(t, other.CreateTopic(ctx, "shared-by-two", 1, nil))
	out, err := other.Admin(ctx, "topicRoute", "-t", "shared-by-two")
	must(t, err)
	for _, want := range []string{"broker-a", "broker-b", c.BrokerAddr(), other.BrokerAddr()} {
		if !strings.Contains(out, want) {
			t.Errorf("the route lacks %s:\n%s", want, out)
		}
	}
	must(t, other.KillBroker())
	must(t, other.StartBroker(ctx))
	if err := other.StartNameServer(ctx); err == nil {
		t.Error("a cluster that joined another one started a name server")
	}
}
