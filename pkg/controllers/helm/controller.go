// Package helm keeps the Helm charts that users ask for in HelmChart objects, with k3s's kinds and Helm's own library, in
// the process: there are no Jobs, no images, and no node is needed.
//
// It is not Helm's command: it reads no files of a user, no plug-ins, and shows no notes. What it makes are ordinary
// releases, which `helm list` shows. It holds no objects but HelmCharts (and HelmChartConfigs once there is a HelmChart);
// Helm's clients are made for one reconciliation and dropped.
//
// It stops when its context ends: requests under way are cancelled, and so a release may be left in the middle, as when
// the process is killed. The next start finds it and goes on.
package helm

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/knarr-io/knarr/pkg/follow"
	"github.com/knarr-io/knarr/pkg/registry"
)

const (
	// workers bounds the charts that are worked on at a time: one whose hooks hang keeps its place for minutes.
	workers = 16
	// A failed chart is tried again after firstDelay, which doubles up to maxDelay.
	firstDelay = 5 * time.Second
	maxDelay   = 10 * time.Minute
	// defaultBackOffLimit is k3s's.
	defaultBackOffLimit = 1000
)

// The kinds.
const group = "helm.cattle.io"

func charts() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: group, Version: "v1", Resource: "helmcharts"}
}

func configs() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: group, Version: "v1", Resource: "helmchartconfigs"}
}

// Config is what the controller needs to know.
type Config struct {
	// Static is the directory of the files that HelmCharts name as https://%{KUBERNETES_API}%/static/...
	Static string
	// Registries is what registries.yaml says at this time, for charts in OCI registries; nil for nothing. NoDefault has
	// registries that have mirrors not be asked themselves.
	Registries func() (registry.Settings, error)
	NoDefault  bool
}

// Controller is the component. Use [New].
type Controller struct {
	config Config
	access func() *rest.Config
	client func() (kubernetes.Interface, error)
	log    *slog.Logger
}

// New makes the component. access is the configuration of clients that may do everything, since charts may contain
// anything; client is a client with the same rights. Both are asked when it runs.
func New(c Config, access func() *rest.Config, client func() (kubernetes.Interface, error), log *slog.Logger) *Controller {
	return &Controller{config: c, access: access, client: client, log: log}
}

// Name is "helm-controller".
func (*Controller) Name() string { return "helm-controller" }

// Run is ready when HelmCharts can be created and those that there are have been seen.
func (c *Controller) Run(ctx context.Context, ready func()) error {
	client, err := c.client()
	if err != nil {
		return fmt.Errorf("make the Helm controller's client: %w", err)
	}
	objects, err := dynamic.NewForConfig(c.access())
	if err != nil {
		return fmt.Errorf("make the Helm controller's client: %w", err)
	}
	if err := install(ctx, objects); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("define HelmChart: %w", err)
	}
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(objects, 0, metav1.NamespaceAll, nil)
	r := &run{
		ctx: ctx, static: c.config.Static, registries: registries{c.config.Registries, c.config.NoDefault}, access: c.access(), client: client, objects: objects, factory: factory, log: c.log,
		queue: follow.NewQueue[string](firstDelay, maxDelay),
		busy:  make(chan struct{}, workers),
	}
	r.secrets = newSecretWatch(client, r.again)
	return r.live(ready)
}

// run is one life of the controller.
type run struct {
	ctx    context.Context //nolint:containedctx // the life's own
	static string
	registries
	access  *rest.Config
	client  kubernetes.Interface
	objects dynamic.Interface
	factory dynamicinformer.DynamicSharedInformerFactory
	charts  cache.GenericLister
	queue   workqueue.TypedRateLimitingInterface[string]
	busy    chan struct{} // has an element for each chart being worked on
	secrets *secretWatch
	log     *slog.Logger

	configs struct {
		sync.Mutex
		lister cache.GenericLister // nil until there is a HelmChart
	}
}

func (r *run) live(ready func()) error {
	defer r.factory.Shutdown()
	defer r.secrets.stop()
	informer := r.factory.ForResource(charts())
	r.charts = informer.Lister()
	registration, err := watch(informer.Informer(), r.again, r.forget)
	if err != nil {
		return fmt.Errorf("watch HelmCharts: %w", err)
	}
	r.factory.Start(r.ctx.Done())

	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(r.dispatch)
	defer r.queue.ShutDown()
	select {
	case <-registration.HasSyncedChecker().Done():
		ready()
		<-r.ctx.Done()
	case <-r.ctx.Done():
	}
	return nil
}

// dispatch hands each chart that is due to a goroutine of its own.
func (r *run) dispatch() {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		key, stop := r.queue.Get()
		if stop {
			return
		}
		r.busy <- struct{}{}
		wg.Go(func() {
			defer func() { <-r.busy }()
			defer r.queue.Done(key)
			r.work(key)
		})
	}
}

// again queues a chart that something has changed for: its failures so far do not count any more.
func (r *run) again(key string) {
	r.queue.Forget(key)
	r.queue.Add(key)
}

// forget is for a chart that is gone.
func (r *run) forget(key string) {
	r.queue.Forget(key)
	r.secrets.set(key, nil)
}

// watch calls changed for each object that was made or changed, and gone for each that was deleted.
func watch(informer cache.SharedIndexInformer, changed, gone func(key string)) (cache.ResourceEventHandlerRegistration, error) {
	if err := informer.SetTransform(trim); err != nil {
		return nil, err
	}
	call := func(f func(string), obj any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
			f(key)
		}
	}
	return informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { call(changed, obj) },
		DeleteFunc: func(obj any) { call(gone, obj) },
		UpdateFunc: func(before, after any) {
			if relevant(before, after) {
				call(changed, after)
			}
		},
	})
}

// relevant tells whether more than status and finalizers has changed, which the controller writes itself.
func relevant(before, after any) bool {
	o, okBefore := before.(*unstructured.Unstructured)
	n, okAfter := after.(*unstructured.Unstructured)
	return okBefore && okAfter && (o.GetGeneration() != n.GetGeneration() ||
		(o.GetDeletionTimestamp() == nil) != (n.GetDeletionTimestamp() == nil) ||
		!equality.Semantic.DeepEqual(o.GetAnnotations(), n.GetAnnotations()))
}

// trim drops managed fields, which nobody here reads.
func trim(obj any) (any, error) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		u.SetManagedFields(nil)
	}
	return obj, nil
}

// configOf is the HelmChartConfig of a chart, nil if there is none. HelmChartConfigs are watched from the first HelmChart
// on: without one they mean nothing.
func (r *run) configOf(namespace, name string) (*ChartConfig, error) {
	lister, err := r.configLister()
	if err != nil {
		return nil, err
	}
	obj, err := lister.ByNamespace(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up HelmChartConfig %s/%s: %w", namespace, name, err)
	}
	config := &ChartConfig{}
	return config, decodeObject(obj, config)
}

func (r *run) configLister() (cache.GenericLister, error) {
	r.configs.Lock()
	defer r.configs.Unlock()
	if r.configs.lister != nil {
		return r.configs.lister, nil
	}
	informer := r.factory.ForResource(configs())
	registration, err := watch(informer.Informer(), r.again, r.again)
	if err != nil {
		return nil, fmt.Errorf("watch HelmChartConfigs: %w", err)
	}
	r.factory.Start(r.ctx.Done())
	select {
	case <-registration.HasSyncedChecker().Done():
		r.configs.lister = informer.Lister()
		return r.configs.lister, nil
	case <-r.ctx.Done():
		return nil, context.Cause(r.ctx)
	}
}
