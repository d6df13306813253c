// Package dns looks after the cluster's name server, which runs as pods from manifests/coredns.yaml: it keeps the names
// of the nodes in its ConfigMap, has the kubelets bring changes of its ConfigMaps to the pods at once, not within the
// minute or two that they take by themselves, and finds it a place where no server runs pods.
//
// It resolves nothing. It makes no ConfigMap: without the name server there is nothing to look after.
//
// It stops when its context ends; a request under way is cancelled, and the next start finds what is left to do.
package dns

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	applycore "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/knarr-io/knarr/pkg/follow"
)

const (
	namespace = metav1.NamespaceSystem
	// ownConfig and userConfig are the ConfigMaps of the name server, podSelector its pods.
	ownConfig   = "coredns"
	userConfig  = "coredns-custom"
	podSelector = "k8s-app=kube-dns"
	// hostsKey is k3s's, and so is what is in it.
	hostsKey = "NodeHosts"
	// fieldManager owns hostsKey, and nothing else of the ConfigMap.
	fieldManager = "knarr-node-hosts"
	// configAnnotation on a pod changes with the ConfigMaps: the kubelet sees to a pod that changes.
	configAnnotation = "knarr.io/dns-config"

	// A failure is tried again after firstDelay, which doubles up to maxDelay.
	firstDelay = 100 * time.Millisecond
	maxDelay   = 30 * time.Second
)

// Config is what the controller needs to know.
type Config struct {
	// Place is set on a server that runs no pods.
	Place bool
}

// Controller is the component. Use [New].
type Controller struct {
	config    Config
	client    func() (kubernetes.Interface, error)
	informers func() informers.SharedInformerFactory
	log       *slog.Logger
}

// New makes the component. client and factory are called when it runs; the client needs the rights to watch and apply
// ConfigMaps, and to list and patch pods and nodes.
func New(c Config, client func() (kubernetes.Interface, error), factory func() informers.SharedInformerFactory, log *slog.Logger) *Controller {
	return &Controller{config: c, client: client, informers: factory, log: log}
}

// Name is "cluster-dns".
func (*Controller) Name() string { return "cluster-dns" }

// Run is ready when it has seen nodes and ConfigMaps.
func (c *Controller) Run(ctx context.Context, ready func()) error {
	client, err := c.client()
	if err != nil {
		return fmt.Errorf("make the client for cluster DNS: %w", err)
	}
	r := &run{config: c.config, client: client, queue: follow.NewQueue[struct{}](firstDelay, maxDelay)}
	shared := c.informers()
	own, user := only(client, ownConfig), only(client, userConfig)
	defer own.Shutdown()
	defer user.Shutdown()
	r.nodes = shared.Core().V1().Nodes().Lister()
	r.own = own.Core().V1().ConfigMaps().Lister()
	r.user = user.Core().V1().ConfigMaps().Lister()

	watching, stop := context.WithCancel(ctx)
	defer stop() // before the factories are shut down, which wait for their informers
	var all []*follow.Following
	for _, on := range []struct {
		factory  informers.SharedInformerFactory
		informer cache.SharedIndexInformer
	}{
		{shared, shared.Core().V1().Nodes().Informer()},
		{own, own.Core().V1().ConfigMaps().Informer()},
		{user, user.Core().V1().ConfigMaps().Informer()},
	} {
		following, err := follow.Start(watching, on.factory, follow.On{Informer: on.informer, Handler: r.handler()})
		if err != nil {
			return fmt.Errorf("watch for cluster DNS: %w", err)
		}
		defer following.End()
		all = append(all, following)
	}
	for _, following := range all {
		if !following.Synced(ctx) {
			return nil
		}
	}
	if r.seen, err = r.told(); err != nil {
		return err
	}
	ready()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer r.queue.ShutDown()
	wg.Go(func() { r.work(ctx, c.log) })
	r.queue.Add(struct{}{})
	<-ctx.Done()
	return nil
}

// only makes a factory whose ConfigMaps are one.
func only(client kubernetes.Interface, name string) informers.SharedInformerFactory {
	return informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
		}))
}

