// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package rocketmq

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// askBroker and askNameServer send one signed request.
func (c *Cluster) askBroker(ctx context.Context, code int, fields map[string]string, body []byte) ([]byte, error) {
	return c.call(ctx, c.BrokerAddr(), code, fields, body)
}

func (c *Cluster) askNameServer(ctx context.Context, code int, fields map[string]string) ([]byte, error) {
	return c.call(ctx, c.nameServerAddr(), code, fields, nil)
}

func (c *Cluster) nameServerAnswers(ctx context.Context) error {
	_, err := c.askNameServer(ctx, codeClusterInfo, nil)
	return err
}

func (c *Cluster) brokerAnswers(ctx context.Context) error {
	_, err := c.askBroker(ctx, codeBrokerRuntimeInfo, nil, nil)
	return err
}

// RocketMQ writes map keys that are numbers without quotes, which is no JSON.
var bareKey = regexp.MustCompile(`([{,])(\d+):`)

// brokerRegistered is nil when the name server's cluster list has our broker.
func (c *Cluster) brokerRegistered(ctx context.Context) error {
	body, err := c.askNameServer(ctx, codeClusterInfo, nil)
	if err != nil {
		return err
	}
	var info struct {
		BrokerAddrTable map[string]struct {
			BrokerAddrs map[string]string `json:"brokerAddrs"`
		} `json:"brokerAddrTable"`
	}
	if err := json.Unmarshal(bareKey.ReplaceAll(body, []byte(`$1"$2":`)), &info); err != nil {
		return fmt.Errorf("read the cluster list: %w", err)
	}
	if got := info.BrokerAddrTable[c.options.BrokerName].BrokerAddrs["0"]; got != c.BrokerAddr() {
		return fmt.Errorf("the cluster list names %q as %s, want %s", got, c.options.BrokerName, c.BrokerAddr())
	}
	return nil
}

