// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package wire

// Request codes. The numbers are those of org.apache.rocketmq.remoting.protocol.RequestCode, 5.5.0; the ones marked "5.x" are unknown to 4.9.
const (
	reqPullMessage          = 11
	reqQueryMessage         = 12
	reqQueryConsumerOffset  = 14
	reqUpdateConsumerOffset = 15
	reqSearchOffset         = 29
	reqGetMaxOffset         = 30
	reqGetMinOffset         = 31
	reqHeartBeat            = 34
	reqUnregisterClient     = 35
	reqSendMessageBack      = 36
	reqEndTransaction       = 37
	reqConsumerList         = 38
	reqCheckTransaction     = 39 // brokers ask it of us
	reqLockQueues           = 41
	reqUnlockQueues         = 42
	reqCheckClientConfig    = 46
	reqGetRoute             = 105
	reqGetClusterInfo       = 106
	reqUpdateGroup          = 200
	reqAllGroups            = 201
	reqConsumerConnections  = 203
	reqDeleteGroup          = 207
	reqConsumeStats         = 208
	reqDeleteTopic          = 215
	reqResetOffset          = 222
	reqSendMessageV2        = 310
	reqSendBatch            = 320
	reqRecallMessage        = 370    // 5.x, since 5.4
	reqPop                  = 200050 // 5.x
	reqAck                  = 200051 // 5.x
	reqChangeInvisible      = 200053 // 5.x
	reqNotification         = 200054 // 5.x
	reqBatchAck             = 200151 // 5.x
)

// Response codes, from org.apache.rocketmq.remoting.protocol.ResponseCode and RemotingSysResponseCode, 5.5.0.
const (
	CodeSuccess              = 0
	CodeSystemError          = 1
	CodeSystemBusy           = 2
	CodeNotSupported         = 3
	CodeFlushDiskTimeout     = 10
	CodeSlaveNotAvailable    = 11
	CodeFlushSlaveTimeout    = 12
	CodeMessageIllegal       = 13
	CodeServiceNotAvailable  = 14
	CodeVersionNotSupported  = 15
	CodeNoPermission         = 16
	CodeTopicNotExist        = 17
	CodePullNotFound         = 19
	CodePullRetryImmediately = 20
	CodePullOffsetMoved      = 21
	CodeQueryNotFound        = 22
	CodeSubscriptionBadParse = 23
	CodeGroupNotExist        = 26
	CodeInvalidParameter     = 29
	CodeConsumerNotOnline    = 206
	CodePollingFull          = 209 // more long polls wait than the broker takes
	CodePollTimeout          = 210 // a pop found nothing
	CodeIllegalOperation     = 604
)

// Bits of the header's flag.
const (
	flagResponse = 1 << 0
	flagOneWay   = 1 << 1
)

// protocolVersion is what we call ourselves: MQVersion.V5_0_0. Name servers answer a route as plain JSON to 4.9.4 and later only.
const protocolVersion = 413

// version5 is the first version number of the 5.x line; 4.9.7 answers 407.
const version5 = 413
