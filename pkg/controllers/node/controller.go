// Package node is knarr's cloud-controller-manager as far as nodes go: it gives each Node its addresses and its
// provider ID and takes away the taint that keeps pods off until it has them. The kubelets run with
// --cloud-provider=external and announce their addresses in annotations ([Announce]).
//
// It is not upstream's cloud-node controller (k8s.io/cloud-provider/controllers/node), which asks a cloud every few
// minutes: here an event starts all work and an idle cluster costs nothing. It deletes no Nodes and sets no routes,
// since there is no cloud that could know better.
//
// It stops when its context ends; a request under way is cancelled, and the next start finds what is left to do.
package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	cloudprovider "k8s.io/cloud-provider/api"

	"github.com/knarr-io/knarr/pkg/follow"
)

const (
	// ProviderPrefix and the node's name make spec.providerID.
	ProviderPrefix = "knarr://"

	workers = 4 // so that many nodes that join at once do not queue for one
	// A failed Node is tried again after firstDelay, which doubles up to maxDelay.
	firstDelay = 5 * time.Millisecond
	maxDelay   = 30 * time.Second
	// quiet is how many failures in a row are nothing to tell users of: others write to a new Node at the same time.
	quiet = 5
)

// Controller is the component. Use [New].
type Controller struct {
	client    func() (kubernetes.Interface, error)
	informers func() informers.SharedInformerFactory
	log       *slog.Logger
}

// New makes the component. client and factory are called when it runs; the client needs the rights to patch nodes and
// nodes/status, the factory those to list and watch nodes.
func New(client func() (kubernetes.Interface, error), factory func() informers.SharedInformerFactory, log *slog.Logger) *Controller {
	return &Controller{client: client, informers: factory, log: log}
}

// Name is "node-controller".
func (*Controller) Name() string { return "node-controller" }

// Run is ready when it has seen all the Nodes that there are.
func (c *Controller) Run(ctx context.Context, ready func()) error {
	client, err := c.client()
	if err != nil {
		return fmt.Errorf("make the node controller's client: %w", err)
	}
	factory := c.informers()
	nodes := factory.Core().V1().Nodes()
	r := &run{client: client, nodes: nodes.Lister(), log: c.log, queue: follow.NewQueue[string](firstDelay, maxDelay)}
	following, err := follow.Start(ctx, factory, follow.On{Informer: nodes.Informer(), Handler: r.handler()})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	defer following.End()

	var wg sync.WaitGroup
	defer wg.Wait()
	defer r.queue.ShutDown()
	for range workers {
		wg.Go(func() { r.work(ctx) })
	}
	if following.Synced(ctx) {
		ready()
		<-ctx.Done()
	}
	return nil
}

// run is one life of the controller.
type run struct {
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	queue  workqueue.TypedRateLimitingInterface[string]
	log    *slog.Logger
}

// handler queues the Nodes that there may be something to do for. Heartbeats, by far the most events, end here.
func (r *run) handler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if n, ok := obj.(*corev1.Node); ok {
				r.queue.Add(n.Name)
			}
		},
		UpdateFunc: func(before, after any) {
			o, okBefore := before.(*corev1.Node)
			n, okAfter := after.(*corev1.Node)
			if okBefore && okAfter && relevant(o, n) {
				r.queue.Add(n.Name)
			}
		},
	}
}

// relevant tells whether an update touches anything that the controller reads or owns.
func relevant(before, after *corev1.Node) bool {
	return !equality.Semantic.DeepEqual(before.Annotations, after.Annotations) ||
		!slices.Equal(before.Status.Addresses, after.Status.Addresses) ||
		before.Spec.ProviderID != after.Spec.ProviderID ||
		slices.ContainsFunc(before.Spec.Taints, uninitialized) != slices.ContainsFunc(after.Spec.Taints, uninitialized)
}

func (r *run) work(ctx context.Context) {
	for {
		name, stop := r.queue.Get()
		if stop {
			return
		}
		switch err := r.sync(ctx, name); {
		case err == nil:
			r.queue.Forget(name)
		case ctx.Err() == nil:
			level := slog.LevelDebug
			if r.queue.NumRequeues(name) >= quiet {
				level = slog.LevelWarn
			}
			r.log.Log(ctx, level, "cannot set up a node, will try again", "node", name, "error", err)
			r.queue.AddRateLimited(name)
		}
		r.queue.Done(name)
	}
}

// sync does what is left to do for one Node: first the addresses, then, since pods come as soon as the taint is gone,
// the rest.
func (r *run) sync(ctx context.Context, name string) error {
	n, err := r.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up node %s: %w", name, err)
	}
	list, err := wanted(n)
	if err != nil {
		r.log.Warn("a node announces addresses that cannot be used", "node", name, "error", err)
	}
	if !reachable(list) {
		r.log.Info("a node has no internal address yet", "node", name, "waiting for", "annotation "+AnnotationInternalIP)
		return nil // the announcement is an event
	}
	if !slices.Equal(list, n.Status.Addresses) {
		if err := r.patch(ctx, name, addressPatch(list), "status"); err != nil {
			return fmt.Errorf("set the addresses of node %s: %w", name, err)
		}
		r.log.Info("node has addresses", "node", name, "addresses", texts(list))
	}
	if patch := initPatch(n); len(patch) > 0 {
		if err := r.patch(ctx, name, patch); err != nil {
			return fmt.Errorf("initialize node %s: %w", name, err)
		}
		r.log.Info("node is initialized", "node", name)
	}
	return nil
}

// operation is one step of a JSON patch (RFC 6902).
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// addressPatch replaces the addresses as a whole: a strategic patch would merge the list by type and lose the second
// address of a type and the order (k8s.io/component-helpers/node/util/status.go fixes the same up).
func addressPatch(list []corev1.NodeAddress) []operation {
	return []operation{{"add", "/status/addresses", list}}
}

// initPatch takes the taint away and sets the provider ID unless there is one: it can be set only once.
//
// The kubelet and several controllers write to a new Node at the same time. So the patch carries no resource version,
// which would conflict with all of them, but tests that the taint still is where it was; if not, the API refuses the
// whole patch, and the next try knows better.
func initPatch(n *corev1.Node) []operation {
	var patch []operation
	if n.Spec.ProviderID == "" {
		patch = append(patch, operation{"add", "/spec/providerID", ProviderPrefix + n.Name})
	}
	for i, t := range slices.Backward(n.Spec.Taints) { // backward: each removal moves what follows
		if uninitialized(t) {
			path := fmt.Sprintf("/spec/taints/%d", i)
			patch = append(patch, operation{"test", path + "/key", t.Key}, operation{"remove", path, nil})
		}
	}
	return patch
}

// uninitialized tells whether t is the taint of Nodes that no cloud-controller-manager has seen yet.
func uninitialized(t corev1.Taint) bool { return t.Key == cloudprovider.TaintExternalCloudProvider }

func (r *run) patch(ctx context.Context, name string, patch []operation, subresources ...string) error {
	body, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("encode the patch: %w", err)
	}
	_, err = r.client.CoreV1().Nodes().Patch(ctx, name, types.JSONPatchType, body, metav1.PatchOptions{}, subresources...)
	if apierrors.IsNotFound(err) { // deleted meanwhile
		return nil
	}
	return err
}

func texts(list []corev1.NodeAddress) []string {
	out := make([]string, len(list))
	for i, a := range list {
		out[i] = string(a.Type) + "=" + a.Address
	}
	return out
}
