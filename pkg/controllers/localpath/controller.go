// Package localpath is the storage of clusters without a storage system: a claim becomes a directory on the node where its
// pod runs.
//
// It has two halves. The [Controller] on a server watches claims and volumes, gives orders to nodes, and makes and removes
// PersistentVolumes. The [Keeper] on each node makes and removes directories and has the file system enforce sizes where
// it can. They talk through annotations of the Node, see [AnnotationOrders].
//
// It is no CSI driver and starts no pods: the kubelet mounts the volumes as it mounts any of the type "local". It copies
// no data: a volume stays on its node.
//
// Both stop when their context ends. Each order can be carried out again, and each PersistentVolume is made only for a
// directory that is there, so a crash at any line loses nothing and leaves nothing behind.
package localpath

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"github.com/knarr-io/knarr/pkg/follow"
)

const (
	// A failed round is tried again after firstDelay, which doubles up to maxDelay.
	firstDelay = 20 * time.Millisecond
	maxDelay   = 30 * time.Second
	// byNode is the index of claims and volumes by their node.
	byNode = "knarr.io/local-storage-node"
)

// Controller is the component of a server. Use [New].
type Controller struct {
	client    func() (kubernetes.Interface, error)
	informers func() informers.SharedInformerFactory
	log       *slog.Logger
}

// New makes the component. client and factory are called when it runs; the client needs the rights to create, patch and
// delete persistentvolumes, to patch persistentvolumeclaims, their status and nodes, and to create events, the factory
// those to watch them and storageclasses.
func New(client func() (kubernetes.Interface, error), factory func() informers.SharedInformerFactory, log *slog.Logger) *Controller {
	return &Controller{client: client, informers: factory, log: log}
}

// Name is "local-storage".
func (*Controller) Name() string { return "local-storage" }

// Run is ready when it has seen all claims, volumes, classes and nodes that there are.
func (c *Controller) Run(ctx context.Context, ready func()) error {
	client, err := c.client()
	if err != nil {
		return fmt.Errorf("make the client of local storage: %w", err)
	}
	factory := c.informers()
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})

	core, storage := factory.Core().V1(), factory.Storage().V1()
	r := &run{
		client: client, log: c.log,
		claims: core.PersistentVolumeClaims().Informer().GetIndexer(), volumes: core.PersistentVolumes().Informer().GetIndexer(),
		classes: storage.StorageClasses().Lister(), nodes: core.Nodes().Lister(),
		events:  broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "local-storage"}),
		queue:   follow.NewQueue[string](firstDelay, maxDelay),
		settled: make(map[string]Order), said: make(map[string]map[string]string),
	}
	on := []follow.On{{Informer: storage.StorageClasses().Informer()}}
	for _, w := range []watched{
		{core.PersistentVolumeClaims().Informer(), nodeOfClaim, r.touchClaim},
		{core.PersistentVolumes().Informer(), nodeOfVolume, r.touch(nodeOfVolume)},
		{core.Nodes().Informer(), nodeItself, r.touch(nodeItself)},
	} {
		if err := w.index(); err != nil {
			return fmt.Errorf("watch claims, volumes and nodes: %w", err)
		}
		on = append(on, follow.On{Informer: w.informer, Handler: w.handler()})
	}
	following, err := follow.Start(ctx, factory, on...)
	if err != nil {
		return fmt.Errorf("watch claims, volumes and nodes: %w", err)
	}
	defer following.End()
	if !following.Synced(ctx) {
		return nil
	}
	defer context.AfterFunc(ctx, r.queue.ShutDown)()
	ready()
	r.work(ctx)
	return nil
}

// watched is an informer whose objects belong to nodes.
type watched struct {
	informer cache.SharedIndexInformer
	node     func(obj any) string // for the index
	touch    func(obj any)
}

// touch has the node of an object looked at.
func (r *run) touch(node func(obj any) string) func(any) {
	return func(obj any) {
		if name := node(obj); name != "" {
			r.queue.Add(name)
		}
	}
}

// touchClaim is touch for claims. One that a user bound to a volume has no chosen node; one that nobody has placed yet is
// looked at too, under no name.
func (r *run) touchClaim(obj any) {
	claim, ok := obj.(*corev1.PersistentVolumeClaim)
	if !ok {
		return
	}
	r.queue.Add(nodeOfClaim(claim))
	if pv, there, err := r.volumes.GetByKey(claim.Spec.VolumeName); err == nil && there {
		r.touch(nodeOfVolume)(pv)
	}
}

// index keeps the objects by their node.
func (w watched) index() error {
	if w.informer.GetIndexer().GetIndexers()[byNode] != nil { // of an earlier life
		return nil
	}
	return w.informer.AddIndexers(cache.Indexers{byNode: func(obj any) ([]string, error) { return []string{w.node(obj)}, nil }})
}

// handler has the node of each object that changes looked at, the former one too.
func (w watched) handler() cache.ResourceEventHandler {
	add := func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		w.touch(obj)
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: add, DeleteFunc: add,
		UpdateFunc: func(before, after any) {
			if o, ok := before.(*corev1.Node); ok {
				if n, ok := after.(*corev1.Node); ok && !nodeChanged(o, n) {
					return // a heartbeat
				}
			}
			add(before)
			add(after)
		},
	}
}

