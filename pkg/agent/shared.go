package agent

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
)

// resync is upstream's --min-resync-period of kube-controller-manager.
const resync = 12 * time.Hour

// Shared is the one client and the one informer factory of knarr's own components, so that an object is decoded once and
// held once. As a component it owns the informers' end: those who use them start them, each as it needs them, and they last
// until the component stops, since who started one may end while others use it, as on a server that leads no longer. Upstream's
// controllers and scheduler cannot take part: they register handlers before they are complete, which must not see
// events, and here others may have started the informers before.
type Shared struct {
	client    kubernetes.Interface
	informers lasting
	end       context.CancelFunc
}

// lasting is a factory whose informers live until ctx ends, whoever starts them.
type lasting struct {
	informers.SharedInformerFactory
	ctx context.Context
}

// Start starts what has been asked for and does not run yet.
func (l lasting) Start(<-chan struct{}) { l.SharedInformerFactory.StartWithContext(l.ctx) }

// StartWithContext is Start.
func (l lasting) StartWithContext(context.Context) { l.SharedInformerFactory.StartWithContext(l.ctx) }

// NewShared makes the component.
func NewShared(client kubernetes.Interface) Shared {
	ctx, end := context.WithCancel(context.Background())
	return Shared{client, lasting{informers.NewSharedInformerFactoryWithOptions(client, resync, informers.WithTransform(trim)), ctx}, end}
}

// Client returns the client; it never fails.
func (s Shared) Client() (kubernetes.Interface, error) { return s.client, nil }

// Informers returns the factory.
func (s Shared) Informers() informers.SharedInformerFactory { return s.informers }

// Name is "informers".
func (Shared) Name() string { return "informers" }

// Run ends the informers and waits for them.
func (s Shared) Run(ctx context.Context, ready func()) error {
	ready()
	<-ctx.Done()
	s.end()
	s.informers.Shutdown()
	return nil
}

// trim drops managed fields, which nobody here reads and which make up half of most objects.
func trim(obj any) (any, error) {
	if o, err := meta.Accessor(obj); err == nil {
		o.SetManagedFields(nil)
	}
	return obj, nil
}