// AwaitDispatch waits until the broker has dispatched all that it has stored. It does so after it has answered the send: until then nobody sees the
// message, and the queue's newest offset is one behind (measured on 5.5.0: half of the time right after the answer, on a busy machine).
func (c *Cluster) AwaitDispatch(ctx context.Context) error {
	for {
		behind, err := c.dispatchBehind(ctx)
		if behind == "0" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the broker is %s bytes behind with dispatching: %w", behind, errors.Join(err, ctx.Err()))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (c *Cluster) dispatchBehind(ctx context.Context) (string, error) {
	body, err := c.askBroker(ctx, codeBrokerRuntimeInfo, nil, nil)
	if err != nil {
		return "unknown", err
	}
	var info struct {
		Table map[string]string `json:"table"`
	}
	if err := json.Unmarshal(body, &info); err != nil {
		return "unknown", fmt.Errorf("read the broker's runtime information: %w", err)
	}
	return info.Table["dispatchBehindBytes"], nil
}

// CountByID is how many messages of a topic the broker's index has under this message id (UNIQ_KEY), of at most 32. The index is written after the answer
// to a send: see AwaitDispatch.
func (c *Cluster) CountByID(ctx context.Context, topic, id string) (int, error) {
	body, err := c.askBroker(ctx, codeQueryMessage, map[string]string{
		"topic": topic, "key": id, "maxNum": "32", "beginTimestamp": "0", "endTimestamp": strconv.FormatInt(time.Now().Add(time.Hour).UnixMilli(), 10),
		"_UNIQUE_KEY_QUERY": "true",
	}, nil)
	var refused *ResponseError
	if errors.As(err, &refused) && refused.Code == responseNotFound {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("query the messages with id %q: %w", id, err)
	}
	return bytes.Count(body, []byte("UNIQ_KEY\x01"+id)), nil
}

// CreateTopic creates or changes a topic with that many queues and returns when the name server knows its route.
// Attributes are RocketMQ's, such as {"message.type": "FIFO"} (NORMAL, FIFO, DELAY, TRANSACTION); 4.x knows none.
func (c *Cluster) CreateTopic(ctx context.Context, name string, queues int, attributes map[string]string) error {
	var attrs []string
	for key, value := range attributes {
		attrs = append(attrs, "+"+key+"="+value)
	}
	n := strconv.Itoa(queues)
	_, err := c.askBroker(ctx, codeUpdateTopic, map[string]string{
		"topic": name, "defaultTopic": "TBW102", "readQueueNums": n, "writeQueueNums": n, "perm": "6",
		"topicFilterType": "SINGLE_TAG", "topicSysFlag": "0", "order": "false", "attributes": strings.Join(attrs, ","),
	}, nil)
	if err != nil {
		return fmt.Errorf("create topic %q: %w", name, err)
	}
	return nil
}

// DeleteTopic removes a topic from the broker and from the name server.
func (c *Cluster) DeleteTopic(ctx context.Context, name string) error {
	fields := map[string]string{"topic": name}
	if _, err := c.askBroker(ctx, codeDeleteTopicBroker, fields, nil); err != nil {
		return fmt.Errorf("delete topic %q on the broker: %w", name, err)
	}
	if _, err := c.askNameServer(ctx, codeDeleteTopicNamesrv, fields); err != nil {
		return fmt.Errorf("delete topic %q on the name server: %w", name, err)
	}
	return nil
}

// Group says how a consumer group behaves on the broker.
type Group struct {
	Name string
	// Ordered makes the broker hand out a queue's messages one after the other.
	Ordered bool
	// MaxRetries is how often a message is redelivered before it becomes a dead letter; 0 means RocketMQ's 16.
	MaxRetries int
}

// CreateGroup creates or changes a consumer group.
func (c *Cluster) CreateGroup(ctx context.Context, group Group) error {
	if group.MaxRetries == 0 {
		group.MaxRetries = 16
	}
	body, err := json.Marshal(map[string]any{
		"groupName": group.Name, "consumeEnable": true, "consumeFromMinEnable": true, "consumeBroadcastEnable": true,
		"consumeMessageOrderly": group.Ordered, "retryQueueNums": 1, "retryMaxTimes": group.MaxRetries, "brokerId": 0,
		"whichBrokerWhenConsumeSlowly": 1, "notifyConsumerIdsChangedEnable": true,
	})
	if err != nil {
		return fmt.Errorf("create group %q: %w", group.Name, err)
	}
	if _, err := c.askBroker(ctx, codeUpdateGroup, nil, body); err != nil {
		return fmt.Errorf("create group %q: %w", group.Name, err)
	}
	return nil
}

// DeleteGroup removes a consumer group and its offsets.
func (c *Cluster) DeleteGroup(ctx context.Context, name string) error {
	if _, err := c.askBroker(ctx, codeDeleteGroup, map[string]string{"groupName": name, "cleanOffset": "true"}, nil); err != nil {
		return fmt.Errorf("delete group %q: %w", name, err)
	}
	return nil
}

// Connection is a client as the broker lists it.
type Connection struct {
	ClientID string `json:"clientId"`
	Addr     string `json:"clientAddr"`
	Language string `json:"language"`
	Version  int    `json:"version"`
}

// ConsumerConnections lists the live members of a consumer group; none is an empty list.
func (c *Cluster) ConsumerConnections(ctx context.Context, group string) ([]Connection, error) {
	connections, err := c.connections(ctx, codeConsumerConnections, map[string]string{"consumerGroup": group})
	if err != nil {
		return nil, fmt.Errorf("list the consumers of group %q: %w", group, err)
	}
	return connections, nil
}

// ProducerConnections lists the live producers of a group; none is an empty list. The library announces a producer with
// its heartbeat, so a new one shows up to 30 s late.
func (c *Cluster) ProducerConnections(ctx context.Context, group string) ([]Connection, error) {
	connections, err := c.connections(ctx, codeProducerConnections, map[string]string{"producerGroup": group})
	if err != nil {
		return nil, fmt.Errorf("list the producers of group %q: %w", group, err)
	}
	return connections, nil
}

func (c *Cluster) connections(ctx context.Context, code int, fields map[string]string) ([]Connection, error) {
	body, err := c.askBroker(ctx, code, fields, nil)
	if refused := (*ResponseError)(nil); errors.As(err, &refused) {
		// "not online" for consumers; producers answer a system error whose text says "not exist".
		if refused.Code == responseNotOnline || refused.Code == responseSystemError && strings.Contains(refused.Remark, "not exist") {
			return []Connection{}, nil
		}
	}
	if err != nil {
		return nil, err
	}
	answer := struct {
		ConnectionSet []Connection `json:"connectionSet"`
	}{ConnectionSet: []Connection{}}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("read the list of connections: %w", err)
	}
	return answer.ConnectionSet, nil
}

