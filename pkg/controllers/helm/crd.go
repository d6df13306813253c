package helm

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"

	"github.com/knarr-io/knarr/pkg/retry"
)

// crds are the definitions of HelmChart and HelmChartConfig.
//
//go:embed crds.yaml
var crds []byte

// fieldManager is under whose name objects are written.
const fieldManager = "knarr-helm"

// definitions are the documents of crds.
func definitions() ([]*unstructured.Unstructured, error) {
	var all []*unstructured.Unstructured
	for d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(crds), 4096); ; {
		u := &unstructured.Unstructured{}
		switch err := d.Decode(u); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, fmt.Errorf("read the bundled definitions: %w", err)
		}
		all = append(all, u)
	}
}

// install applies the definitions and waits until the API serves them, which takes some milliseconds. When nothing has
// changed, nothing is written.
func install(ctx context.Context, client dynamic.Interface) error {
	all, err := definitions()
	if err != nil {
		return err
	}
	api := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	for _, u := range all {
		name := u.GetName()
		err := retry.Until(ctx, "definition of "+name, retry.Backoff{First: 20 * time.Millisecond, Max: time.Second}, func(ctx context.Context) (bool, error) {
			now, err := api.Apply(ctx, name, u, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
			if err != nil {
				return false, fmt.Errorf("apply definition %s: %w", name, err)
			}
			return established(now), nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// established tells whether the API serves what the definition says.
func established(u *unstructured.Unstructured) bool {
	list, _, err := unstructured.NestedSlice(u.Object, "status", "conditions")
	if err != nil {
		return false
	}
	for _, c := range list {
		if m, ok := c.(map[string]any); ok && m["type"] == "Established" {
			return m["status"] == "True"
		}
	}
	return false
}
