package addon

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// waits knows which Addons wait for kinds that the API does not know yet.
type waits struct {
	mu    sync.Mutex
	kinds map[string][]schema.GroupKind // by Addon
	stop  context.CancelFunc            // ends the watch; nil while there is none
	begun chan struct{}                 // has an element when somebody has begun to wait
}

func newWaits() *waits {
	return &waits{kinds: make(map[string][]schema.GroupKind), begun: make(chan struct{}, 1)}
}

// set says what an Addon waits for; nothing ends the watch if it was the last.
func (w *waits) set(name string, kinds []schema.GroupKind) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(kinds) == 0 {
		delete(w.kinds, name)
		if len(w.kinds) == 0 && w.stop != nil {
			w.stop()
		}
		return
	}
	w.kinds[name] = kinds
	select {
	case w.begun <- struct{}{}:
	default:
	}
}

// of are the Addons that wait for a kind of the group, or for any if it is "".
func (w *waits) of(group string) (names []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, kinds := range w.kinds {
		for _, k := range kinds {
			if group == "" || k.Group == group {
				names = append(names, name)
				break
			}
		}
	}
	return names
}

// watch returns the context that a watch may live in; nil when nobody waits.
func (w *waits) watch(ctx context.Context) context.Context {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stop != nil {
		w.stop() // that of a watch which broke
		w.stop = nil
	}
	if len(w.kinds) == 0 {
		return nil
	}
	ctx, w.stop = context.WithCancel(ctx)
	return ctx
}

// pauseWatch is how long to wait before a watch that broke is begun again.
const pauseWatch = time.Second

// watchKinds has Addons tried again as soon as a kind is defined in a group that they wait for. It watches only while
// one does.
func (r *run) watchKinds(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.waits.begun:
		}
		for {
			watching := r.waits.watch(ctx)
			if watching == nil || ctx.Err() != nil {
				break
			}
			err := r.cluster.watchKinds(watching, func(group string) { r.retry(r.waits.of(group)...) })
			if err != nil && watching.Err() == nil {
				r.log.Debug("watching the definitions of kinds had a hiccup", "error", err)
			}
			pause(watching, pauseWatch)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
