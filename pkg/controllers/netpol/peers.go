package netpol

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// peers is what only policies make interesting: pods, namespaces, this node's sandboxes, and changes to our tables. The
// informers are of this controller alone, since nobody else holds all pods, and shared ones could not be let go.
type peers struct {
	stop       context.CancelFunc
	wg         sync.WaitGroup
	pods       cache.SharedIndexInformer
	namespaces cache.SharedIndexInformer
	boxes      *sandboxes
	// boxed and watching say that the sandboxes are known and changes to our tables will be noticed, or that this has
	// failed for now.
	boxed, watching atomic.Bool
}

// startPeers begins to follow them; [Controller.stopPeers] ends it.
func (c *Controller) startPeers(ctx context.Context, client kubernetes.Interface) (*peers, error) {
	p := &peers{
		pods:       coreinformers.NewPodInformer(client, metav1.NamespaceAll, 0, nil),
		namespaces: coreinformers.NewNamespaceInformer(client, 0, nil),
		boxes:      &sandboxes{dir: c.config.Results, changed: c.poke},
	}
	if err := c.observe(p.pods, trimPod, samePod); err != nil {
		return nil, err
	}
	if err := c.observe(p.namespaces, trimNamespace, sameLabels); err != nil {
		return nil, err
	}
	ctx, p.stop = context.WithCancel(ctx)
	run(ctx, &p.wg, p.pods, c.poke)
	run(ctx, &p.wg, p.namespaces, c.poke)
	p.wg.Go(func() {
		c.persist(ctx, &p.boxed, func(known func()) error { return p.boxes.run(ctx, known) })
	})
	p.wg.Go(func() {
		c.persist(ctx, &p.watching, func(opened func()) error {
			touched := func() {
				c.dirty.Store(true)
				c.poke()
			}
			return monitor(ctx, c.kernel.port.Load, func() {
				touched() // while nobody watched
				opened()
			}, touched)
		})
	})
	return p, nil
}

// watchAgain is how long after a failure of following something it is tried again.
const watchAgain = 10 * time.Second

// persist runs follow until ctx ends. Others go on without it when it fails: settled is set then, too.
func (c *Controller) persist(ctx context.Context, settled *atomic.Bool, follow func(begun func()) error) {
	settle := func() {
		settled.Store(true)
		c.poke()
	}
	for ctx.Err() == nil {
		if err := follow(settle); err != nil {
			c.log.Warn("network policies lack a source of changes; trying again", "error", err, "after", watchAgain)
		}
		if ctx.Err() == nil {
			settle()
			rest(ctx, watchAgain)
		}
	}
}

// stopPeers lets go of all that startPeers has begun.
func (c *Controller) stopPeers() {
	if c.peers == nil {
		return
	}
	c.peers.stop()
	c.peers.wg.Wait()
	c.peers = nil
}

func (p *peers) synced() bool {
	return p.pods.HasSynced() && p.namespaces.HasSynced() && p.boxed.Load() && p.watching.Load()
}

// world is the cluster without its policies.
func (p *peers) world() *world {
	w := &world{namespaces: map[string]labels.Set{}, sandboxes: p.boxes.all()}
	for _, obj := range p.pods.GetStore().List() {
		w.pods = append(w.pods, obj.(*pod))
	}
	for _, obj := range p.namespaces.GetStore().List() {
		n := obj.(*corev1.Namespace)
		w.namespaces[n.Name] = n.Labels
	}
	return w
}

// links are the host's ends of all sandboxes, in order.
func (w *world) links() []string {
	var list []string
	for s := range maps.Values(w.sandboxes) {
		list = append(list, s.links...)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func samePod(a, b any) bool { return a.(*pod).same(b.(*pod)) }

func sameLabels(a, b any) bool {
	return maps.Equal(a.(*corev1.Namespace).Labels, b.(*corev1.Namespace).Labels)
}

// trimPolicy drops what nobody reads.
func trimPolicy(obj any) (any, error) {
	if p, ok := obj.(*networkingv1.NetworkPolicy); ok {
		return &networkingv1.NetworkPolicy{ObjectMeta: trimMeta(p.ObjectMeta), Spec: p.Spec}, nil
	}
	return obj, nil
}

func samePolicy(a, b any) bool {
	return equality.Semantic.DeepEqual(a.(*networkingv1.NetworkPolicy).Spec, b.(*networkingv1.NetworkPolicy).Spec)
}
