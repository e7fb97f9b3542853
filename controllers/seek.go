// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/server"
)

// Mover moves the group of a Consumer from this host, to be found by its name; see driver.Consumer.Seek. It blocks for at most ctx.
type Mover func(ctx context.Context, namespace, name string, to driver.Target) (mark string, err error)

// seeker moves Consumers, by their annotation or for a caller of Seek. A seek is one entry in status.seek, written with the resourceVersion: whoever writes
// state Moving moves the group, and nobody else does while that process has its Lease. So it is done once over all hosts; when the process dies on the way,
// another begins anew, which is harmless. The state Done has the driver's mark; the event of that write makes every host let go of what it fetched
// before. Safe for concurrent use.
type seeker struct {
	client client.Client // for applies
	reader client.Reader // from the API server
	host   *Host
	names  *tracker
	move   Mover
	events *eventRecorder
	log    logr.Logger
	now    func() time.Time

	mu sync.Mutex
	// running are the seeks that this process is at, by object: their ids. mu guards it, life and joined.
	running map[registry.Key]string
	life    context.Context // of the manager; nil before it runs and when it has ended
	jobs    sync.WaitGroup  // added to under mu while life is set
}

const (
	// seekManager is the field manager of status.seek, which all hosts share.
	seekManager = "rocketmq-proxy-seek"
	// seekLimit bounds one try to move a group.
	seekLimit = 30 * time.Second
	// seekRecordLimit is how long a call waits for its result to be recorded.
	seekRecordLimit = 10 * time.Second
	// seekRetryFirst and seekRetryMost bound the pause between two tries; it doubles.
	seekRetryFirst, seekRetryMost = time.Second, time.Minute
	// seekLook is how often a seek of another host is looked at: its Lease may go.
	seekLook = 10 * time.Second

	reasonSought     = "Sought"
	reasonSeekFailed = "SeekFailed"
	actionSeek       = "Seek"
)

var _ server.Seeker = (*seeker)(nil)

func seekMark(c *proxyv1alpha1.Consumer) string {
	if c.Status.Seek == nil {
		return ""
	}
	return c.Status.Seek.Mark
}

// run gives the jobs their life, and joins them at its end.
func (s *seeker) run(ctx context.Context) error {
	s.mu.Lock()
	s.life = ctx
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.life = nil
	s.mu.Unlock()
	s.jobs.Wait()
	return nil
}

// claim registers that this process is at the seek id of key, and lends the life for it. It fails when it is at one already, or the process ends.
func (s *seeker) claim(key registry.Key, id string) (life context.Context, release func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, busy := s.running[key]; busy || s.life == nil || s.life.Err() != nil {
		return nil, nil, false
	}
	s.running[key] = id
	s.jobs.Add(1)
	return s.life, func() {
		s.mu.Lock()
		delete(s.running, key)
		s.mu.Unlock()
		s.jobs.Done()
	}, true
}

// attend looks at what c's annotation asks for and how far its last seek is, and does what is to be done on this host. again is when to look without being
// woken.
func (s *seeker) attend(ctx context.Context, c *proxyv1alpha1.Consumer, alive func(host, incarnation string) bool) (again time.Duration, err error) {
	want, last := strings.TrimSpace(c.Annotations[proxyv1alpha1.SeekAnnotation]), c.Status.Seek
	switch {
	case last != nil && last.State == proxyv1alpha1.SeekMoving:
		return s.continueMoving(ctx, c, last, alive)
	case last == nil && want == "", last != nil && last.Annotation == clip(want):
		return 0, nil
	case want == "":
		next := *last
		next.Annotation = ""
		return 0, s.apply(ctx, c, &next)
	}
	next := s.newSeek(clip(want), proxyv1alpha1.SeekByAnnotation, last)
	next.Annotation = clip(want)
	to, bad := driver.ParseTarget(want)
	if bad != nil {
		next.State, next.CompletedAt = proxyv1alpha1.SeekFailed, next.RequestedAt
		next.Message = tidy(fmt.Sprintf("annotation %s: %v; set it to one of these", proxyv1alpha1.SeekAnnotation, bad))
		if err := s.apply(ctx, c, next); err != nil {
			return 0, err
		}
		s.tell(c, next)
		return 0, nil
	}
	next.To = to.String()
	if err := s.apply(ctx, c, next); err != nil {
		return 0, err
	}
	s.start(c, next.ID, to)
	return 0, nil
}

// clip is a value of the annotation as status keeps it.
func clip(value string) string {
	const most = 100
	if len(value) <= most {
		return value
	}
	return strings.ToValidUTF8(value[:most], "")
}

