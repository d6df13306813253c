package version

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The versions stated in this package, in the scripts and in the modules are
// one. What the scripts name must be what go.sum verifies.
func TestVersionsAgree(t *testing.T) {
	read := func(name string) string {
		data, err := os.ReadFile("../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	scripts := read("scripts/versions")
	script := func(key string) string {
		m := regexp.MustCompile(`(?m)^` + key + `=(\S+)`).FindStringSubmatch(scripts)
		if m == nil {
			t.Fatalf("scripts/versions has no %s", key)
		}
		return m[1]
	}
	mod := func(file, module string) string {
		m := regexp.MustCompile(`(?m)^\s*(?:require )?` + regexp.QuoteMeta(module) + ` (v\S+)`).FindStringSubmatch(read(file))
		if m == nil {
			t.Fatalf("%s does not require %s", file, module)
		}
		return m[1]
	}
	golang := func(file string) string {
		m := regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(read(file))
		if m == nil {
			t.Fatalf("%s has no go directive", file)
		}
		return m[1]
	}
	kubernetes, _, _ := strings.Cut(script("KNARR_VERSION"), "+")
	for what, pair := range map[string][2]string{
		"Kubernetes here and in go.mod":            {Kubernetes, mod("go.mod", "k8s.io/kubernetes")},
		"Kubernetes in scripts/versions":           {Kubernetes, script("KUBERNETES_VERSION")},
		"Kubernetes in KNARR_VERSION":              {Kubernetes, kubernetes},
		"containerd in go.mod":                     {script("CONTAINERD_VERSION"), mod("go.mod", "github.com/containerd/containerd/v2")},
		"containerd in scripts/helpers/shim":       {script("CONTAINERD_VERSION"), mod("scripts/helpers/shim/go.mod", "github.com/containerd/containerd/v2")},
		"runc in scripts/helpers/runc":             {script("RUNC_VERSION"), mod("scripts/helpers/runc/go.mod", "github.com/opencontainers/runc")},
		"CNI plugins in scripts/helpers/cni":       {script("CNI_PLUGINS_VERSION"), mod("scripts/helpers/cni/go.mod", "github.com/containernetworking/plugins")},
		"Go in go.mod":                             {script("GO_VERSION"), golang("go.mod")},
		"Go in scripts/helpers/runc":               {script("GO_VERSION"), golang("scripts/helpers/runc/go.mod")},
		"Go in scripts/helpers/shim":               {script("GO_VERSION"), golang("scripts/helpers/shim/go.mod")},
		"Go in scripts/helpers/cni":                {script("GO_VERSION"), golang("scripts/helpers/cni/go.mod")},
		"Version of a build that is not stamped":   {Version, Kubernetes + "+knarr0"},
		"GitCommit of a build that is not stamped": {GitCommit, "unknown"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %s, want %s", what, pair[1], pair[0])
		}
	}
}

func TestString(t *testing.T) {
	want := regexp.MustCompile(`^knarr version v1\.\d+\.\d+\+knarr\d+ \(\w+\)\ngo version go\S+.* linux/\w+$`)
	if got := String(); !want.MatchString(got) {
		t.Errorf("String() = %q, want %s", got, want)
	}
}
