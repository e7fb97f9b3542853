// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// AddressPolicy decides which addresses clients may be sent to. Users of a cluster write connection.nameServers, and a route may name any
// broker, so without it an object could make the operator connect to the node's metadata service or to its own loopback. It is safe for
// concurrent use.
type AddressPolicy struct {
	any      bool
	names    map[string]struct{} // lower case, with or without port
	suffixes []string            // ".example.com" of "*.example.com"
	prefixes []netip.Prefix
	// dialable are addresses of entries with a port: they may be dialled, and named together with that port only.
	dialable []netip.Prefix
}

// ParseAddressPolicy reads the list of --allowed-name-servers: host names, "*.suffix", "*", IP addresses and CIDRs; names and addresses may
// have a :port. An empty list allows every name. Loopback, link-local (the clouds' metadata services), multicast and unspecified addresses
// are refused, for name servers and for brokers, unless an address or CIDR of the list contains them; "localhost" in the list allows loopback.
func ParseAddressPolicy(allowed []string) (*AddressPolicy, error) {
	p := &AddressPolicy{any: len(allowed) == 0, names: map[string]struct{}{}}
	for _, entry := range allowed {
		entry = strings.ToLower(strings.TrimSpace(entry))
		if err := p.add(entry); err != nil {
			return nil, fmt.Errorf("allowed name server %q: %w", entry, err)
		}
	}
	return p, nil
}

func (p *AddressPolicy) add(entry string) error {
	host, port, err := net.SplitHostPort(entry)
	if err != nil {
		host = entry
	}
	switch {
	case entry == "":
		return errors.New("empty: remove it, or write host, host:port, *.suffix, an address or a CIDR")
	case entry == "*":
		p.any = true
	case strings.HasPrefix(entry, "*."):
		p.suffixes = append(p.suffixes, entry[1:])
	case strings.Contains(entry, "/"):
		prefix, err := netip.ParsePrefix(entry)
		if err != nil {
			return fmt.Errorf("not a CIDR: %w", err)
		}
		p.prefixes = append(p.prefixes, prefix.Masked())
	case strings.Contains(host, "*"):
		return errors.New("a * stands alone or in front of a suffix, as in *.example.com")
	default:
		p.names[entry] = struct{}{}
		p.addAddresses(host, port)
	}
	return nil
}

func (p *AddressPolicy) addAddresses(host, port string) {
	if ip, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		only := netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen())
		p.dialable = append(p.dialable, only)
		if port == "" {
			p.prefixes = append(p.prefixes, only)
		}
	}
	if host == "localhost" {
		p.dialable = append(p.dialable, netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"))
	}
}

// Trust adds name servers that the operator itself was configured with.
func (p *AddressPolicy) Trust(nameServers []string) error {
	for _, ns := range nameServers {
		if _, _, err := net.SplitHostPort(ns); err != nil {
			return fmt.Errorf("default name server %q: must be host:port: %w", ns, err)
		}
		if err := p.add(strings.ToLower(ns)); err != nil {
			return fmt.Errorf("default name server %q: %w", ns, err)
		}
	}
	return nil
}

// CheckNameServer decides about host:port as it is written in an object, of a name server or of another address that hosts are sent to.
func (p *AddressPolicy) CheckNameServer(hostPort string) error {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		return fmt.Errorf("must be host:port: %w", err)
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if ip, err := netip.ParseAddr(host); err == nil {
		return p.checkNameServerIP(ip.Unmap(), strings.ToLower(hostPort))
	}
	if p.any || p.named(strings.ToLower(hostPort), host) {
		return nil
	}
	return errors.New("the operator does not allow this address: ask its administrator to add it to --allowed-name-servers")
}

func (p *AddressPolicy) checkNameServerIP(ip netip.Addr, hostPort string) error {
	if err := p.checkIP(ip); err != nil {
		return err
	}
	if p.any || containsIP(p.prefixes, ip) || p.named(hostPort, ip.String()) {
		return nil
	}
	return errors.New("the operator does not allow this address: ask its administrator to add it to --allowed-name-servers")
}

func (p *AddressPolicy) named(hostPort, host string) bool {
	_, withPort := p.names[hostPort]
	_, without := p.names[host]
	if withPort || without {
		return true
	}
	for _, suffix := range p.suffixes {
		if strings.HasSuffix(host, suffix) {
			return true
		}
	}
	return false
}

// CheckDial decides about a resolved address, IP:port, right before it is dialled: name servers and brokers, and again after every change
// of DNS.
func (p *AddressPolicy) CheckDial(ipPort string) error {
	addr, err := netip.ParseAddrPort(ipPort)
	if err != nil {
		return fmt.Errorf("address %q: must be a resolved IP:port: %w", ipPort, err)
	}
	return p.checkIP(addr.Addr().Unmap())
}

var refusedRanges = []struct {
	what string
	has  func(netip.Addr) bool
}{
	{"a loopback address", netip.Addr.IsLoopback},
	{"a link-local address", netip.Addr.IsLinkLocalUnicast},
	{"a multicast address", netip.Addr.IsMulticast},
	{"the unspecified address", netip.Addr.IsUnspecified},
	{"in 0.0.0.0/8", netip.MustParsePrefix("0.0.0.0/8").Contains},
	{"the broadcast address", netip.MustParsePrefix("255.255.255.255/32").Contains},
	{"a cloud's metadata service", netip.MustParsePrefix("fd00:ec2::254/128").Contains},
	{"a cloud's metadata service", netip.MustParsePrefix("100.100.100.200/32").Contains},
	{"a translated address (NAT64)", netip.MustParsePrefix("64:ff9b::/96").Contains},
}

func (p *AddressPolicy) checkIP(ip netip.Addr) error {
	ip = ip.WithZone("")
	if containsIP(p.prefixes, ip) || containsIP(p.dialable, ip) {
		return nil
	}
	for _, refused := range refusedRanges {
		if refused.has(ip) {
			return fmt.Errorf("%s is %s, which clients may not be sent to; if that is meant, add it to --allowed-name-servers", ip, refused.what)
		}
	}
	return nil
}

func containsIP(prefixes []netip.Prefix, ip netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(ip) })
}
