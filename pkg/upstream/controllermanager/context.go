package controllermanager

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	cacheddiscovery "k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/restmapper"
	controllersmetrics "k8s.io/component-base/metrics/prometheus/controllers"
	"k8s.io/controller-manager/pkg/informerfactory"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app/config"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	kubectrlmgrconfig "k8s.io/kubernetes/pkg/controller/apis/config"
	"k8s.io/kubernetes/pkg/controller/garbagecollector"
)

// newContext follows CreateControllerContext (cmd/kube-controller-manager/app/controllermanager.go:528), with
// in-process clients. It need not wait for the API: the component starts after it. The informers are nobody else's:
// controllers register handlers before they are complete, so nothing may start them before all controllers are built.
func (c *Component) newContext(ctx context.Context, cfg kubectrlmgrconfig.KubeControllerManagerConfiguration, root kubernetes.Interface) (app.ControllerContext, error) {
	clients := builder{c.api}
	metadataClient, err := metadata.NewForConfig(c.api.ClientConfig(rootUser))
	if err != nil {
		return app.ControllerContext{}, fmt.Errorf("make metadata client: %w", err)
	}
	completed := (&config.Config{ComponentConfig: cfg}).Complete()
	shared := informers.NewSharedInformerFactoryWithOptions(root, app.ResyncPeriod(completed)(), informers.WithTransform(trim))
	metadataInformers := metadatainformer.NewSharedInformerFactoryWithOptions(metadataClient, app.ResyncPeriod(completed)(), metadatainformer.WithTransform(trim))
	discovery, err := clients.DiscoveryClient("controller-discovery")
	if err != nil {
		return app.ControllerContext{}, err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(cacheddiscovery.NewMemCacheClient(discovery))
	go wait.UntilWithContext(ctx, func(context.Context) { mapper.Reset() }, 30*time.Second) // controllermanager.go:577

	cc := app.ControllerContext{
		ClientBuilder:                   clients,
		InformerFactory:                 shared,
		ObjectOrMetadataInformerFactory: informerfactory.NewInformerFactory(shared, metadataInformers),
		ComponentConfig:                 cfg,
		RESTMapper:                      mapper,
		InformersStarted:                make(chan struct{}),
		ResyncPeriod:                    app.ResyncPeriod(completed),
		ControllerManagerMetrics:        controllersmetrics.NewControllerManagerMetrics("kube-controller-manager"),
	}
	gc := cfg.GarbageCollectorController
	if gc.EnableGarbageCollector && cc.IsControllerEnabled(app.NewControllerDescriptors()[names.GarbageCollectorController]) {
		ignored := make(map[schema.GroupResource]struct{})
		for _, r := range gc.GCIgnoredResources {
			ignored[schema.GroupResource{Group: r.Group, Resource: r.Resource}] = struct{}{}
		}
		cc.GraphBuilder = garbagecollector.NewDependencyGraphBuilder(ctx, metadataClient, mapper, ignored, cc.ObjectOrMetadataInformerFactory, cc.InformersStarted)
	}
	controllersmetrics.Register()
	return cc, nil
}

// trim drops managed fields, which no controller reads.
func trim(obj any) (any, error) {
	if o, err := meta.Accessor(obj); err == nil {
		o.SetManagedFields(nil)
	}
	return obj, nil
}
