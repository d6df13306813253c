// Package follow has what control loops do alike: they follow the objects of some informers, wait until they have seen
// those that there are, and are woken by what happens to them.
//
// It holds no rule of any loop and no objects; informers belong to their factory. It starts no goroutines of its own: what
// it begins ends with [Following.End], or with the factory.
package follow

import (
	"context"
	"time"

	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// Factory is as much of an informer factory as is needed: k8s.io/client-go/informers.SharedInformerFactory.
type Factory interface {
	StartWithContext(ctx context.Context)
}

// On is an informer and what is called for the objects that it has and gets; nothing, when Handler is nil.
type On struct {
	Informer cache.SharedIndexInformer
	Handler  cache.ResourceEventHandler
}

// Following is what [Start] began.
type Following struct {
	seen []<-chan struct{}
	ends []func()
}

// Start has the handlers called from now on, and starts the factory's informers, until ctx ends. The caller ends it with
// [Following.End]; after an error there is nothing to end.
func Start(ctx context.Context, factory Factory, on ...On) (*Following, error) {
	f := &Following{}
	for _, o := range on {
		if o.Handler == nil {
			f.seen = append(f.seen, o.Informer.HasSyncedChecker().Done())
			continue
		}
		registration, err := o.Informer.AddEventHandler(o.Handler)
		if err != nil {
			f.End()
			return nil, err
		}
		f.seen = append(f.seen, registration.HasSyncedChecker().Done())
		f.ends = append(f.ends, func() { _ = o.Informer.RemoveEventHandler(registration) }) // fails only for one of another informer
	}
	factory.StartWithContext(ctx)
	return f, nil
}

// Synced waits until the handlers were called for all objects that there are. It reports false when ctx ended before.
func (f *Following) Synced(ctx context.Context) bool {
	for _, seen := range f.seen {
		select {
		case <-seen:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// End has the handlers no longer called.
func (f *Following) End() {
	for _, end := range f.ends {
		end()
	}
}

// Bell tells a loop that there is something to look at, however often it is rung before the loop does. Use [NewBell].
type Bell chan struct{}

// NewBell makes a bell that was not rung.
func NewBell() Bell { return make(Bell, 1) }

// Ring has the next receive from the bell return; it never waits.
func (b Bell) Ring() {
	select {
	case b <- struct{}{}:
	default: // it was rung already
	}
}

// NewQueue makes a queue whose items come back, when they are added with a rate limit, after first, which doubles up to
// last with each time in a row.
func NewQueue[T comparable](first, last time.Duration) workqueue.TypedRateLimitingInterface[T] {
	return workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[T](first, last))
}
