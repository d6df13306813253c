// Command crds writes CustomResourceDefinitions as knarr brings them along: those
// of the files named, sorted by name, without descriptions, comments and status,
// and without the versions that [wanted] leaves out. The API server holds all that
// a definition says several times over: the 18 definitions as upstream publishes
// them took 20 MiB more of an idle server.
//
//	crds FILE... >manifests/traefik/NAME.yaml
//
// (The GatewayClass at the end of gateway-api-crds.yaml is not from there; of the standard channel, ListenerSet is left out,
// which Traefik does not know, and the policy that keeps other versions of the definitions from being installed.)
//
// The sources are in the modules of Traefik (docs/content/reference/
// dynamic-configuration/kubernetes-crd-definition-v1.yml) and of the Gateway API
// (config/crd/standard), at the versions that scripts/helpers/traefik/go.mod names.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "crds:", err)
		os.Exit(1)
	}
}

func run(files []string, out io.Writer) error {
	var all []apiextensionsv1.CustomResourceDefinition
	for _, file := range files {
		crds, err := read(file)
		if err != nil {
			return fmt.Errorf("read %s: %w", file, err)
		}
		all = append(all, crds...)
	}
	slices.SortFunc(all, func(a, b apiextensionsv1.CustomResourceDefinition) int { return strings.Compare(a.Name, b.Name) })
	for _, crd := range all {
		text, err := shorten(crd)
		if err != nil {
			return fmt.Errorf("write %s: %w", crd.Name, err)
		}
		if _, err := fmt.Fprintf(out, "---\n%s", text); err != nil {
			return err
		}
	}
	return nil
}

func read(file string) ([]apiextensionsv1.CustomResourceDefinition, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var crds []apiextensionsv1.CustomResourceDefinition
	for d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096); ; {
		var crd apiextensionsv1.CustomResourceDefinition
		err := d.Decode(&crd)
		if errors.Is(err, io.EOF) {
			return crds, nil
		}
		if err != nil {
			return nil, err
		}
		if crd.Kind != "CustomResourceDefinition" {
			return nil, fmt.Errorf("it holds a %s %s", crd.Kind, crd.Name)
		}
		crds = append(crds, crd)
	}
}

// shorten returns the definition as YAML, without what no program reads.
func shorten(crd apiextensionsv1.CustomResourceDefinition) ([]byte, error) {
	crd.Spec.Versions = wanted(crd.Spec.Versions)
	text, err := sigsyaml.Marshal(crd)
	if err != nil {
		return nil, err
	}
	var object map[string]any
	if err := sigsyaml.Unmarshal(text, &object); err != nil {
		return nil, err
	}
	delete(object, "status")
	if meta, ok := object["metadata"].(map[string]any); ok {
		delete(meta, "creationTimestamp")
		meta["annotations"] = keep(crd.Annotations)
	}
	undescribe(object)
	return sigsyaml.Marshal(object)
}

// wanted leaves out versions that are not served, and those that are served beside the v1 that is stored.
func wanted(versions []apiextensionsv1.CustomResourceDefinitionVersion) []apiextensionsv1.CustomResourceDefinitionVersion {
	final := slices.ContainsFunc(versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool {
		return v.Name == "v1" && v.Storage
	})
	return slices.DeleteFunc(versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool {
		return !v.Served && !v.Storage || final && !v.Storage
	})
}

// keep adds the annotation by which a definition stays when knarr is told to be without its file: with the definition, all
// objects of the kind would go, somebody else's, too.
func keep(annotations map[string]string) map[string]any {
	all := map[string]any{"knarr.io/keep": "true"}
	for name, value := range annotations {
		all[name] = value
	}
	return all
}

// undescribe removes the descriptions of a schema and of all below it. A property that is called description is none: it
// is not a string.
func undescribe(value any) {
	switch v := value.(type) {
	case map[string]any:
		if _, text := v["description"].(string); text {
			delete(v, "description")
		}
		for _, below := range v {
			undescribe(below)
		}
	case []any:
		for _, below := range v {
			undescribe(below)
		}
	}
}
