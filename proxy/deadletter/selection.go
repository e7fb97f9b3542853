// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package deadletter

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// Selection chooses letters; the zero value chooses all. What is set must all hold.
type Selection struct {
	// IDs are message ids, any of them.
	IDs []string
	// Topic is the topic that the message was sent to.
	Topic string
	// From and Until bound the time at which it became a dead letter: from From on, before Until. Zero = no bound.
	From, Until time.Time
}

func (s *Selection) matches(l *driver.DeadLetter) bool {
	return (len(s.IDs) == 0 || slices.Contains(s.IDs, l.ID)) && (s.Topic == "" || s.Topic == l.Topic) &&
		(s.From.IsZero() || !l.DeadTime.Before(s.From)) && (s.Until.IsZero() || l.DeadTime.Before(s.Until))
}

// cursor is how far a call has come: the next offset by queue. A queue that is not in it has not been looked at.
type cursor map[string]int64

func queueName(q *driver.DeadLetterQueue) string { return fmt.Sprintf("%s/%d", q.Broker, q.ID) }

// token is the cursor as text for the caller, who may keep it as long as it likes: it names places, and nothing depends on its being true.
func (c cursor) token() string {
	text, err := json.Marshal(c)
	if err != nil {
		return "" // a map of numbers can be marshalled
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// maxTokenBytes bounds what is looked at.
const maxTokenBytes = 64 << 10

// parseCursor reads what token wrote, or what somebody made up: wrong names and numbers harm nothing.
func parseCursor(token string) (cursor, error) {
	c := cursor{}
	if token == "" {
		return c, nil
	}
	if len(token) > maxTokenBytes {
		return nil, errToken
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return nil, errToken
	}
	if err := json.Unmarshal(text, &c); err != nil || c == nil {
		return nil, errToken
	}
	return c, nil
}

var errToken = driver.Errorf(driver.InvalidMessage, "page_token", "it is not one that an earlier call has answered")
