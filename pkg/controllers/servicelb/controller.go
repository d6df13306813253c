// Package servicelb is the load balancer for Services on clusters without a cloud: it gives Services of the type
// LoadBalancer the addresses of nodes, and kube-proxy on each node serves what their status lists. There are no pods and
// no proxies in between.
//
// The [Controller] on a server decides who gets which node ([assign] is the whole rule). It knows nothing of what else
// listens on a node: the [Reporter] on each node answers that, in an annotation of its Node, for the ports that Services
// want. A port that is taken is never given away: its Service waits and an event names the holder.
//
// It is not a proxy, announces no addresses to routers, and moves no address from node to node.
//
// Both stop when their context ends. All they know is in the API: the next start goes on from there.
package servicelb

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"github.com/knarr-io/knarr/pkg/follow"
)

const (
	// fieldManager marks what is ours in a Service's status.
	fieldManager = "knarr-servicelb"
	// A failed assignment is tried again after firstDelay, which doubles up to maxDelay.
	firstDelay = 20 * time.Millisecond
	maxDelay   = 30 * time.Second
)

// Config is what the controller has to know.
type Config struct {
	// Reserved are ports that knarr itself needs on the nodes, with what for.
	Reserved map[Port]string
}

// Controller is the component of a server. Use [New].
type Controller struct {
	Config
	client    func() (kubernetes.Interface, error)
	informers func() informers.SharedInformerFactory
	log       *slog.Logger
}

// New makes the component. client and factory are called when it runs; the client needs the rights to patch
// services/status, to watch endpointslices and to create events, the factory those to watch services and nodes.
func New(c Config, client func() (kubernetes.Interface, error), factory func() informers.SharedInformerFactory, log *slog.Logger) *Controller {
	return &Controller{Config: c, client: client, informers: factory, log: log}
}

// Name is "servicelb".
func (*Controller) Name() string { return "servicelb" }

// Run is ready when it has seen all Services and Nodes that there are.
func (c *Controller) Run(ctx context.Context, ready func()) error {
	client, err := c.client()
	if err != nil {
		return fmt.Errorf("make the load balancer's client: %w", err)
	}
	factory := c.informers()
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})

	r := &run{
		Config: c.Config, client: client, log: c.log,
		services: factory.Core().V1().Services().Lister(), nodes: factory.Core().V1().Nodes().Lister(),
		events: broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "servicelb"}),
		queue:  follow.NewQueue[struct{}](firstDelay, maxDelay),
		held:   make(map[types.UID]holding), told: make(map[types.UID]string),
	}
	r.local = newBackends(client, r.wake)
	defer r.local.stop()
	following, err := follow.Start(ctx, factory,
		follow.On{Informer: factory.Core().V1().Services().Informer(), Handler: onChange(r.wake, serviceChanged)},
		follow.On{Informer: factory.Core().V1().Nodes().Informer(), Handler: onChange(r.wake, nodeChanged)})
	if err != nil {
		return fmt.Errorf("watch services and nodes: %w", err)
	}
	defer following.End()
	if !following.Synced(ctx) {
		return nil
	}
	defer context.AfterFunc(ctx, r.queue.ShutDown)()
	ready()
	r.work(ctx) // in this goroutine: a panic ends one component, not the process
	return nil
}

// run is one life of the controller. What it remembers belongs to the one goroutine that works.
type run struct {
	Config
	client   kubernetes.Interface
	services corelisters.ServiceLister
	nodes    corelisters.NodeLister
	local    *backends
	events   record.EventRecorder
	queue    workqueue.TypedRateLimitingInterface[struct{}]
	log      *slog.Logger

	held map[types.UID]holding // by the last assignment
	told map[types.UID]string  // the last problem that an event told of
}

// wake has all Services looked at again: they compete for the same ports, so none can be decided alone.
func (r *run) wake() { r.queue.Add(struct{}{}) }

// onChange calls wake for every event but updates that change nothing of interest.
func onChange[T any](wake func(), changed func(before, after T) bool) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { wake() },
		DeleteFunc: func(any) { wake() },
		UpdateFunc: func(before, after any) {
			o, okBefore := before.(T)
			n, okAfter := after.(T)
			if okBefore && okAfter && changed(o, n) {
				wake()
			}
		},
	}
}

func serviceChanged(before, after *corev1.Service) bool {
	return before.UID != after.UID || before.Labels[LabelPool] != after.Labels[LabelPool] ||
		(before.DeletionTimestamp == nil) != (after.DeletionTimestamp == nil) ||
		!equality.Semantic.DeepEqual(before.Spec, after.Spec) || !equality.Semantic.DeepEqual(before.Status, after.Status)
}