// Groups are the names of the consumer groups that begin with prefix.
func (c *Cluster) Groups(ctx context.Context, prefix string) ([]string, error) {
	body, err := c.askBroker(ctx, codeAllGroups, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("list the groups: %w", err)
	}
	var all struct {
		Table map[string]json.RawMessage `json:"subscriptionGroupTable"`
	}
	if err := json.Unmarshal(bareKey.ReplaceAll(body, []byte(`$1"$2":`)), &all); err != nil {
		return nil, fmt.Errorf("read the list of groups: %w", err)
	}
	var names []string
	for name := range all.Table {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// QueueProgress is where a group stands in one queue; offsets count messages.
type QueueProgress struct {
	Topic          string
	Queue          int
	BrokerOffset   int64 // of the next message to be stored
	ConsumerOffset int64 // of the next message to be consumed, as committed
}

// Diff is how many messages of the queue the group has not committed.
func (q QueueProgress) Diff() int64 { return q.BrokerOffset - q.ConsumerOffset }

// ConsumerProgress tells where a group stands in each queue that it ever committed, its retry topic included. A group
// without offsets has an empty list.
func (c *Cluster) ConsumerProgress(ctx context.Context, group string) (Progress, error) {
	body, err := c.askBroker(ctx, codeConsumeStats, map[string]string{"consumerGroup": group, "topic": ""}, nil)
	if err != nil {
		return nil, fmt.Errorf("read the progress of group %q: %w", group, err)
	}
	progress, err := parseConsumeStats(body)
	if err != nil {
		return nil, fmt.Errorf("read the progress of group %q: %w", group, err)
	}
	return progress, nil
}

// Progress is the answer of ConsumerProgress.
type Progress []QueueProgress

// Diff is the sum over all queues: what mqadmin's consumerProgress calls "Diff Total".
func (p Progress) Diff() int64 {
	var sum int64
	for _, queue := range p {
		sum += queue.Diff()
	}
	return sum
}

// parseConsumeStats reads {"offsetTable":{{queue}:{offsets},...}}: the keys are objects, so it is no JSON, but each key
// and each value by itself is.
func parseConsumeStats(body []byte) (Progress, error) {
	const start = `"offsetTable":{`
	at := bytes.Index(body, []byte(start))
	if at < 0 {
		return nil, fmt.Errorf("no offset table in %.80q", body)
	}
	rest := body[at+len(start):]
	progress := Progress{}
	for len(rest) > 0 && rest[0] != '}' {
		var queue struct {
			Topic   string `json:"topic"`
			QueueID int    `json:"queueId"`
		}
		var offsets struct {
			BrokerOffset   int64 `json:"brokerOffset"`
			ConsumerOffset int64 `json:"consumerOffset"`
		}
		var err error
		if rest, err = takeObject(rest, &queue); err != nil {
			return nil, err
		}
		if rest, err = takeObject(bytes.TrimPrefix(rest, []byte(":")), &offsets); err != nil {
			return nil, err
		}
		rest = bytes.TrimPrefix(rest, []byte(","))
		progress = append(progress, QueueProgress{
			Topic: queue.Topic, Queue: queue.QueueID,
			BrokerOffset: offsets.BrokerOffset, ConsumerOffset: offsets.ConsumerOffset,
		})
	}
	return progress, nil
}

// takeObject decodes the JSON object at the start of text and returns what follows it.
func takeObject(text []byte, into any) ([]byte, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(into); err != nil {
		return nil, fmt.Errorf("decode the offset table at %.80q: %w", text, err)
	}
	return text[decoder.InputOffset():], nil
}

// Admin runs RocketMQ's own mqadmin and returns what it printed; "-n <name server>" is added. It takes about a second.
// Only for clusters without ACL: mqadmin reads credentials from a file that is not written here.
func (c *Cluster) Admin(ctx context.Context, args ...string) (string, error) {
	argv := javaCommand(c.dir, c.lib, slices.Concat([]string{"-Xmx256m"}, quickFlags, c.tlsFlags())...)
	argv = append(argv, "org.apache.rocketmq.tools.command.MQAdminStartup")
	argv = append(append(argv, args...), "-n", c.nameServerAddr())
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("mqadmin %s: %w\n%s", strings.Join(args, " "), err, tail(out, 15))
	}
	return string(out), nil
}
