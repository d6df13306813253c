package addon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
)

// errNoKind is the answer about a kind that the API does not know.
var errNoKind = errors.New("the API does not know the kind: its CustomResourceDefinition is not there yet, or the kind or its apiVersion is misspelt")

// cluster is what the controller needs of the API. The tests have another.
type cluster interface {
	// resource finds out how a kind is reached; errNoKind if it is not.
	resource(ctx context.Context, kind schema.GroupVersionKind) (resource, error)
	// served is resource for a kind whose version may no longer be served: then it is another version's.
	served(ctx context.Context, kind schema.GroupVersionKind) (resource, error)
	// apply makes the cluster's object have the fields of data, and take away those that data had before.
	apply(ctx context.Context, r resource, namespace, name string, data []byte) error
	// labelled are the objects of a kind that were made for an Addon.
	labelled(ctx context.Context, r resource, addon string) ([]item, error)
	// remove deletes an object unless it is another one by now. One that is gone is no error.
	remove(ctx context.Context, r resource, i item) error

	// install makes the API know Addons, and list returns all that there are.
	install(ctx context.Context) error
	list(ctx context.Context) ([]addon, error)
	// get returns nil when there is none.
	get(ctx context.Context, name string) (*addon, error)
	saveSpec(ctx context.Context, name string, s spec) (types.UID, error)
	saveStatus(ctx context.Context, name string, s status) error
	forget(ctx context.Context, name string) error

	// watchKinds calls changed with each group in which a kind is defined, until ctx ends or the watch breaks. The
	// first call, when the watch has begun, is with "", for all groups.
	watchKinds(ctx context.Context, changed func(group string)) error
	// event tells users what has happened to an Addon.
	event(name string, uid types.UID, kind, reason, message string)
}

// resource is how a kind is reached.
type resource struct {
	schema.GroupVersionResource
	kind       schema.GroupKind
	namespaced bool
}

// item is an object in the cluster.
type item struct {
	namespace, name string
	uid             types.UID
	deleting        bool
}

// client is the cluster over the API.
type client struct {
	discovery *discovery.DiscoveryClient
	metadata  metadata.Interface
	addons    rest.Interface
	recorder  recorder

	mu    sync.Mutex
	known map[schema.GroupVersionKind]resource // asked for and found so far
}

func newClient(config *rest.Config, events recorder) (*client, error) {
	d, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a discovery client: %w", err)
	}
	m, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a metadata client: %w", err)
	}
	return &client{discovery: d, metadata: m, addons: d.RESTClient(), recorder: events, known: make(map[schema.GroupVersionKind]resource)}, nil
}

func (c *client) resource(ctx context.Context, kind schema.GroupVersionKind) (resource, error) {
	c.mu.Lock()
	r, ok := c.known[kind]
	c.mu.Unlock()
	if ok {
		return r, nil
	}
	list, err := c.discovery.ServerResourcesForGroupVersionWithContext(ctx, kind.GroupVersion().String())
	if apierrors.IsNotFound(err) {
		return resource{}, errNoKind
	}
	if err != nil {
		return resource{}, fmt.Errorf("ask the API for the kinds of %s: %w", kind.GroupVersion(), err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range list.APIResources {
		// A subresource may have the kind of another resource.
		if !slices.Contains([]string(a.Verbs), "patch") || slices.Contains([]byte(a.Name), '/') {
			continue
		}
		found := kind.GroupVersion().WithKind(a.Kind)
		c.known[found] = resource{kind.GroupVersion().WithResource(a.Name), found.GroupKind(), a.Namespaced}
	}
	if r, ok = c.known[kind]; !ok {
		return resource{}, errNoKind
	}
	return r, nil
}

func (c *client) served(ctx context.Context, kind schema.GroupVersionKind) (resource, error) {
	r, err := c.resource(ctx, kind)
	if !errors.Is(err, errNoKind) || kind.Group == "" {
		return r, err
	}
	data, err := c.discovery.RESTClient().Get().AbsPath("/apis", kind.Group).SetHeader("Accept", "application/json").DoRaw(ctx)
	if apierrors.IsNotFound(err) {
		return resource{}, errNoKind
	}
	var group metav1.APIGroup
	if err == nil {
		err = json.Unmarshal(data, &group)
	}
	if err != nil {
		return resource{}, fmt.Errorf("ask the API for the versions of %s: %w", kind.Group, err)
	}
	for _, v := range group.Versions {
		r, err := c.resource(ctx, schema.GroupVersionKind{Group: kind.Group, Version: v.Version, Kind: kind.Kind})
		if !errors.Is(err, errNoKind) {
			return r, err
		}
	}
	return resource{}, errNoKind
}

// lose has a kind looked up again, since it may be another by now.
func (c *client) lose(r resource) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, r.GroupVersion().WithKind(r.kind.Kind))
}

func (c *client) at(r resource, namespace string) metadata.ResourceInterface {
	if r.namespaced {
		return c.metadata.Resource(r.GroupVersionResource).Namespace(namespace)
	}
	return c.metadata.Resource(r.GroupVersionResource)
}

// apply asks for no more than the metadata back. It forces: what the file says wins over whoever else has set it.
func (c *client) apply(ctx context.Context, r resource, namespace, name string, data []byte) error {
	force := true
	_, err := c.at(r, namespace).Patch(ctx, name, types.ApplyPatchType, data, metav1.PatchOptions{FieldManager: fieldManager, Force: &force})
	if apierrors.IsNotFound(err) {
		c.lose(r)
	}
	return err
}

// pageSize bounds what a list holds in memory.
const pageSize = 500

// labelled leaves out objects that merely have the label, because somebody has copied it: what knarr has not applied,
// and what a controller made of it, as EndpointSlices have the labels of their Service. Those to [Keep] are left out, too.
func (c *client) labelled(ctx context.Context, r resource, addon string) ([]item, error) {
	var items []item
	options := metav1.ListOptions{LabelSelector: Label + "=" + addon, Limit: pageSize}
	for {
		page, err := c.metadata.Resource(r.GroupVersionResource).List(ctx, options)
		if apierrors.IsNotFound(err) {
			c.lose(r)
			return nil, errNoKind
		}
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", r.GroupResource(), err)
		}
		for _, o := range page.Items {
			applied := slices.ContainsFunc(o.ManagedFields, func(f metav1.ManagedFieldsEntry) bool {
				return f.Manager == fieldManager && f.Operation == metav1.ManagedFieldsOperationApply
			})
			if applied && metav1.GetControllerOf(&o) == nil && o.Annotations[Keep] != "true" {
				items = append(items, item{o.Namespace, o.Name, o.UID, o.DeletionTimestamp != nil})
			}
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return items, nil
		}
	}
}

func (c *client) remove(ctx context.Context, r resource, i item) error {
	background := metav1.DeletePropagationBackground
	err := c.at(r, i.namespace).Delete(ctx, i.name, metav1.DeleteOptions{PropagationPolicy: &background, Preconditions: &metav1.Preconditions{UID: &i.uid}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// kinds is where kinds are defined.
var kinds = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// event writes one event, in the background: nothing depends on it.
func (c *client) event(name string, uid types.UID, kind, reason, message string) {
	c.recorder.Event(&corev1.ObjectReference{APIVersion: Group + "/" + Version, Kind: "Addon", Namespace: Namespace, Name: name, UID: uid}, kind, reason, message)
}