func nodeChanged(before, after *corev1.Node) bool {
	return before.UID != after.UID || before.Annotations[AnnotationOrders] != after.Annotations[AnnotationOrders] ||
		before.Annotations[AnnotationAnswers] != after.Annotations[AnnotationAnswers] ||
		before.Labels[corev1.LabelHostname] != after.Labels[corev1.LabelHostname]
}

// run is one life of the controller. What it remembers belongs to the one goroutine that works.
type run struct {
	client          kubernetes.Interface
	claims, volumes cache.Indexer
	classes         storagelisters.StorageClassLister
	nodes           corelisters.NodeLister
	events          record.EventRecorder
	queue           workqueue.TypedRateLimitingInterface[string]
	log             *slog.Logger

	// settled are orders that are done with, by volume, as long as the informers show the objects of before.
	settled map[string]Order
	// said is what events have told in the last round of each node, saying what they tell in this one.
	said   map[string]map[string]string
	saying map[string]string
}

func (r *run) work(ctx context.Context) {
	for {
		node, stop := r.queue.Get()
		if stop {
			return
		}
		r.saying = make(map[string]string)
		err := r.sync(ctx, node)
		if r.said[node] = r.saying; len(r.saying) == 0 {
			delete(r.said, node)
		}
		switch {
		case err == nil:
			r.queue.Forget(node)
		case ctx.Err() == nil:
			r.log.Warn("cannot look after the local storage of a node, will try again", "node", node, "error", err)
			r.queue.AddRateLimited(node)
		}
		r.queue.Done(node)
	}
}

// sync looks after the claims and volumes of one node: what is to be done there, what is done, and what follows.
func (r *run) sync(ctx context.Context, name string) error {
	if name == "" {
		return r.unplaced()
	}
	tasks, err := r.tasks(ctx, name)
	if err != nil {
		return err
	}
	node, err := r.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		return r.giveUp(ctx, name, tasks)
	}
	if err != nil {
		return fmt.Errorf("look up node %s: %w", name, err)
	}
	given, answers := parse[Order](node, AnnotationOrders), parse[Answer](node, AnnotationAnswers)
	wanted := make(map[string]Order)
	for volume, t := range tasks {
		a := answers[volume]
		if !a.done(t.order) {
			wanted[volume] = t.order
			if a.Order == t.order {
				r.tell(name, t.subject, corev1.EventTypeWarning, t.failure, fmt.Sprintf("on node %s: %s", name, a.Error))
			}
			continue
		}
		if err := t.finish(ctx, node, a); err != nil {
			return err
		}
		r.settled[volume] = t.order
	}
	if err := r.abandoned(ctx, given, answers, tasks, wanted); err != nil {
		return err
	}
	if maps.Equal(given, wanted) {
		return nil
	}
	_, err = r.client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, annotate(AnnotationOrders, render(wanted)), metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("give node %s orders about local volumes: %w", name, err)
	}
	return nil
}

// abandoned adds to wanted what nobody asks for any more and yet is to be brought to an end: a directory that was to be
// made for a claim which is gone, or has gone elsewhere, is removed. This looks at the API itself, not at a cache, since
// it decides about data.
func (r *run) abandoned(ctx context.Context, given map[string]Order, answers map[string]Answer, tasks map[string]task, wanted map[string]Order) error {
	for volume, o := range given {
		if _, current := tasks[volume]; current || r.settled[volume] == o {
			continue
		}
		switch o.Op {
		case Delete:
			if !answers[volume].done(o) {
				wanted[volume] = o
			}
		case Create:
			_, err := r.client.CoreV1().PersistentVolumes().Get(ctx, volume, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				wanted[volume] = Order{Op: Delete}
			} else if err != nil {
				return fmt.Errorf("look whether there is a volume %s: %w", volume, err)
			}
		case Resize: // the volume is gone or has the size
		}
	}
	return nil
}

// unplaced tells of claims that will never get a node: their class does not wait for a pod.
func (r *run) unplaced() error {
	claims, err := r.claims.ByIndex(byNode, "")
	if err != nil {
		return fmt.Errorf("list claims without a node: %w", err)
	}
	for _, obj := range claims {
		claim, ok := obj.(*corev1.PersistentVolumeClaim)
		if !ok || claim.Spec.VolumeName != "" || claim.Spec.StorageClassName == nil {
			continue
		}
		class, err := r.classes.Get(*claim.Spec.StorageClassName)
		if err != nil || !provisioner(class.Provisioner) || class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer {
			continue
		}
		r.tell("", claim, corev1.EventTypeWarning, reasonNotMade, fmt.Sprintf("StorageClass %s must have the volumeBindingMode WaitForFirstConsumer: "+
			"a local volume is made on the node of the pod", class.Name))
	}
	return nil
}

// tell has an event about an object, and not again as long as each round would tell the same.
func (r *run) tell(node string, object subject, kind, reason, message string) {
	about := string(object.GetUID()) + reason
	r.saying[about] = message
	if r.said[node][about] == message {
		return
	}
	r.events.Event(object, kind, reason, message)
	r.log.Info("local storage", "object", object.GetNamespace()+"/"+object.GetName(), "event", reason, "message", message)
}
