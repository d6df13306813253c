package helm

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The definitions and the types must have the same fields, and with them all those of k3s (helm-controller v0.17.9).
func TestDefinitionsMatchTypes(t *testing.T) {
	all, err := definitions()
	if err != nil {
		t.Fatal(err)
	}
	schemas := map[string]map[string]any{}
	for _, u := range all {
		versions, _, err := unstructured.NestedSlice(u.Object, "spec", "versions")
		if err != nil || len(versions) != 1 {
			t.Fatalf("%s has %d versions, %v", u.GetName(), len(versions), err)
		}
		properties, _, err := unstructured.NestedMap(versions[0].(map[string]any), "schema", "openAPIV3Schema", "properties")
		if err != nil {
			t.Fatal(err)
		}
		schemas[u.GetName()] = properties
	}
	for _, tt := range []struct {
		definition, part string
		of               any
		k3s              string
	}{
		{"helmcharts.helm.cattle.io", "spec", ChartSpec{}, "authPassCredentials authSecret backOffLimit bootstrap chart chartContent createNamespace dockerRegistrySecret driver " +
			"failurePolicy forceConflicts helmVersion insecureSkipTLSVerify jobImage plainHTTP podSecurityContext repo repoCA repoCAConfigMap securityContext serverSide set " +
			"takeOwnership targetNamespace timeout values valuesContent valuesSecrets version"},
		{"helmcharts.helm.cattle.io", "status", ChartStatus{}, "conditions jobName"},
		{"helmchartconfigs.helm.cattle.io", "spec", ConfigSpec{}, "failurePolicy forceConflicts serverSide values valuesContent valuesSecrets"},
	} {
		properties, _, err := unstructured.NestedMap(schemas[tt.definition], tt.part, "properties")
		if err != nil {
			t.Fatal(err)
		}
		defined := slices.Sorted(maps.Keys(properties))
		if typed := names(tt.of); !slices.Equal(defined, typed) {
			t.Errorf("%s.%s:\ndefined %v\ntyped   %v", tt.definition, tt.part, defined, typed)
		}
		for name := range strings.FieldsSeq(tt.k3s) {
			if !slices.Contains(defined, name) {
				t.Errorf("%s.%s lacks k3s's %s", tt.definition, tt.part, name)
			}
		}
	}
}

// names are the JSON names of a struct's fields.
func names(of any) []string {
	var list []string
	for _, f := range reflect.VisibleFields(reflect.TypeOf(of)) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

// A HelmChart as k3s's users write them is read to the last field.
func TestDecode(t *testing.T) {
	const text = `{"apiVersion":"helm.cattle.io/v1","kind":"HelmChart","metadata":{"name":"c","namespace":"n"},"spec":{
		"chart":"c","set":{"a":1,"b":"x"},"timeout":"90s","backOffLimit":2,"values":{"deep":{"n":1}},"driver":"configmap",
		"podSecurityContext":{"runAsUser":1},"authSecret":{"name":"s"},"valuesSecrets":[{"name":"v","keys":["k"],"ignoreUpdates":true}]}}`
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON([]byte(text)); err != nil {
		t.Fatal(err)
	}
	c := &Chart{}
	if err := decodeObject(u, c); err != nil {
		t.Fatal(err)
	}
	strict := json.NewDecoder(bytes.NewReader([]byte(text)))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&Chart{}); err != nil {
		t.Error(err)
	}
	if c.Spec.Timeout.Seconds() != 90 || *c.Spec.BackOffLimit != 2 || string(c.Spec.Values) != `{"deep":{"n":1}}` || c.Spec.AuthSecret.Name != "s" || !c.Spec.ValuesSecrets[0].IgnoreUpdates {
		t.Errorf("got %+v", c.Spec)
	}
	if got := c.Spec.ignored(); !slices.Equal(got, []string{"podSecurityContext"}) {
		t.Errorf("ignored %v", got)
	}
}
