// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	proxyv1alpha1 "github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/api/v1alpha1"
	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/registry"
)

const (
	// primeLimit is how long a host that has just started is kept from its callers because clients are still being opened. It bounds what RocketMQ
	// that does not answer can do to readiness.
	primeLimit = 30 * time.Second
	primeLook  = 100 * time.Millisecond
)

// primer knows when a host that has just started can serve what existed before: callers that came earlier would be told that their Producer does
// not exist, which is no reason to try again.
type primer struct {
	names   *tracker
	clients Clients
	done    chan struct{}
}

// Primed is nil when every object that existed when this host started has been tried once. It has the form of a readiness check.
func (c *Controllers) Primed(*http.Request) error {
	select {
	case <-c.primer.done:
		return nil
	default:
		return errors.New("the clients of the objects that exist are still being opened")
	}
}

// PrimedChannel is closed when Primed has become nil.
func (c *Controllers) PrimedChannel() <-chan struct{} { return c.primer.done }

// run waits for the caches, then for each object in them. It ends with ctx, or when it is done.
func (p *primer) run(mgr ctrl.Manager) onEveryHost {
	return func(ctx context.Context) error {
		waiting, err := p.existing(ctx, mgr.GetClient())
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		began, count := time.Now(), len(waiting)
		look := time.NewTicker(primeLook)
		defer look.Stop()
		for p.drop(waiting); len(waiting) > 0 && time.Since(began) < primeLimit; p.drop(waiting) {
			select {
			case <-ctx.Done():
				return nil
			case <-look.C:
			}
		}
		mgr.GetLogger().Info("this host serves the objects that it found", "objects", count, "notTriedYet", len(waiting), "took", time.Since(began).String())
		close(p.done)
		p.names.stopNoting()
		return nil
	}
}

// existing lists what the caches hold; it blocks until they are filled.
func (p *primer) existing(ctx context.Context, reader client.Reader) (map[kindName]registry.Key, error) {
	found := map[kindName]registry.Key{}
	for kind, list := range map[registry.Kind]client.ObjectList{
		registry.Producer: &proxyv1alpha1.ProducerList{}, registry.Consumer: &proxyv1alpha1.ConsumerList{},
	} {
		if err := reader.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return nil, fmt.Errorf("list the %ss of the cache: %w", kind, err)
		}
		err := meta.EachListItem(list, func(o runtime.Object) error {
			obj := o.(object)
			name := types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.GetName()}
			found[kindName{kind, name}] = registry.Key{Kind: kind, UID: string(obj.GetUID())}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// drop takes out of waiting what was looked at and is not being started for the first time. What has no client after a pass is not meant to have
// one, or it has its reason in its conditions.
func (p *primer) drop(waiting map[kindName]registry.Key) {
	for of, key := range waiting {
		if !p.names.wasTried(of) {
			continue
		}
		status, found := p.clients.Status(key)
		if !found || status.State != registry.Starting || status.Err != nil {
			delete(waiting, of)
		}
	}
}
