// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package remoting

import (
	"strings"
	"testing"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver/remoting/wire"
)

func TestTheHandleOfATransactionIsReadAsItWasWritten(t *testing.T) {
	for _, h := range []wire.Half{
		{Topic: "t", Broker: "broker-a", ID: "id", Born: 1764144000000, Offset: 7, CommitLog: 1 << 40},
		{Topic: "ns%t", Broker: "b", ID: "order:4711/+=.", Checked: true},
	} {
		if got, err := parseHalf(halfHandle(h)); err != nil || got != h {
			t.Errorf("%+v became %+v, %v", h, got, err)
		}
	}
	for _, bad := range []string{"", "v1", "v2 t b 1 2 3 0 id", "v1 t b 1 2 3 2 id", "v1 t b -1 2 3 0 id", "v1 t b 1 x 3 0 id", "v1  b 1 2 3 0 id", "v1 t b 1 2 3 0 ", "v1 t b 1 2 3 0 id more"} {
		if h, err := parseHalf(driver.TransactionHandle(bad)); driver.ReasonOf(err) != driver.InvalidHandle {
			t.Errorf("%q is taken for %+v, %v", bad, h, err)
		}
	}
}

func FuzzHalfHandle(f *testing.F) {
	f.Add("v1 t broker-a 7 1099511627776 1764144000000 1 id")
	f.Add(strings.Repeat(" ", 7))
	f.Fuzz(func(t *testing.T, text string) {
		h, err := parseHalf(driver.TransactionHandle(text))
		if err != nil {
			return
		}
		again, err := parseHalf(halfHandle(h))
		if err != nil || again != h {
			t.Errorf("%q is taken for %+v, which is read as %+v, %v", text, h, again, err)
		}
	})
}
