package helm

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// secrets are those of a namespace: name, key, content.
type secrets map[string]map[string]string

func (s secrets) read(_ context.Context, name string) (map[string][]byte, error) {
	keys, ok := s[name]
	if !ok {
		return nil, apierrors.NewNotFound(corev1.Resource("secrets"), name)
	}
	data := map[string][]byte{}
	for k, v := range keys {
		data[k] = []byte(v)
	}
	return data, nil
}

// Each source sets the key of every later one; who wins is who comes last.
func TestPrecedence(t *testing.T) {
	chart := ChartSpec{
		ValuesContent: "a: content\nb: content\nc: content\nd: content\ne: content\nf: content\ng: content\nlist: [1, 2]\nmap: {p: 1, q: 1}\n",
		Values:        json.RawMessage(`{"b":"object","c":"object","d":"object","e":"object","f":"object","g":"object","list":[3],"map":{"q":2}}`),
		ValuesSecrets: []SecretKeys{{Name: "s", Keys: []string{"one", "two"}}, {Name: "unused"}},
		Set:           map[string]intstr.IntOrString{"g": intstr.FromString("set")},
	}
	config := &ConfigSpec{
		ValuesContent: "d: config content\ne: config content\nf: config content\ng: config content",
		Values:        json.RawMessage(`{"e":"config object","f":"config object","g":"config object"}`),
		ValuesSecrets: []SecretKeys{{Name: "t", Keys: []string{"one"}}},
	}
	in := secrets{"s": {"one": "c: x", "two": "c: secret\nd: secret\ne: secret\nf: secret\ng: secret"}, "t": {"one": "f: config secret\ng: config secret"}}
	all, err := layers(t.Context(), chart, config, in.read)
	if err != nil {
		t.Fatal(err)
	}
	values, err := mergeValues(all, chart.Set)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"a":"content","b":"object","c":"secret","d":"config content","e":"config object","f":"config secret","g":"set","list":[3],"map":{"p":1,"q":2}}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestSet(t *testing.T) {
	tests := []struct {
		name string
		set  map[string]intstr.IntOrString
		want string
	}{
		{"types", map[string]intstr.IntOrString{"n": intstr.FromInt32(3), "s": intstr.FromString("3"), "t": intstr.FromString("true"), "u": intstr.FromString("False")}, `{"n":3,"s":"3","t":true,"u":false}`},
		{"path", map[string]intstr.IntOrString{"a.b": intstr.FromString("x"), "l[1]": intstr.FromString("y")}, `{"a":{"b":"x"},"l":[null,"y"]}`},
		{"commas", map[string]intstr.IntOrString{"a": intstr.FromString("x,y"), "b": intstr.FromString(`x\,y`)}, `{"a":"x,y","b":"x,y"}`},
		{"a text wins over a type at the same place", map[string]intstr.IntOrString{"a.b": intstr.FromString("x"), "a.c": intstr.FromInt32(1)}, `{"a":{"b":"x","c":1}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			values, err := mergeValues(nil, tt.set)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := json.Marshal(values); err != nil || string(got) != tt.want {
				t.Errorf("got %s, %v, want %s", got, err, tt.want)
			}
		})
	}
}

func TestBadValues(t *testing.T) {
	in := secrets{"s": {"one": "a: 1"}}
	tests := []struct {
		name  string
		chart ChartSpec
		want  string
		final bool
	}{
		{"content", ChartSpec{ValuesContent: "a: b: c"}, "read values from spec.valuesContent", true},
		{"object", ChartSpec{Values: json.RawMessage(`[1]`)}, "read values from spec.values", true},
		{"no Secret", ChartSpec{ValuesSecrets: []SecretKeys{{Name: "x", Keys: []string{"one"}}}}, `read the Secret x of spec.valuesSecrets: secrets "x" not found`, false},
		{"no key", ChartSpec{ValuesSecrets: []SecretKeys{{Name: "s", Keys: []string{"two"}}}}, `the Secret s has no key "two"`, false},
		{"set", ChartSpec{Set: map[string]intstr.IntOrString{"a[99999999]": intstr.FromString("x")}}, `read spec.set["a[99999999]"]`, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			all, err := layers(t.Context(), tt.chart, nil, in.read)
			if err == nil {
				_, err = mergeValues(all, tt.chart.Set)
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got error %v, want %q", err, tt.want)
			}
			var final permanent
			if errors.As(err, &final) != tt.final {
				t.Errorf("permanent is %v, want %v: %v", !tt.final, tt.final, err)
			}
		})
	}
}

// What the release is made from makes another release; what is about the way there does not.
func TestFingerprint(t *testing.T) {
	base := func() ChartSpec {
		return ChartSpec{Chart: "c", Repo: "https://r.test", Version: "1", ValuesSecrets: []SecretKeys{{Name: "s", Keys: []string{"k"}}, {Name: "quiet", Keys: []string{"k"}, IgnoreUpdates: true}}}
	}
	print := func(s ChartSpec, config *ConfigSpec, in secrets) string {
		all, err := layers(t.Context(), s, config, in.read)
		if err != nil {
			t.Fatal(err)
		}
		f, err := fingerprint(s, all)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	in := secrets{"s": {"k": "a: 1"}, "quiet": {"k": "b: 1"}}
	first := print(base(), nil, in)
	other := map[string]func(*ChartSpec){
		"version":          func(s *ChartSpec) { s.Version = "2" },
		"chart":            func(s *ChartSpec) { s.Chart = "d" },
		"repo":             func(s *ChartSpec) { s.Repo = "https://s.test" },
		"content":          func(s *ChartSpec) { s.ChartContent = "QQ==" },
		"target namespace": func(s *ChartSpec) { s.TargetNamespace = "n" },
		"values":           func(s *ChartSpec) { s.ValuesContent = "x: 1" },
		"set":              func(s *ChartSpec) { s.Set = map[string]intstr.IntOrString{"x": intstr.FromInt32(1)} },
	}
	seen := map[string]string{first: "the first"}
	for _, name := range slices.Sorted(maps.Keys(other)) {
		s := base()
		other[name](&s)
		f := print(s, nil, in)
		if seen[f] != "" {
			t.Errorf("another %s has the fingerprint of %s", name, seen[f])
		}
		seen[f] = name
	}
	if print(base(), nil, secrets{"s": {"k": "a: 2"}, "quiet": {"k": "b: 1"}}) == first {
		t.Error("a changed Secret is not noticed")
	}
	if print(base(), &ConfigSpec{ValuesContent: "x: 1"}, in) == first {
		t.Error("a HelmChartConfig is not noticed")
	}
	same := map[string]func(*ChartSpec, secrets){
		"ignored Secret": func(_ *ChartSpec, in secrets) { in["quiet"] = map[string]string{"k": "b: 2"} },
		"absent Secret":  func(_ *ChartSpec, in secrets) { delete(in, "quiet") },
		"policy":         func(s *ChartSpec, _ secrets) { s.FailurePolicy = policyAbort },
		"credentials":    func(s *ChartSpec, _ secrets) { s.AuthSecret = &corev1.LocalObjectReference{Name: "x"} },
	}
	for name, change := range same {
		s, in := base(), maps.Clone(in)
		if change(&s, in); print(s, nil, in) != first {
			t.Errorf("another %s makes another release", name)
		}
	}
}
