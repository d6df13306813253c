package servicelb

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// backends follows the pods of the Services with externalTrafficPolicy Local, and of no others: all EndpointSlices of a
// cluster are many, change often, and are of no use here.
type backends struct {
	client kubernetes.Interface
	wake   func()
	known  map[types.NamespacedName]*follower
}

// follower watches the EndpointSlices of one Service.
type follower struct {
	factory informers.SharedInformerFactory
	cancel  context.CancelFunc
}

func newBackends(client kubernetes.Interface, wake func()) *backends {
	return &backends{client, wake, make(map[types.NamespacedName]*follower)}
}

// follow begins and ends watches so that there is one for each Service that needs it; it returns when all have seen what
// there is.
func (b *backends) follow(ctx context.Context, services []*corev1.Service) error {
	want := make(map[types.NamespacedName]bool)
	for _, s := range services {
		if Ours(s) && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
			want[key(s)] = true
		}
	}
	for name, f := range b.known {
		if !want[name] {
			f.stop()
			delete(b.known, name)
		}
	}
	for name := range want {
		if b.known[name] != nil {
			continue
		}
		f, err := b.start(ctx, name)
		if err != nil {
			return fmt.Errorf("watch the endpoints of service %s: %w", name, err)
		}
		b.known[name] = f
	}
	return nil
}

// syncLimit is how long the first list of a Service's EndpointSlices may take; after it the assignment is tried again.
const syncLimit = 10 * time.Second

func (b *backends) start(ctx context.Context, name types.NamespacedName) (*follower, error) {
	selector := labels.Set{discoveryv1.LabelServiceName: name.Name}.String()
	f := &follower{factory: informers.NewSharedInformerFactoryWithOptions(b.client, 0, informers.WithNamespace(name.Namespace),
		informers.WithTransform(trim),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = selector }))}
	informer := f.factory.Discovery().V1().EndpointSlices().Informer()
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { b.wake() }, UpdateFunc: func(any, any) { b.wake() }, DeleteFunc: func(any) { b.wake() },
	})
	if err != nil {
		return nil, err
	}
	ctx, f.cancel = context.WithCancel(ctx)
	f.factory.StartWithContext(ctx)
	limit := time.NewTimer(syncLimit)
	defer limit.Stop()
	select {
	case <-registration.HasSyncedChecker().Done():
		return f, nil
	case <-limit.C:
		f.stop()
		return nil, fmt.Errorf("no answer within %s", syncLimit)
	case <-ctx.Done():
		f.stop()
		return nil, context.Cause(ctx)
	}
}

func (f *follower) stop() {
	f.cancel()
	f.factory.Shutdown()
}

// stop ends all watches and waits for them.
func (b *backends) stop() {
	for _, f := range b.known {
		f.stop()
	}
}

// nodes are the nodes on which kube-proxy would send to pods of a Service that is followed.
func (b *backends) nodes(name types.NamespacedName) map[string]bool {
	nodes := make(map[string]bool)
	f := b.known[name]
	if f == nil {
		return nodes
	}
	for _, obj := range f.factory.Discovery().V1().EndpointSlices().Informer().GetStore().List() {
		slice, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok {
			continue
		}
		for _, e := range slice.Endpoints {
			if e.NodeName != nil && serves(e.Conditions) {
				nodes[*e.NodeName] = true
			}
		}
	}
	return nodes
}

// serves follows kube-proxy (pkg/proxy/topology.go): ready, or on its way out and still serving.
func serves(c discoveryv1.EndpointConditions) bool {
	is := func(b *bool, unset bool) bool {
		if b == nil {
			return unset
		}
		return *b
	}
	return is(c.Ready, true) || is(c.Terminating, false) && is(c.Serving, false)
}

// trim keeps of an EndpointSlice what is asked here.
func trim(obj any) (any, error) {
	if s, ok := obj.(*discoveryv1.EndpointSlice); ok {
		s.ManagedFields, s.Ports = nil, nil
	}
	return obj, nil
}
