// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// residentBytes is the process's resident memory.
func residentBytes(pid int) (int64, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(content))
	if len(fields) < 2 {
		return 0, errors.New("statm has no second field")
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// connectionsTo lists the process's TCP connections to an IPv4 address, by their local ports.
func connectionsTo(pid int, address string) ([]string, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	own := map[string]bool{}
	dir := fmt.Sprintf("/proc/%d", pid)
	entries, err := os.ReadDir(dir + "/fd")
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if target, err := os.Readlink(filepath.Join(dir, "fd", entry.Name())); err == nil {
			own[target] = true
		}
	}
	table, err := os.ReadFile(dir + "/net/tcp")
	if err != nil {
		return nil, err
	}
	ip := to.Addr().As4()
	peer := fmt.Sprintf("%02X%02X%02X%02X:%04X", ip[3], ip[2], ip[1], ip[0], to.Port()) // as the kernel prints it on little-endian machines
	var local []string
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 9 && f[2] == peer && own["socket:["+f[9]+"]"] {
			local = append(local, f[1])
		}
	}
	return local, nil
}

// descriptors counts the process's open files of a kind ("socket:" or everything with "").
func descriptors(pid int, kind string) (int, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, entry := range entries {
		if target, err := os.Readlink(filepath.Join(dir, entry.Name())); err == nil && strings.HasPrefix(target, kind) {
			n++
		}
	}
	return n, nil
}
