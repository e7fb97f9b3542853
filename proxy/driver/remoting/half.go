// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

// halfVersion begins the handles of transactions: "v1 topic broker offset commitLog born checked id".
const halfVersion = "v1"

func halfHandle(h wire.Half) driver.TransactionHandle {
	checked := 0
	if h.Checked {
		checked = 1
	}
	return driver.TransactionHandle(fmt.Sprintf("%s %s %s %d %d %d %d %s", halfVersion, h.Topic, h.Broker, h.Offset, h.CommitLog, h.Born, checked, h.ID))
}

// parseHalf reads a handle. Handles are sealed above, but a driver's caller may be any.
func parseHalf(handle driver.TransactionHandle) (wire.Half, error) {
	parts := strings.Split(string(handle), " ")
	if len(parts) != 8 || parts[0] != halfVersion {
		return wire.Half{}, errNoHalf()
	}
	h := wire.Half{Topic: parts[1], Broker: parts[2], ID: parts[7], Checked: parts[6] == "1"}
	for i, into := range []*int64{&h.Offset, &h.CommitLog, &h.Born} {
		n, err := strconv.ParseInt(parts[3+i], 10, 64)
		if err != nil || n < 0 {
			return wire.Half{}, errNoHalf()
		}
		*into = n
	}
	if h.Topic == "" || h.Broker == "" || h.ID == "" || !h.Checked && parts[6] != "0" {
		return wire.Half{}, errNoHalf()
	}
	return h, nil
}

func errNoHalf() error {
	return driver.Errorf(driver.InvalidHandle, "transaction", "not a handle of a transaction of this driver")
}

// halfKey names a transaction of a topic, whichever of its places a handle has.
func halfKey(h wire.Half) string {
	return strconv.FormatInt(h.Born, 36) + "_" + h.ID
}

// fateKey names it among those of all topics: an application may begin one in each under the same id, in the same millisecond.
func fateKey(h wire.Half) string { return h.Topic + " " + halfKey(h) }
