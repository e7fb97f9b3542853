// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/funcr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
)

// countedEvents counts Events by type.
type countedEvents map[string]int

func (c countedEvents) Eventf(_, _ runtime.Object, eventType, _, _, _ string, _ ...any) {
	c[eventType]++
}

// TestWhatHappensToVeryManyObjectsAtOnceIsToldForTheFirst: 10,000 objects that become ready or fail together must not cost 10,000 Events, yet each
// line can be found in the log, and good news does not use up what is kept for warnings.
func TestWhatHappensToVeryManyObjectsAtOnceIsToldForTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		written, logged := countedEvents{}, 0
		log := funcr.New(func(_, line string) {
			if strings.Contains(line, `"reason"="Ready"`) || strings.Contains(line, `"reason"="BrokerUnavailable"`) {
				logged++
			}
		}, funcr.Options{})
		recorder := newEventRecorder(written, log)
		become := func(n int, status metav1.ConditionStatus, reason string) {
			for i := range n {
				o := &proxyv1alpha1.Producer{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p-", i)}}
				recorder.transition(o, nil, []metav1.Condition{{Type: "Ready", Status: status, Reason: reason}})
			}
		}
		become(10000, metav1.ConditionTrue, "Ready")
		become(100, metav1.ConditionFalse, "BrokerUnavailable")
		if written["Normal"] != eventBurst || written["Warning"] != 100 || logged != 10000-eventBurst {
			t.Errorf("%v were written and %d logged, want %d and 100 written and the rest logged", written, logged, eventBurst)
		}
		time.Sleep(time.Minute)
		become(100, metav1.ConditionTrue, "Ready")
		if written["Normal"] != eventBurst+100 {
			t.Errorf("a minute later %d of 100 were written", written["Normal"]-eventBurst)
		}
	})
}
