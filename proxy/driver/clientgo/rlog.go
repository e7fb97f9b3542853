// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"fmt"

	"github.com/apache/rocketmq-client-go/v2/rlog"
	"github.com/go-logr/logr"
)

// Verbosity of the library's log lines in ours. It logs every hiccup of every client as an error; what matters is in conditions and metrics.
const (
	verboseError = 1
	verboseWarn  = 2
	verboseInfo  = 4
)

// shownFields are the fields that may be in our log. Everything else, whole messages above all, stays out.
var shownFields = []string{
	rlog.LogKeyProducerGroup, rlog.LogKeyConsumerGroup, rlog.LogKeyTopic, rlog.LogKeyMessageQueue, rlog.LogKeyUnderlayError, rlog.LogKeyBroker,
	rlog.LogKeyMessageId, rlog.LogKeyQueueId, rlog.LogKeyQueueOffset, "clientID", "brokerName", "remoteAddr", "responseCode",
}

// quiet is the library's logger. It is one for the process.
type quiet struct{ log logr.Logger }

// routeLog sends the library's log lines to log.
func routeLog(log logr.Logger) { rlog.SetLogger(quiet{log.WithName("rocketmq-client-go")}) }

func (q quiet) write(verbosity int, msg string, fields map[string]interface{}) {
	l := q.log.V(verbosity)
	if !l.Enabled() {
		return
	}
	var pairs []any
	for _, name := range shownFields {
		if value, ok := fields[name]; ok {
			pairs = append(pairs, name, fmt.Sprint(value))
		}
	}
	l.Info(msg, pairs...)
}

// Debug implements rlog.Logger. The library logs each pull here: too much at any level.
func (q quiet) Debug(string, map[string]interface{}) {}

// Info implements rlog.Logger.
func (q quiet) Info(msg string, fields map[string]interface{}) { q.write(verboseInfo, msg, fields) }

// Warning implements rlog.Logger.
func (q quiet) Warning(msg string, fields map[string]interface{}) { q.write(verboseWarn, msg, fields) }

// Error implements rlog.Logger.
func (q quiet) Error(msg string, fields map[string]interface{}) { q.write(verboseError, msg, fields) }

// Fatal implements rlog.Logger. The library calls it on ways that this driver does not take; nothing may end the process from here.
func (q quiet) Fatal(msg string, fields map[string]interface{}) { q.write(0, msg, fields) }

// Level implements rlog.Logger.
func (q quiet) Level(string) {}

// OutputPath implements rlog.Logger.
func (q quiet) OutputPath(string) error { return nil }
