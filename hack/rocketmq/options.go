// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package rocketmq

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The versions that this project is tested with: the newest, and the last 4.x that Maven has.
const (
	Version5 = "5.5.0"
	Version4 = "4.9.7"
)

// Options say what Start runs. The zero value is a 5.5.0 without ACL in a temporary folder.
type Options struct {
	// Version is Version5 (the default) or Version4, or any other released version of the form 5.5.0.
	Version string
	// ACL switches on authentication and authorization; Cluster.Administrator then holds the first user. Only 5.x.
	ACL bool
	// TLS says whether name server and broker demand encrypted connections; Cluster.TLS then holds what a client needs.
	TLS TLSMode
	// Join makes this cluster a second broker of another one, which must outlive it: it has no name server of its own, and the version, the ACL,
	// the administrator and the certificates of the other.
	Join *Cluster
	// BrokerName is "broker-a" by default, and "broker-b" for one that joins another.
	BrokerName string
	// Dir holds configuration, store and logs. Empty: a temporary folder, removed by Stop. A named one is kept.
	Dir string
	// Heap is the broker's maximum heap, as the JVM's -Xmx takes it; default "1g".
	Heap string
	// DirectMemory is the broker's limit of direct memory; default "512m".
	DirectMemory string
	// Measure sizes JVM and store for benchmarks (full JIT, 2 GiB heap, big files) rather than for a quick start.
	Measure bool
	// ExtraBrokerConf are lines of broker.conf that win over the ones written here.
	ExtraBrokerConf map[string]string
	// Log receives progress, a line at a time; default: nothing is written.
	Log io.Writer
}

