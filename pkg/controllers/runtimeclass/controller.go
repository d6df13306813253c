// Package runtimeclass offers the container runtimes that nodes have: a RuntimeClass for each that at least one node
// announces in a label, which sends pods to those nodes only. A class that no node offers any more is removed.
//
// It neither finds nor configures runtimes: that is done on each node. It leaves RuntimeClasses that others made alone,
// and holds no objects but the Nodes, which the process has anyhow.
//
// It stops when its context ends.
package runtimeclass

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/knarr-io/knarr/pkg/follow"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/retry"
)

// labelManaged marks the RuntimeClasses that are ours.
const (
	labelManaged = "app.kubernetes.io/managed-by"
	managedBy    = "knarr"
)

// Config is what may be offered.
type Config struct {
	// Label and a class's name are the label of a node that has the runtime.
	Label string
	// Handlers are the handlers of the classes. No other class is offered, whatever a node says. Empty: none at all, and
	// those made before are removed.
	Handlers map[string]string
}

// Controller is the component. Use [New].
type Controller struct {
	config    Config
	client    func() (kubernetes.Interface, error)
	informers func() informers.SharedInformerFactory
	log       *slog.Logger
}

// New makes the component. client needs the rights to all of RuntimeClasses, the factory those to list and watch nodes.
func New(c Config, client func() (kubernetes.Interface, error), factory func() informers.SharedInformerFactory, log *slog.Logger) *Controller {
	return &Controller{config: c, client: client, informers: factory, log: log}
}

// Name is "runtime-classes".
func (*Controller) Name() string { return "runtime-classes" }

// Run is ready when the classes of the nodes that there are have been made.
func (c *Controller) Run(ctx context.Context, ready func()) error {
	client, err := c.client()
	if err != nil {
		return fmt.Errorf("make the client for RuntimeClasses: %w", err)
	}
	factory := c.informers()
	nodes := factory.Core().V1().Nodes()
	r := &run{config: c.config, client: client, nodes: nodes.Lister(), log: c.log, due: follow.NewBell()}
	following, err := follow.Start(ctx, factory, follow.On{Informer: nodes.Informer(), Handler: r.handler()})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	defer following.End()
	crew, ctx := lifecycle.NewCrew(ctx)
	crew.Go(func() error {
		if !following.Synced(ctx) {
			return nil
		}
		r.due.Ring()
		return r.work(ctx, ready)
	})
	return crew.Wait()
}

// run is one life of the controller.
type run struct {
	config Config
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	due    follow.Bell // there is something to look at
	log    *slog.Logger
}

// handler notices when a node with runtimes comes or goes or has others.
func (r *run) handler() cache.ResourceEventHandler {
	check := func(before, after any) {
		if !maps.Equal(r.offered(before), r.offered(after)) {
			r.due.Ring()
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { check(nil, obj) },
		UpdateFunc: check,
		DeleteFunc: func(obj any) {
			if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = d.Obj
			}
			check(obj, nil)
		},
	}
}

// offered are the classes that a Node offers.
func (r *run) offered(obj any) map[string]bool {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return nil
	}
	offers := map[string]bool{}
	for key, value := range n.Labels {
		class, ours := strings.CutPrefix(key, r.config.Label)
		if _, known := r.config.Handlers[class]; ours && known && value == "true" {
			offers[class] = true
		}
	}
	return offers
}

// work makes the classes whenever that is due, and is ready after the first time.
func (r *run) work(ctx context.Context, ready func()) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.due:
		}
		err := retry.Until(ctx, "the RuntimeClasses", retry.Backoff{Max: time.Minute}, func(ctx context.Context) (bool, error) {
			err := r.sync(ctx)
			return err == nil, err
		})
		if err != nil && ctx.Err() == nil {
			return err
		}
		ready()
	}
}

// sync makes the classes that nodes offer and removes those of ours that none does.
func (r *run) sync(ctx context.Context) error {
	nodes, err := r.nodes.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	want := map[string]bool{}
	for _, n := range nodes {
		maps.Copy(want, r.offered(n))
	}
	api := r.client.NodeV1().RuntimeClasses()
	ours, err := api.List(ctx, metav1.ListOptions{LabelSelector: labelManaged + "=" + managedBy})
	if err != nil {
		return fmt.Errorf("list RuntimeClasses: %w", err)
	}
	var errs []error
	for _, has := range ours.Items {
		if !want[has.Name] {
			err := api.Delete(ctx, has.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &has.UID}})
			if err == nil {
				r.log.Info("no node has the container runtime any more", "class", has.Name)
			} else if !apierrors.IsNotFound(err) {
				errs = append(errs, fmt.Errorf("delete RuntimeClass %s: %w", has.Name, err))
			}
			continue
		}
		delete(want, has.Name)
		errs = append(errs, r.restore(ctx, &has))
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		_, err := api.Create(ctx, r.class(name), metav1.CreateOptions{})
		if err == nil {
			r.log.Info("offering a container runtime", "class", name, "handler", r.config.Handlers[name])
		} else if !apierrors.IsAlreadyExists(err) { // somebody else's is theirs
			errs = append(errs, fmt.Errorf("create RuntimeClass %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// restore gives a class of ours its scheduling back, which keeps pods off nodes that could not run them.
func (r *run) restore(ctx context.Context, has *nodev1.RuntimeClass) error {
	want := r.class(has.Name)
	if equality.Semantic.DeepEqual(has.Scheduling, want.Scheduling) {
		return nil
	}
	has.Scheduling = want.Scheduling
	if _, err := r.client.NodeV1().RuntimeClasses().Update(ctx, has, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update RuntimeClass %s: %w", has.Name, err)
	}
	return nil
}

func (r *run) class(name string) *nodev1.RuntimeClass {
	return &nodev1.RuntimeClass{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{labelManaged: managedBy}},
		Handler:    r.config.Handlers[name],
		Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{r.config.Label + name: "true"}},
	}
}
