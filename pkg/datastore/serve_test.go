package datastore

import (
	"context"
	"testing"

	"github.com/k3s-io/kine/pkg/server"
)

// watchOf is a backend that keeps the context of its last watch.
type watchOf struct {
	server.Backend
	ctx context.Context
}

func (w *watchOf) Watch(ctx context.Context, _ int64) server.WatchResult {
	w.ctx = ctx
	return server.WatchResult{}
}

// TestWatchesEnd ends one watch, and then the component.
func TestWatchesEnd(t *testing.T) {
	component, stop := context.WithCancel(t.Context())
	engine := &watchOf{}
	b := watchedUntil{engine, component}
	client, leave := context.WithCancel(t.Context())
	b.Watch(client, 0)
	one := engine.ctx
	b.Watch(t.Context(), 0)
	other := engine.ctx
	leave()
	<-one.Done()
	if other.Err() != nil {
		t.Error("a watch has ended with another one")
	}
	stop()
	<-other.Done()
}