// withDefaults also refuses what cannot work.
func (o Options) withDefaults() (Options, error) {
	if o.Join != nil {
		o.Version, o.ACL, o.TLS = o.Join.options.Version, o.Join.options.ACL, o.Join.options.TLS
		if o.BrokerName == "" {
			o.BrokerName = "broker-b"
		}
	}
	if o.BrokerName == "" {
		o.BrokerName = "broker-a"
	}
	if o.Version == "" {
		o.Version = Version5
	}
	if !versionPattern.MatchString(o.Version) {
		return o, fmt.Errorf("version %q of RocketMQ is not of the form 5.5.0", o.Version)
	}
	if o.ACL && !strings.HasPrefix(o.Version, "5.") {
		return o, fmt.Errorf("ACL is supported here for RocketMQ 5.x only, not for %s", o.Version)
	}
	if o.Heap == "" {
		o.Heap = "1g"
		if o.Measure {
			o.Heap = "2g"
		}
	}
	if o.DirectMemory == "" {
		o.DirectMemory = "512m"
		if o.Measure {
			o.DirectMemory = "2g"
		}
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	return o, nil
}

// javaCommand is the start of both command lines: Java 17 hides packages that RocketMQ reaches into.
func javaCommand(home, lib string, flags ...string) []string {
	argv := []string{"java"}
	for _, open := range []string{"java.nio", "sun.nio.ch", "java.lang"} {
		argv = append(argv, "--add-opens=java.base/"+open+"=ALL-UNNAMED")
	}
	argv = append(argv, "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED")
	argv = append(argv, flags...)
	return append(argv,
		"-Drocketmq.home.dir="+home,
		"-Duser.home="+home,                            // logs go to <user.home>/logs
		"-Djava.io.tmpdir="+filepath.Join(home, "tmp"), // RocksDB unpacks 50 MB there and leaves them after a kill
		"-cp", filepath.Join(lib, "*"))
}

// quickFlags make a short-lived JVM start fast and stay small.
var quickFlags = []string{"-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"}

func (c *Cluster) nameServerCommand() []string {
	argv := javaCommand(c.dir, c.lib, slices.Concat(quickFlags, c.tlsFlags(), []string{"-Xms64m", "-Xmx256m"})...)
	return append(argv, "org.apache.rocketmq.namesrv.NamesrvStartup", "-c", filepath.Join(c.dir, "namesrv.conf"))
}

func (c *Cluster) brokerCommand() []string {
	flags := []string{
		"-Xms256m", "-Xmx" + c.options.Heap, "-XX:MaxDirectMemorySize=" + c.options.DirectMemory,
		// Above these the broker deletes files and refuses messages. A developer's disk may well be that full.
		"-Drocketmq.broker.diskSpaceWarningLevelRatio=0.99",
		"-Drocketmq.broker.diskSpaceCleanForciblyRatio=0.98",
	}
	if !c.options.Measure {
		flags = append(flags, quickFlags...)
	}
	argv := javaCommand(c.dir, c.lib, append(flags, c.tlsFlags()...)...)
	return append(argv, "org.apache.rocketmq.broker.BrokerStartup", "-c", filepath.Join(c.dir, "broker.conf"))
}

// brokerConf is the content of broker.conf.
func (c *Cluster) brokerConf() map[string]string {
	conf := map[string]string{
		"brokerClusterName":           clusterName,
		"brokerName":                  c.options.BrokerName,
		"brokerId":                    "0",
		"brokerIP1":                   "127.0.0.1",
		"brokerIP2":                   "127.0.0.1",
		"namesrvAddr":                 c.nameServerAddr(),
		"listenPort":                  strconv.Itoa(c.ports.broker),
		"haListenPort":                strconv.Itoa(c.ports.ha),
		"storePathRootDir":            filepath.Join(c.dir, "store"),
		"storePathCommitLog":          filepath.Join(c.dir, "store", "commitlog"),
		"flushDiskType":               "ASYNC_FLUSH",
		"autoCreateTopicEnable":       "false", // a mistyped topic is an error, as in production
		"enablePropertyFilter":        "true",  // SQL filters
		"recallMessageEnable":         "true",  // delayed messages can be cancelled; off by default
		"timerWheelEnable":            "true",
		"transactionCheckInterval":    "5000",
		"transactionTimeOut":          "3000",
		"diskMaxUsedSpaceRatio":       "95",
		"diskSpaceWarningLevelRatio":  "99",
		"diskSpaceCleanForciblyRatio": "98",
	}
	if !c.options.Measure {
		maps.Copy(conf, map[string]string{
			"mappedFileSizeCommitLog":    strconv.Itoa(32 << 20), // must exceed the largest message, 4 MiB
			"mappedFileSizeConsumeQueue": strconv.Itoa(20 * 30000),
			"mappedFileSizeTimerLog":     strconv.Itoa(8 << 20),
			"registerNameServerPeriod":   "10000", // the least; a test of a lost name server waits for it
			// On two busy cores the default of 200 ms turns a slow moment into "broker busy".
			"waitTimeMillsInSendQueue":    "2000",
			"osPageCacheBusyTimeOutMills": "5000",
		})
	}
	if c.options.ACL {
		maps.Copy(conf, c.aclConf())
	}
	maps.Copy(conf, c.options.ExtraBrokerConf)
	return conf
}

// writeFiles lays out the home folder: both configurations, and the folders that RocketMQ expects.
func (c *Cluster) writeFiles() error {
	for _, sub := range []string{"", "tmp", "store", "conf", "auth"} {
		if err := os.MkdirAll(filepath.Join(c.dir, sub), 0o755); err != nil {
			return fmt.Errorf("create RocketMQ's home: %w", err)
		}
	}
	files := map[string]map[string]string{
		"namesrv.conf": {"listenPort": strconv.Itoa(c.ports.nameServer), "bindAddress": "127.0.0.1"},
		"broker.conf":  c.brokerConf(),
	}
	for name, conf := range files {
		var text strings.Builder
		for _, key := range slices.Sorted(maps.Keys(conf)) {
			fmt.Fprintf(&text, "%s=%s\n", key, conf[key])
		}
		if err := os.WriteFile(filepath.Join(c.dir, name), []byte(text.String()), 0o600); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return c.writeOldLogging()
}

// writeOldLogging gives the 4.x line the log configurations that it insists on; the 5.x line carries its own. Warnings go
// to standard output, so to namesrv.out and broker.out.
func (c *Cluster) writeOldLogging() error {
	if !strings.HasPrefix(c.options.Version, "4.") {
		return nil
	}
	const conf = `<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d %p %c - %m%n</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="out"/></root>
</configuration>
`
	for _, part := range []string{"namesrv", "broker", "tools"} {
		if err := os.WriteFile(filepath.Join(c.dir, "conf", "logback_"+part+".xml"), []byte(conf), 0o644); err != nil {
			return fmt.Errorf("write the log configuration of the %s: %w", part, err)
		}
	}
	return nil
}
