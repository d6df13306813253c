package ingress

import (
	"context"
	"log/slog"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/knarr-io/knarr/pkg/lifecycle"
)

// A watch that cannot be had is tried again after firstRetry, which doubles up to lastRetry.
const (
	firstRetry = 250 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// watcher watches kinds. Its methods are called by one goroutine, that of the definitions' reflector.
type watcher struct {
	crew    *lifecycle.Crew
	clients clients
	demand  *demand
	log     *slog.Logger
	// ends stop the watch of a custom kind.
	ends map[string]context.CancelFunc
}

// watch keeps the store as the objects of the kind are until ctx ends.
func (w *watcher) watch(ctx context.Context, k kind, store cache.ReflectorStore) error {
	reflector := cache.NewReflectorWithOptions(w.source(k), nil, store, cache.ReflectorOptions{Name: "ingress " + k.name})
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		began := time.Now()
		err := reflector.ListAndWatchWithContext(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > lastRetry {
			wait = firstRetry
		}
		// A kind whose definition has just come, or is going, is not there for a moment.
		w.log.Debug("the watch for the ingress controller has ended; trying again", "kind", k.name, "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// source is where a reflector takes the objects of a kind from: whole only if there is a field to read.
func (w *watcher) source(k kind) cache.ListerWatcher {
	if k.field == nil {
		client := w.clients.metadata.Resource(k.resource)
		return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
			ListWithContextFunc:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return client.List(ctx, o) },
			WatchFuncWithContext: client.Watch,
		}, w.clients.metadata)
	}
	client := w.clients.whole.Resource(k.resource)
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return client.List(ctx, o) },
		WatchFuncWithContext: client.Watch,
	}, w.clients.whole)
}

// definitionStore has custom kinds watched while their definitions are there. It is the store of a reflector.
type definitionStore struct {
	ctx     context.Context // of the crew; a store is not given one
	watcher *watcher
}

// Add implements cache.ReflectorStore.
func (s *definitionStore) Add(obj any) error {
	name, err := keyOf(obj)
	if err != nil {
		return err
	}
	w := s.watcher
	for _, k := range kinds {
		if !k.custom || k.resource.GroupResource().String() != name || w.ends[k.name] != nil {
			continue
		}
		w.demand.expect(k.name)
		ctx, end := context.WithCancel(s.ctx)
		done := make(chan struct{})
		w.ends[k.name] = func() {
			end()
			<-done // so that it does not fill again what is forgotten
		}
		w.crew.Go(func() error {
			defer close(done)
			return w.watch(ctx, k, w.demand.store(k.name))
		})
	}
	return nil
}

// Update implements cache.ReflectorStore.
func (s *definitionStore) Update(obj any) error { return s.Add(obj) }

// Delete implements cache.ReflectorStore.
func (s *definitionStore) Delete(obj any) error {
	name, err := keyOf(obj)
	if err == nil {
		s.remove(func(defined string) bool { return defined == name })
	}
	return err
}

// Replace implements cache.ReflectorStore.
func (s *definitionStore) Replace(list []any, _ string) error {
	there := make(map[string]bool)
	for _, obj := range list {
		name, err := keyOf(obj)
		if err != nil {
			return err
		}
		there[name] = true
	}
	s.remove(func(defined string) bool { return !there[defined] })
	for _, obj := range list {
		if err := s.Add(obj); err != nil {
			return err
		}
	}
	s.watcher.demand.forget(definitions.name)
	return nil
}

// Resync implements cache.ReflectorStore.
func (*definitionStore) Resync() error { return nil }

// remove ends the watches of kinds whose definitions are gone.
func (s *definitionStore) remove(gone func(definition string) bool) {
	w := s.watcher
	for _, k := range kinds {
		if end := w.ends[k.name]; end != nil && gone(k.resource.GroupResource().String()) {
			end()
			delete(w.ends, k.name)
			w.demand.forget(k.name)
		}
	}
}