// run is one life of the controller.
type run struct {
	config    Config
	client    kubernetes.Interface
	nodes     corelisters.NodeLister
	own, user corelisters.ConfigMapLister
	queue     workqueue.TypedRateLimitingInterface[struct{}]
	seen      string // what the pods have been told; of the one worker
}

// handler has everything looked at when anything of interest happens. A node's heartbeats are not.
func (r *run) handler() cache.ResourceEventHandler {
	look := func(any) { r.queue.Add(struct{}{}) }
	return cache.ResourceEventHandlerFuncs{AddFunc: look, DeleteFunc: look, UpdateFunc: func(before, after any) {
		o, wasNode := before.(*corev1.Node)
		n, isNode := after.(*corev1.Node)
		if wasNode && isNode && slices.Equal(o.Status.Addresses, n.Status.Addresses) && maps.Equal(o.Labels, n.Labels) {
			return
		}
		look(nil)
	}}
}

func (r *run) work(ctx context.Context, log *slog.Logger) {
	for {
		item, stop := r.queue.Get()
		if stop {
			return
		}
		switch err := r.sync(ctx); {
		case err == nil:
			r.queue.Forget(item)
		case ctx.Err() == nil:
			log.Warn("cannot update cluster DNS, will try again", "error", err)
			r.queue.AddRateLimited(item)
		}
		r.queue.Done(item)
	}
}

// sync does what is left to do.
func (r *run) sync(ctx context.Context) error {
	nodes, err := r.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	if r.config.Place {
		if err := r.place(ctx, nodes); err != nil {
			return err
		}
	}
	own, err := r.own.ConfigMaps(namespace).Get(ownConfig)
	if apierrors.IsNotFound(err) { // no name server, or not yet
		return nil
	}
	if err != nil {
		return err
	}
	if hosts := nodeHosts(nodes); own.Data[hostsKey] != hosts {
		return r.apply(ctx, hosts) // its event leads back here
	}
	now, err := r.told()
	if err != nil || now == r.seen {
		return err
	}
	if r.seen != "" { // pods that start now have them as they are
		if err := r.tell(ctx, now); err != nil {
			return err
		}
	}
	r.seen = now
	return nil
}

// told is a short form of what the ConfigMaps say; "" without a name server.
func (r *run) told() (string, error) {
	own, err := r.own.ConfigMaps(namespace).Get(ownConfig)
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	all := []map[string]string{own.Data}
	user, err := r.user.ConfigMaps(namespace).Get(userConfig)
	if err != nil && !apierrors.IsNotFound(err) {
		return "", err
	}
	if err == nil {
		all = append(all, user.Data)
	}
	text, err := json.Marshal(all)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8]), nil
}

// place labels nodes for the name server to run on.
func (r *run) place(ctx context.Context, nodes []*corev1.Node) error {
	for name, wanted := range place(nodes) {
		var value *string // nil takes the label away
		if wanted {
			value = new(auto)
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]*string{placeLabel: value}}})
		if err != nil {
			return err
		}
		if _, err := r.client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("label node %s for cluster DNS: %w", name, err)
		}
	}
	return nil
}

func (r *run) apply(ctx context.Context, hosts string) error {
	data := applycore.ConfigMap(ownConfig, namespace).WithData(map[string]string{hostsKey: hosts})
	_, err := r.client.CoreV1().ConfigMaps(namespace).Apply(ctx, data, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	if err != nil {
		return fmt.Errorf("put the nodes' names into cluster DNS: %w", err)
	}
	return nil
}

// tell marks the pods, so that their kubelets look at their ConfigMaps.
func (r *run) tell(ctx context.Context, now string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{configAnnotation: now}}})
	if err != nil {
		return err
	}
	pods := r.client.CoreV1().Pods(namespace)
	list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: podSelector})
	if err != nil {
		return fmt.Errorf("list the pods of cluster DNS: %w", err)
	}
	for _, pod := range list.Items {
		if _, err := pods.Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("tell pod %s of a change: %w", pod.Name, err)
		}
	}
	return nil
}
