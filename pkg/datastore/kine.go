package datastore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What is made good around kine: its etcd server, which all engines have but etcd itself, and its SQL drivers.

const (
	// emulatedVersion is the etcd version the server claims: what makes the apiserver use watch progress
	// notifications (kine v0.17.5 pkg/app/app.go: --emulated-etcd-version).
	emulatedVersion = "3.6.11"
	// notifyInterval is the time between progress notifications on idle watches. kine's default of 5 s wakes each of the
	// apiserver's some 60 watches, through eight goroutines each, for nothing; etcd's is 10 min (server/embed/config.go). The
	// apiserver asks for progress when it needs it (progress.ConditionalProgressRequester); this is for its clients'
	// bookmarks, which come once a minute (apiserver pkg/storage/cacher/cacher.go:71) and stay well inside the five
	// minutes that compaction leaves.
	notifyInterval = time.Minute
)

// kineServer makes an etcd server of a backend, whose watches end when ctx does.
func kineServer(ctx context.Context, b *backend) *grpc.Server {
	g := grpc.NewServer(append(serverOptions(), grpc.StreamInterceptor(watchesEndWell(ctx)))...)
	server.New(watchedUntil{b, ctx}, "http", notifyInterval, emulatedVersion).Register(g)
	return g
}

// watchedUntil is a backend whose watches end before kine's server ends them. That closes a channel from which its
// goroutines then read without end until the watch below them has ended too (kine v0.17.5 pkg/server/watch.go:302): with
// the hundred watches of an apiserver, a stop took half a second of all cores.
type watchedUntil struct {
	server.Backend
	ctx context.Context
}

// Watch is that of the backend.
func (w watchedUntil) Watch(ctx context.Context, revision int64) server.WatchResult {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(w.ctx, cancel)
	context.AfterFunc(ctx, func() {
		stop()
		cancel()
	})
	return w.Backend.Watch(ctx, revision)
}

// watchesEndWell has a watch that ends by itself, as when its database cannot be read, end as one whose revision was
// compacted: its client lists again. To an end without a reason, etcd's client closes a channel that it may still send
// progress to, and panics (https://github.com/etcd-io/etcd/issues/21969). When ctx has ended, a watch ends with its stream.
func watchesEndWell(ctx context.Context) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		return handler(srv, watchStream{stream, ctx})
	}
}

type watchStream struct {
	grpc.ServerStream
	serving context.Context
}

// SendMsg is that of the stream.
func (s watchStream) SendMsg(m any) error {
	if resp, ok := m.(*etcdserverpb.WatchResponse); ok && resp.Canceled && !resp.Created && resp.CompactRevision == 0 {
		if s.serving.Err() != nil {
			return nil
		}
		resp.CompactRevision = max(resp.Header.GetRevision(), 1)
	}
	return s.ServerStream.SendMsg(m)
}

// verified is a driver of kine's that says of a key only what is true. When a row could not be inserted, because the
// connection broke or the database takes no more, and the key does not exist, kine loses the error and reports somebody
// else's revision as that of the new key; and when the key had been deleted before, it reports that it exists (kine v0.17.5
// pkg/logstructured/logstructured.go, Create).
type verified struct{ server.Backend }

// Create is that of the driver, and looks whether the key is there.
func (v verified) Create(ctx context.Context, key string, value []byte, lease int64) (int64, error) {
	rev, err := v.Backend.Create(ctx, key, value, lease)
	if err != nil && !errors.Is(err, server.ErrKeyExists) {
		return rev, err
	}
	_, kv, lookErr := v.Get(ctx, key, 0, true)
	switch {
	case lookErr != nil:
		return 0, fmt.Errorf("look whether key %s was created: %w", key, lookErr)
	case kv == nil, err == nil && kv.CreateRevision != rev:
		return 0, status.Errorf(codes.Unavailable, "key %s is not there as it was to be created: the database did not take it, or it was replaced at once", key)
	}
	return rev, err
}
