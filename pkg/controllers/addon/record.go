package addon

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/knarr-io/knarr/pkg/retry"
)

// recorder is the part of a record.EventRecorder that is used.
type recorder interface {
	Event(object runtime.Object, eventtype, reason, message string)
}

// install applies the definition of Addons and waits until the API has them.
func (c *client) install(ctx context.Context) error {
	data, err := yaml.YAMLToJSON(crd)
	if err != nil {
		return fmt.Errorf("read the definition of Addons: %w", err)
	}
	definition := resource{GroupVersionResource: kinds}
	return retry.Until(ctx, "the API to know Addons", retry.Backoff{First: 20 * time.Millisecond, Max: time.Second}, func(ctx context.Context) (bool, error) {
		if err := c.apply(ctx, definition, "", "addons."+Group, data); err != nil {
			return false, err
		}
		_, err := c.list(ctx)
		return err == nil, err
	})
}

// request is a request about Addons, in JSON: custom resources have no other form.
func request(r *rest.Request, names ...string) *rest.Request {
	path := append([]string{"/apis", Group, Version, "namespaces", Namespace, "addons"}, names...)
	return r.AbsPath(path...).SetHeader("Accept", "application/json")
}

func (c *client) list(ctx context.Context) ([]addon, error) {
	data, err := request(c.addons.Get()).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("list addons: %w", err)
	}
	var list struct {
		Items []addon `json:"items"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("read list of addons: %w", err)
	}
	return list.Items, nil
}

func (c *client) get(ctx context.Context, name string) (*addon, error) {
	data, err := request(c.addons.Get(), name).DoRaw(ctx)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get addon %s: %w", name, err)
	}
	var a addon
	if err := json.Unmarshal(data, &a); err != nil {
		return nil, fmt.Errorf("read addon %s: %w", name, err)
	}
	return &a, nil
}

// saveSpec creates the Addon if there is none.
func (c *client) saveSpec(ctx context.Context, name string, s spec) (types.UID, error) {
	data, err := c.applyAddon(ctx, map[string]any{"spec": s}, name)
	if err != nil {
		return "", err
	}
	var a addon
	if err := json.Unmarshal(data, &a); err != nil {
		return "", fmt.Errorf("read addon %s: %w", name, err)
	}
	return a.UID, nil
}

func (c *client) saveStatus(ctx context.Context, name string, s status) error {
	_, err := c.applyAddon(ctx, map[string]any{"status": s}, name, "status")
	return err
}

func (c *client) applyAddon(ctx context.Context, fields map[string]any, path ...string) ([]byte, error) {
	fields["apiVersion"], fields["kind"] = Group+"/"+Version, "Addon"
	fields["metadata"] = map[string]any{"name": path[0], "namespace": Namespace}
	data, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("encode addon %s: %w", path[0], err)
	}
	data, err = request(c.addons.Patch(types.ApplyPatchType), path...).Param("fieldManager", fieldManager).Param("force", "true").Body(data).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("write addon %s: %w", path[0], err)
	}
	return data, nil
}

func (c *client) forget(ctx context.Context, name string) error {
	_, err := request(c.addons.Delete(), name).DoRaw(ctx)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete addon %s: %w", name, err)
	}
	return nil
}

// watchKinds watches names only: a definition is large, and that it is established shows as a change.
func (c *client) watchKinds(ctx context.Context, changed func(group string)) error {
	definitions := c.metadata.Resource(kinds)
	now, err := definitions.List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return fmt.Errorf("watch definitions of kinds: %w", err)
	}
	w, err := definitions.Watch(ctx, metav1.ListOptions{ResourceVersion: now.ResourceVersion})
	if err != nil {
		return fmt.Errorf("watch definitions of kinds: %w", err)
	}
	defer w.Stop()
	changed("") // whatever came before the watch
	for e := range w.ResultChan() {
		if o, ok := e.Object.(*metav1.PartialObjectMetadata); ok && e.Type != watch.Deleted {
			_, group, _ := strings.Cut(o.Name, ".")
			changed(group)
		}
	}
	return nil
}
