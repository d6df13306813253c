package localpath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/knarr-io/knarr/pkg/follow"
	"github.com/knarr-io/knarr/pkg/lifecycle"
)

// A failed order is tried again after firstRetry, which doubles up to lastRetry.
const (
	firstRetry = 2 * time.Second
	lastRetry  = 2 * time.Minute
)

// Keeper is the component of a node: it carries out the orders for the volumes of this node. Use [NewKeeper].
type Keeper struct {
	node    string
	volumes volumes
	client  func() (kubernetes.Interface, error)
	log     *slog.Logger
}

// NewKeeper makes the component for a node whose volumes are directories below root. client is called when it runs and
// needs no more than a kubelet's rights: to watch and to patch its own Node.
func NewKeeper(node, root string, client func() (kubernetes.Interface, error), log *slog.Logger) *Keeper {
	return &Keeper{node: node, volumes: volumes{root: root, quota: projects{}}, client: client, log: log}
}

// Name is "local-volumes".
func (*Keeper) Name() string { return "local-volumes" }

// Run is ready when it has seen the Node. As long as there are no orders it keeps an idle watch and nothing else.
func (k *Keeper) Run(ctx context.Context, ready func()) error {
	client, err := k.client()
	if err != nil {
		return fmt.Errorf("make the client that keeps volumes: %w", err)
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trimNode),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", k.node).String()
		}))
	defer factory.Shutdown()
	events := follow.NewBell()
	informer := factory.Core().V1().Nodes().Informer()
	crew, ctx := lifecycle.NewCrew(ctx) // ends before the factory is shut down
	following, err := follow.Start(ctx, factory, follow.On{Informer: informer, Handler: onAnnotations(events.Ring)})
	if err != nil {
		return errors.Join(fmt.Errorf("watch node %s: %w", k.node, err), crew.Wait())
	}
	defer following.End()
	if !following.Synced(ctx) {
		return crew.Wait()
	}
	w := &work{Keeper: k, client: client, store: informer.GetStore(), answers: nil, trash: follow.NewBell()}
	crew.Go(func() error { w.empty(ctx); return nil })
	crew.Go(func() error { w.keep(ctx, events); return nil })
	ready()
	return crew.Wait()
}

// onAnnotations passes on changes of what is written on the Node; heartbeats end here.
func onAnnotations(wake func()) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { wake() },
		UpdateFunc: func(before, after any) {
			o, okBefore := before.(*corev1.Node)
			n, okAfter := after.(*corev1.Node)
			if okBefore && okAfter && !maps.Equal(o.Annotations, n.Annotations) {
				wake()
			}
		},
	}
}

// work is one life of a Keeper.
type work struct {
	*Keeper
	client  kubernetes.Interface
	store   cache.Store
	answers map[string]Answer // nil before the first look at the Node
	trash   follow.Bell
}

// keep carries orders out as they come and tries again what failed.
func (w *work) keep(ctx context.Context, events <-chan struct{}) {
	delay := firstRetry
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
		case <-timer.C:
		}
		timer.Stop()
		if w.obey(ctx) {
			delay = firstRetry
			continue
		}
		timer.Reset(delay)
		delay = min(2*delay, lastRetry)
	}
}

// obey carries out what the Node says and answers there. It tells whether all is done.
func (w *work) obey(ctx context.Context) bool {
	obj, there, err := w.store.GetByKey(w.node)
	n, ok := obj.(*corev1.Node)
	if err != nil || !there || !ok {
		return true // its registration is an event
	}
	if w.answers == nil {
		w.answers = parse[Answer](n, AnnotationAnswers)
	}
	orders := parse[Order](n, AnnotationOrders)
	all := true
	answers := make(map[string]Answer, len(orders))
	for _, name := range slices.Sorted(maps.Keys(orders)) {
		if ctx.Err() != nil {
			return false
		}
		answers[name] = w.answer(name, orders[name])
		all = all && answers[name].Error == ""
	}
	w.answers = answers
	text := render(answers)
	if text == n.Annotations[AnnotationAnswers] {
		return all
	}
	_, err = w.client.CoreV1().Nodes().Patch(ctx, w.node, types.MergePatchType, annotate(AnnotationAnswers, text), metav1.PatchOptions{})
	if err != nil && ctx.Err() == nil {
		w.log.Warn("cannot answer orders about local volumes, will try again", "error", err)
	}
	return all && err == nil
}

// answer carries an order out unless that is done.
func (w *work) answer(name string, o Order) Answer {
	if last := w.answers[name]; last.done(o) {
		return last
	}
	a, err := w.volumes.carryOut(name, o)
	if err != nil {
		a.Error = err.Error()
		w.log.Warn("cannot carry out an order about a local volume, will try again", "volume", name, "order", o.Op, "error", err)
		return a
	}
	w.log.Info("local volume", "volume", name, "done", o.Op, "bytes", o.Bytes, "enforced", o.Op != Delete && a.Unenforced == "")
	if o.Op == Delete {
		w.trash.Ring()
	}
	return a
}

// empty removes deleted volumes, beside the rest since it may take long.
func (w *work) empty(ctx context.Context) {
	for {
		if err := w.volumes.emptyTrash(); err != nil {
			w.log.Warn("cannot remove deleted local volumes, will try again with the next", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-w.trash:
		}
	}
}

// trimNode keeps what is asked here.
func trimNode(obj any) (any, error) {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil
	}
	kept := make(map[string]string)
	for _, key := range []string{AnnotationOrders, AnnotationAnswers} {
		if text := n.Annotations[key]; text != "" {
			kept[key] = text
		}
	}
	return &corev1.Node{TypeMeta: n.TypeMeta, ObjectMeta: metav1.ObjectMeta{
		Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion, Annotations: kept}}, nil
}
