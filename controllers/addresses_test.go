// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"strings"
	"testing"
)

func TestAddressPolicy(t *testing.T) {
	const refused, allowed = true, false
	for _, c := range []struct {
		name    string
		list    []string
		trusted []string
		server  string // a name server as written, or
		dial    string // a resolved address
		refused bool
	}{
		{name: "with an empty list any name goes", server: "namesrv:9876", refused: allowed},
		{name: "with an empty list a private address goes", server: "10.0.0.7:9876", refused: allowed},
		{name: "loopback is refused by its address", server: "127.0.0.1:9876", refused: refused},
		{name: "loopback is refused in IPv6", server: "[::1]:9876", refused: refused},
		{name: "loopback is refused in IPv4-mapped IPv6", server: "[::ffff:127.0.0.1]:9876", refused: refused},
		{name: "the metadata service is refused", server: "169.254.169.254:80", refused: refused},
		{name: "a name that resolves to loopback is refused when it is dialled", dial: "127.0.0.1:9876", refused: refused},
		{name: "a broker at the metadata service is refused when it is dialled", dial: "169.254.169.254:80", refused: refused},
		{name: "a link-local address with a zone is refused when it is dialled", dial: "[fe80::1%eth0]:10911", refused: refused},
		{name: "the unspecified address is refused when it is dialled", dial: "0.0.0.0:10911", refused: refused},
		{name: "IPv4 behind NAT64 is refused when it is dialled", dial: "[64:ff9b::a9fe:a9fe]:80", refused: refused},
		{name: "multicast is refused when it is dialled", dial: "224.0.0.1:1", refused: refused},
		{name: "a broker anywhere else is dialled", dial: "10.1.2.3:10911", refused: allowed},
		{name: "what is not resolved is not dialled", dial: "broker:10911", refused: refused},

		{name: "a listed name goes on any port", list: []string{"namesrv"}, server: "namesrv:1234", refused: allowed},
		{name: "a listed name goes in capitals and with a dot at the end", list: []string{"namesrv.shop"}, server: "NameSrv.Shop.:1", refused: allowed},
		{name: "a name that is not listed does not go", list: []string{"namesrv"}, server: "other:9876", refused: refused},
		{name: "a name listed with a port goes on that port", list: []string{"namesrv:9876"}, server: "namesrv:9876", refused: allowed},
		{name: "and on no other", list: []string{"namesrv:9876"}, server: "namesrv:9877", refused: refused},
		{name: "a suffix matches what is below", list: []string{"*.mq.svc"}, server: "a.mq.svc:1", refused: allowed},
		{name: "a suffix does not match itself", list: []string{"*.mq.svc"}, server: "mq.svc:1", refused: refused},
		{name: "a suffix does not match what only ends alike", list: []string{"*.mq.svc"}, server: "evilmq.svc:1", refused: refused},
		{name: "a star is any name", list: []string{"*"}, server: "x:1", refused: allowed},
		{name: "a star does not open loopback", list: []string{"*"}, dial: "127.0.0.1:1", refused: refused},
		{name: "a network goes", list: []string{"10.0.0.0/8"}, server: "10.2.3.4:9876", refused: allowed},
		{name: "an address outside of it does not", list: []string{"10.0.0.0/8"}, server: "11.2.3.4:9876", refused: refused},
		{name: "a network of loopback opens it", list: []string{"127.0.0.0/8"}, server: "127.0.0.1:9876", refused: allowed},
		{name: "also for brokers", list: []string{"127.0.0.0/8"}, dial: "127.0.0.1:10911", refused: allowed},
		{name: "an address listed with a port goes on that port", list: []string{"127.0.0.1:9876"}, server: "127.0.0.1:9876", refused: allowed},
		{name: "and as a name server on no other", list: []string{"127.0.0.1:9876"}, server: "127.0.0.1:6379", refused: refused},
		{name: "localhost opens loopback for what it resolves to", list: []string{"localhost"}, dial: "127.0.0.1:9876", refused: allowed},
		{name: "the operator's own default is trusted", list: []string{"elsewhere"}, trusted: []string{"127.0.0.1:9876"}, server: "127.0.0.1:9876", refused: allowed},
		{name: "without opening its neighbours", list: []string{"elsewhere"}, trusted: []string{"namesrv:9876"}, server: "other:9876", refused: refused},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := ParseAddressPolicy(c.list)
			must(t, err)
			must(t, p.Trust(c.trusted))
			if c.server != "" {
				err = p.CheckNameServer(c.server)
			} else {
				err = p.CheckDial(c.dial)
			}
			if (err != nil) != c.refused {
				t.Errorf("%s%s: %v, want refused %v", c.server, c.dial, err, c.refused)
			}
		})
	}
}

func TestAddressPolicyRefusesWhatItCannotRead(t *testing.T) {
	for _, entry := range []string{"", "10.0.0.0/40", "a*b", "*a"} {
		if _, err := ParseAddressPolicy([]string{"good", entry}); err == nil || !strings.Contains(err.Error(), "allowed name server") {
			t.Errorf("%q: %v, want an error that names it", entry, err)
		}
	}
	p, err := ParseAddressPolicy(nil)
	must(t, err)
	if err := p.Trust([]string{"without-port"}); err == nil || !strings.Contains(err.Error(), "without-port") {
		t.Errorf("a default without a port: %v", err)
	}
}