// continueMoving begins anew what this process or one that is gone has not finished.
func (s *seeker) continueMoving(ctx context.Context, c *proxyv1alpha1.Consumer, last *proxyv1alpha1.SeekStatus, alive func(host, incarnation string) bool) (time.Duration, error) {
	to, err := driver.ParseTarget(last.To)
	switch {
	case err != nil:
		return 0, fmt.Errorf("status.seek.to: %w", err)
	case last.Incarnation == s.host.Incarnation():
		s.start(c, last.ID, to)
		return seekLook, nil
	case alive(last.Host, last.Incarnation):
		return seekLook, nil
	}
	next := *last
	next.Host, next.Incarnation, next.Message = s.host.Name(), s.host.Incarnation(), ""
	if err := s.apply(ctx, c, &next); err != nil {
		return 0, err
	}
	s.start(c, next.ID, to)
	return seekLook, nil
}

// newSeek is an entry in state Moving of this host. What the last one left for the hosts to know stays until it is replaced.
func (s *seeker) newSeek(to, by string, last *proxyv1alpha1.SeekStatus) *proxyv1alpha1.SeekStatus {
	var id [8]byte
	_, _ = rand.Read(id[:]) // it never fails
	next := &proxyv1alpha1.SeekStatus{
		ID: hex.EncodeToString(id[:]), To: to, By: by, State: proxyv1alpha1.SeekMoving, Host: s.host.Name(), Incarnation: s.host.Incarnation(),
		RequestedAt: &metav1.Time{Time: s.now()},
	}
	if last != nil {
		next.Annotation, next.Mark = last.Annotation, last.Mark
	}
	return next
}

// start moves c's group in a job of its own, unless this process is at it already.
func (s *seeker) start(c *proxyv1alpha1.Consumer, id string, to driver.Target) {
	life, release, ok := s.claim(registry.Key{Kind: registry.Consumer, UID: string(c.UID)}, id)
	if !ok {
		return
	}
	name, uid := client.ObjectKeyFromObject(c), c.UID
	go func() {
		defer release()
		s.moveUntilDone(life, name, uid, id, to)
	}()
}

// moveUntilDone tries until the group has moved, can never be, or nobody wants it any more.
func (s *seeker) moveUntilDone(life context.Context, name types.NamespacedName, uid types.UID, id string, to driver.Target) {
	told := ""
	for pause := seekRetryFirst; ; pause = min(2*pause, seekRetryMost) {
		ctx, cancel := context.WithTimeout(life, seekLimit)
		mark, err := s.move(ctx, name.Namespace, name.Name, to)
		cancel()
		if err == nil || final(err) {
			s.finish(life, name, uid, id, mark, err)
			return
		}
		if life.Err() != nil {
			return
		}
		if text := tidy(err.Error()); text != told {
			told = text
			s.log.Info("a Consumer could not be moved, it is tried again", "namespace", name.Namespace, "name", name.Name, "to", to.String(), "reason", text)
			if !s.record(life, name, uid, id, func(seek *proxyv1alpha1.SeekStatus) { seek.Message = text }) {
				return
			}
		} else if _, wanted, err := s.current(life, name, uid, id); err == nil && !wanted {
			return
		}
		if !driver.Sleep(life, pause) {
			return
		}
	}
}

// final reports whether a move can never work, or not before somebody has put something right. What this host's registry says ends by itself.
func final(err error) bool {
	var notFound *registry.NotFoundError
	var notReady *registry.NotReadyError
	if errors.As(err, &notFound) || errors.As(err, &notReady) || errors.Is(err, registry.ErrDraining) {
		return false
	}
	return !driver.Retryable(err)
}

// finish records what became of a seek, and tells it by an Event.
func (s *seeker) finish(ctx context.Context, name types.NamespacedName, uid types.UID, id, mark string, err error) (recorded bool) {
	return s.record(ctx, name, uid, id, func(seek *proxyv1alpha1.SeekStatus) {
		seek.State, seek.Message, seek.CompletedAt = proxyv1alpha1.SeekDone, "", &metav1.Time{Time: s.now()}
		if err != nil {
			seek.State, seek.Message = proxyv1alpha1.SeekFailed, tidy(err.Error())
			return
		}
		seek.Mark = mark
	})
}

// record changes the entry of the seek id, as often as it takes. It answers false when there is no such seek any more, or ctx has ended.
func (s *seeker) record(ctx context.Context, name types.NamespacedName, uid types.UID, id string, change func(*proxyv1alpha1.SeekStatus)) bool {
	for pause := conflictInterval; ; pause = min(2*pause, seekRetryMost) {
		c, wanted, err := s.current(ctx, name, uid, id)
		if err == nil && !wanted {
			return false
		}
		if err == nil {
			next := *c.Status.Seek
			change(&next)
			if err = s.apply(ctx, c, &next); err == nil {
				s.tell(c, &next)
				return true
			}
		}
		if apierrors.IsConflict(err) {
			pause = conflictInterval / 2
		} else {
			s.log.V(1).Info("the result of a seek could not be written, trying again", "namespace", name.Namespace, "name", name.Name, "reason", err.Error())
		}
		if !driver.Sleep(ctx, pause) {
			return false
		}
	}
}

