package ingress

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/knarr-io/knarr/manifests"
)

// bundled are the objects of a bundled manifest.
func bundled(t *testing.T, file string) (objects []*unstructured.Unstructured) {
	t.Helper()
	data, err := manifests.Read(file, manifests.Values{manifests.BaseImage: "docker.io/knarr/base:1"})
	must(t, err)
	for d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096); ; {
		var o unstructured.Unstructured
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			return objects
		} else if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if o.Object != nil {
			objects = append(objects, &o)
		}
	}
}

// TestKindsAreBundled compares what is watched with the definitions that knarr brings along.
func TestKindsAreBundled(t *testing.T) {
	served := make(map[string][]string)
	for _, file := range []string{"traefik/traefik-crds.yaml", "traefik/gateway-api-crds.yaml"} {
		for _, o := range bundled(t, file) {
			if o.GetKind() != "CustomResourceDefinition" {
				continue
			}
			var crd apiextensionsv1.CustomResourceDefinition
			must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &crd))
			for _, v := range crd.Spec.Versions {
				if v.Served {
					served[crd.Name] = append(served[crd.Name], v.Name)
				}
			}
			if crd.Annotations["knarr.io/keep"] != "true" {
				t.Errorf("%s goes with its file, and all objects of the kind with it", crd.Name)
			}
		}
	}
	for _, k := range kinds {
		if name := k.resource.GroupResource().String(); k.custom && !slices.Contains(served[name], k.resource.Version) {
			t.Errorf("%s is watched in version %s, the definition serves %v", name, k.resource.Version, served[name])
		}
	}
}

// TestClassesAreTraefiks has the bundled classes belong to who the controller takes for Traefik.
func TestClassesAreTraefiks(t *testing.T) {
	found := make(map[string]string)
	for _, file := range []string{"traefik/traefik.yaml", "traefik/gateway-api-crds.yaml"} {
		for _, o := range bundled(t, file) {
			if o.GetKind() == "IngressClass" || o.GetKind() == "GatewayClass" {
				found[o.GetKind()+" "+o.GetName()] = classOf(o.GetKind())(o)
			}
		}
	}
	if found["IngressClass traefik"] != ingressController || found["GatewayClass traefik"] != gatewayController {
		t.Errorf("the bundled classes are %v", found)
	}
}

// TestOnDemand has what costs something there on demand only.
func TestOnDemand(t *testing.T) {
	for _, o := range bundled(t, "traefik/traefik.yaml") {
		want := slices.Contains([]string{"DaemonSet", "Service"}, o.GetKind())
		if got := o.GetAnnotations()["knarr.io/on-demand"] == "true"; got != want {
			t.Errorf("%s %s is on demand: %v, want %v", o.GetKind(), o.GetName(), got, want)
		}
	}
}