// nodeChanged leaves out heartbeats, by far the most events.
func nodeChanged(before, after *corev1.Node) bool {
	b, a := newPlace(before), newPlace(after)
	return b.ready != a.ready || !slices.Equal(b.internal, a.internal) || !slices.Equal(b.external, a.external) ||
		before.Annotations[AnnotationReport] != after.Annotations[AnnotationReport] ||
		(before.DeletionTimestamp == nil) != (after.DeletionTimestamp == nil) ||
		!equality.Semantic.DeepEqual(before.Labels, after.Labels)
}

func (r *run) work(ctx context.Context) {
	for {
		item, stop := r.queue.Get()
		if stop {
			return
		}
		switch err := r.sync(ctx); {
		case err == nil:
			r.queue.Forget(item)
		case ctx.Err() == nil:
			r.log.Warn("cannot update load balancer services, will try again", "error", err)
			r.queue.AddRateLimited(item)
		}
		r.queue.Done(item)
	}
}

// sync assigns nodes to all Services and writes what has changed.
func (r *run) sync(ctx context.Context) error {
	services, err := r.services.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list services: %w", err)
	}
	nodes, err := r.nodes.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	if err := r.local.follow(ctx, services); err != nil {
		return err
	}
	grants := assign(world{services: services, nodes: nodes, reserved: r.Reserved, backends: r.local.nodes, held: r.held})
	// Set aside at once: the next round must not give a port away whose status is being written.
	r.held = make(map[types.UID]holding, len(grants))
	for _, g := range grants {
		r.held[g.service.UID] = g.holding
	}
	var failed error
	for _, g := range grants {
		if err := r.write(ctx, g); err != nil && failed == nil {
			failed = err
		}
	}
	r.forget(grants)
	return failed
}

// write brings one Service up to date.
func (r *run) write(ctx context.Context, g grant) error {
	if err := r.writeStatus(ctx, g); err != nil {
		return err
	}
	told := g.reason + g.problem
	if told == r.told[g.service.UID] {
		return nil
	}
	r.told[g.service.UID] = told
	if g.problem == "" {
		return nil
	}
	message := g.problem
	if len(g.holding) == 0 {
		message = "waiting: " + message
	}
	r.events.Event(g.service, corev1.EventTypeWarning, g.reason, message)
	r.log.Warn("a load balancer service is not served on every node", "service", key(g.service), "problem", g.problem)
	return nil
}

func (r *run) writeStatus(ctx context.Context, g grant) error {
	before := g.service.Status.LoadBalancer.Ingress
	if equality.Semantic.DeepEqual(before, g.ingress) {
		return nil
	}
	if err := patchIngress(ctx, r.client, g.service, g.ingress); err != nil {
		return err
	}
	r.events.Eventf(g.service, corev1.EventTypeNormal, "UpdatedLoadBalancer", "addresses were %v, are %v", texts(before), texts(g.ingress))
	r.log.Info("load balancer service has addresses", "service", key(g.service), "addresses", texts(g.ingress))
	return nil
}

// forget drops what is remembered of Services that are gone.
func (r *run) forget(grants []grant) {
	alive := make(map[types.UID]bool, len(grants))
	for _, g := range grants {
		alive[g.service.UID] = true
	}
	for uid := range r.told {
		if !alive[uid] {
			delete(r.told, uid)
		}
	}
}

// patchIngress sets the addresses of s, provided that it still is the same Service.
func patchIngress(ctx context.Context, client kubernetes.Interface, s *corev1.Service, ingress []corev1.LoadBalancerIngress) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": s.UID},
		"status":   map[string]any{"loadBalancer": map[string]any{"ingress": ingress}},
	})
	if err != nil {
		return fmt.Errorf("encode the addresses of service %s: %w", key(s), err)
	}
	_, err = client.CoreV1().Services(s.Namespace).Patch(ctx, s.Name, types.MergePatchType, patch,
		metav1.PatchOptions{FieldManager: fieldManager}, "status")
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // gone or replaced: its event follows
		return nil
	}
	return fmt.Errorf("set the addresses of service %s: %w", key(s), err)
}

func texts(list []corev1.LoadBalancerIngress) []string {
	out := make([]string, len(list))
	for i, in := range list {
		out[i] = cmp.Or(in.IP, in.Hostname)
	}
	return out
}
