// Copyright The RocketMQ Proxy Operator Authors.
// SPDX-License-Identifier: Apache-2.0

package clientgo

import (
	"context"
	"fmt"
	"reflect"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	library "github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/go-logr/logr"

	"github.com/rocketmq-proxy-operator/rocketmq-proxy-operator/proxy/driver"
)

// Time-outs of the library's connections, one set for the whole process.
const (
	// libraryDial bounds how long a client-wide lock is held while it dials (15 s by default).
	libraryDial = 5 * time.Second
	// libraryRead ends a connection on which nothing came: two heartbeats and two route updates are missing by then (120 s by default). It is
	// also how long a name server's connection outlives its client where closing it fails.
	libraryRead  = 70 * time.Second
	libraryWrite = 10 * time.Second
)

var prepared = struct {
	sync.Once
	err error
}{}

// prepareLibrary sets what is global in the library, once. The option for time-outs writes a global that every later client shares, so it
// must be applied before the first client exists; a producer that cannot be made applies it and leaves nothing.
func prepareLibrary(log logr.Logger) error {
	prepared.Do(func() {
		routeLog(log)
		p, err := library.NewDefaultProducer(library.WithNsResolver(noServers{}), library.WithRemotingTimeout(libraryDial, libraryRead, libraryWrite))
		if err == nil {
			prepared.err = fmt.Errorf("rocketmq-client-go made producer %T without a name server: it is not the version that this driver knows", p)
		}
	})
	return prepared.err
}

// noServers resolves to nothing.
type noServers struct{}

func (noServers) Resolve() []string   { return nil }
func (noServers) Description() string { return "none" }

// labelKey is the pprof label of all goroutines of one client; goroutines inherit it from the one that starts them.
const labelKey = "rocketmq_client"

// labelled is a context whose label a goroutine can take with pprof.SetGoroutineLabels. It has no other label: whoever opens a client may label what it
// starts and look for it later, as the registry's audit does, and must not find what Leftovers tells of.
func labelled(label string) context.Context {
	return pprof.WithLabels(context.Background(), pprof.Labels(labelKey, label))
}

// call runs a call of the library in a goroutine of its own with the client's label, and waits for it until ctx ends; the call itself cannot be
// interrupted and goes on. A panic in it is an error. finished is closed when it is over.
func call(ctx context.Context, label, what string, work func() error) (finished <-chan struct{}, err error) {
	over := make(chan struct{})
	var result error
	go func() {
		defer close(over)
		pprof.SetGoroutineLabels(labelled(label))
		result = guarded(what, work)
	}()
	select {
	case <-over:
		return over, result
	case <-ctx.Done():
		return over, driver.Errorf(driver.Timeout, "", "%s: %w", what, ctx.Err())
	}
}

// guarded turns a panic of the library into an error.
func guarded(what string, work func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = driver.Errorf(driver.Unavailable, "", "%s: the RocketMQ library panicked: %v at %s", what, p, panicSite())
		}
	}()
	return work()
}

// panicSite is the first line of the stack that is the library's.
func panicSite() string {
	for line := range strings.SplitSeq(string(debug.Stack()), "\n") {
		if strings.Contains(line, libraryPath) && !strings.HasPrefix(line, "\t") {
			return line
		}
	}
	return "an unknown place"
}

// libraryPath is in the name of every function of the library.
const libraryPath = "apache/rocketmq-client-go/v2/"

// field reads a field of the library, exported or not, following pointers, embedded structs and interfaces. The library has no other way to what the
// callers of this function need, and this project pins its version; TestTheLibraryIsTheOneThatWeKnow fails when a field is gone.
func field(of any, path ...string) (any, error) {
	v := reflect.ValueOf(of)
	for _, name := range path {
		for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
			v = v.Elem()
		}
		if v.Kind() != reflect.Struct {
			return nil, fmt.Errorf("%T has no field %s: %s is not a struct", of, strings.Join(path, "."), v.Kind())
		}
		if v = v.FieldByName(name); !v.IsValid() {
			return nil, fmt.Errorf("%T has no field %s (at %q)", of, strings.Join(path, "."), name)
		}
		if !v.CanAddr() {
			return nil, fmt.Errorf("%T: field %s cannot be reached", of, strings.Join(path, "."))
		}
		// A value that was reached through an unexported field may be looked at but not used; its address makes a usable one.
		v = reflect.NewAt(v.Type(), unsafe.Pointer(v.UnsafeAddr())).Elem() //nolint:gosec // see the function's comment
	}
	if v.Kind() == reflect.Struct {
		return v.Addr().Interface(), nil
	}
	return v.Interface(), nil
}

// fieldAs is field for a known type; a struct is returned as its address.
func fieldAs[T any](of any, path ...string) (T, error) {
	var none T
	v, err := field(of, path...)
	if err != nil {
		return none, err
	}
	typed, ok := v.(T)
	if !ok {
		return none, fmt.Errorf("%T: field %s is a %T", of, strings.Join(path, "."), v)
	}
	return typed, nil
}

// closeNameServer closes the connection to the name server that the library's Shutdown leaves open.
func closeNameServer(client any, path ...string) error {
	remote, err := fieldAs[interface{ ShutDown() }](client, slices.Concat(path, []string{"option", "Namesrv", "nameSrvClient"})...)
	if err != nil {
		return err
	}
	remote.ShutDown()
	return nil
}