// current reads the Consumer; wanted is whether it still wants the seek id.
func (s *seeker) current(ctx context.Context, name types.NamespacedName, uid types.UID, id string) (c *proxyv1alpha1.Consumer, wanted bool, err error) {
	c = &proxyv1alpha1.Consumer{}
	if err := s.reader.Get(ctx, name, c); err != nil {
		return nil, false, client.IgnoreNotFound(err)
	}
	seek := c.Status.Seek
	return c, c.UID == uid && c.DeletionTimestamp.IsZero() && seek != nil && seek.ID == id && seek.Incarnation == s.host.Incarnation(), nil
}

// tell writes the Event of a seek that has ended.
func (s *seeker) tell(c *proxyv1alpha1.Consumer, seek *proxyv1alpha1.SeekStatus) {
	switch seek.State {
	case proxyv1alpha1.SeekDone:
		s.events.sought(c, fmt.Sprintf("moved to %s by %s, on host %s", seek.To, seek.By, seek.Host))
	case proxyv1alpha1.SeekFailed:
		s.events.seekFailed(c, fmt.Sprintf("not moved to %s as %s asked: %s", seek.To, seek.By, seek.Message))
	case proxyv1alpha1.SeekMoving:
	}
}

// apply writes status.seek of c as it was read.
func (s *seeker) apply(ctx context.Context, c *proxyv1alpha1.Consumer, seek *proxyv1alpha1.SeekStatus) error {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(seek)
	if err != nil {
		return fmt.Errorf("convert status.seek: %w", err)
	}
	u := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"seek": content}}}
	u.SetGroupVersionKind(proxyv1alpha1.GroupVersion.WithKind(string(registry.Consumer)))
	u.SetNamespace(c.Namespace)
	u.SetName(c.Name)
	u.SetResourceVersion(c.ResourceVersion)
	err = s.client.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(seekManager), client.ForceOwnership)
	version := u.GetResourceVersion()
	if err != nil {
		version = "unknown"
	}
	s.names.setWrote(registry.Key{Kind: registry.Consumer, UID: string(c.UID)}, version)
	if err != nil {
		return fmt.Errorf("write status.seek: %w", err)
	}
	return nil
}

// Seek implements server.Seeker: the caller's seek is written before anything moves.
func (s *seeker) Seek(ctx context.Context, call server.Seek) error {
	name, uid := types.NamespacedName{Namespace: call.Namespace, Name: call.Name}, types.UID(call.Key.UID)
	seek, release, err := s.begin(ctx, name, uid, call)
	if err != nil {
		return err
	}
	defer release()
	mark, failed := call.Move(ctx)
	// The caller may have gone: others still have to be told.
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), seekRecordLimit)
	defer cancel()
	if recorded := s.finish(limit, name, uid, seek.ID, mark, failed); !recorded && failed == nil {
		return driver.Errorf(driver.Unavailable, "", "the Consumer was moved, but its status could not be written, so that other hosts may still deliver what they had fetched: repeat the call")
	}
	return failed
}

// begin writes the caller's seek. The caller releases.
func (s *seeker) begin(ctx context.Context, name types.NamespacedName, uid types.UID, call server.Seek) (*proxyv1alpha1.SeekStatus, func(), error) {
	seek := s.newSeek(call.To.String(), call.By, nil)
	_, release, ok := s.claim(call.Key, seek.ID)
	if !ok {
		return nil, nil, underWay()
	}
	for {
		c := &proxyv1alpha1.Consumer{}
		err := s.reader.Get(ctx, name, c)
		last := c.Status.Seek
		switch {
		case err == nil && c.UID != uid:
			err = driver.Errorf(driver.Unavailable, "", "the Consumer was deleted meanwhile")
		case err == nil && last != nil && last.State == proxyv1alpha1.SeekMoving && s.living(last):
			err = underWay()
		case err == nil:
			if last != nil {
				seek.Annotation, seek.Mark = last.Annotation, last.Mark
			}
			if err = s.apply(ctx, c, seek); err == nil {
				return seek, release, nil
			}
			if apierrors.IsConflict(err) && driver.Sleep(ctx, conflictInterval/2) {
				continue
			}
		}
		release()
		var known *driver.Error
		if errors.As(err, &known) {
			return nil, nil, err
		}
		return nil, nil, driver.Errorf(driver.Unavailable, "", "the seek could not be recorded, so nothing was moved: %w", err)
	}
}

func underWay() error {
	return driver.Errorf(driver.Unavailable, "", "another seek of this Consumer is under way: look at status.seek, then try again")
}

// living reports whether the process that moves is there.
func (s *seeker) living(seek *proxyv1alpha1.SeekStatus) bool {
	return slices.ContainsFunc(s.host.Peers(), func(p Peer) bool { return !p.Stale && p.Name == seek.Host && p.Incarnation == seek.Incarnation })
}
