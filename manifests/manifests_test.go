package manifests

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestFiles(t *testing.T) {
	names := make(map[string]string)
	all := Values{ClusterDNS: "192.0.2.10", ClusterDNSList: "[192.0.2.10]", ClusterDomain: "cluster.local"}
	if len(Files()) == 0 {
		t.Fatal("there are no bundled manifests")
	}
	for _, file := range Files() {
		name := strings.TrimSuffix(path.Base(file), ".yaml")
		if !regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`).MatchString(name) {
			t.Errorf("%s: %q is not a DNS label", file, name)
		}
		if other, ok := names[name]; ok {
			t.Errorf("%s and %s have the same name", file, other)
		}
		names[name] = file
		for _, n := range []string{name, Component(file)} {
			if !slices.Contains(Names(), n) {
				t.Errorf("--disable does not take %s", n)
			}
		}
		data, err := files.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`%\{([^}]*)\}%`).FindAllStringSubmatch(string(data), -1) {
			if _, ok := all[m[1]]; !ok {
				all[m[1]] = "x" // pkg/server tests that each has a value
			}
		}
		data, err = Read(file, all)
		if err != nil {
			t.Error(err)
		}
		for i, doc := range strings.Split(string(data), "\n---") {
			var object map[string]any
			if err := yaml.UnmarshalStrict([]byte(doc), &object); err != nil {
				t.Errorf("%s, document %d: %v", file, i+1, err)
			}
		}
	}
}

func TestComponent(t *testing.T) {
	for file, want := range map[string]string{"coredns.yaml": "coredns", "traefik/crds.yaml": "traefik"} {
		if got := Component(file); got != want {
			t.Errorf("%s is of %q, want %q", file, got, want)
		}
	}
}
