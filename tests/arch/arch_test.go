// Package arch holds the tests that keep the structure: who may import whom,
// and what no file may contain. The rules are those of docs/architecture.md.
package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/knarr-io/knarr/"

// layer is one row of the layer table. A package may import packages of lower
// layers; of its own layer only where sideways says so.
type layer struct {
	name     string
	packages []string // a trailing /... takes in everything below
	sideways bool
	rule     func(p pkg) []string
}

// layers from the ground up. Every package of pkg/ must be in exactly one.
var layers = []layer{
	{name: "L0 leaves", rule: stdlibOnly, packages: []string{
		"pkg/version", "pkg/atomicfile", "pkg/retry", "pkg/seal", "pkg/bundle/manifest", "manifests"}},
	{name: "L1 kernel", rule: noKubernetes, sideways: true, packages: []string{
		"pkg/lifecycle", "pkg/logging", "pkg/config", "pkg/datadir", "pkg/sdnotify", "pkg/inprocess"}},
	{name: "L2 services", rule: noKubernetes, sideways: true, packages: []string{
		"pkg/bootstrap", "pkg/vip",
		"pkg/pki", "pkg/token", "pkg/datastore/...", "pkg/bundle", "pkg/bundle/pack", "pkg/hostcheck", "pkg/uninstall", "pkg/control", "pkg/process", "pkg/registry", "pkg/service", "pkg/crictl", "pkg/backup", "pkg/quota", "pkg/join", "pkg/loadbalancer", "pkg/tunnel", "pkg/resolver", "pkg/podrange", "pkg/follow", "pkg/filewatch", "pkg/shutdown"}},
	{name: "L3 upstream base", sideways: true, packages: []string{
		"pkg/upstream/argv", "pkg/upstream/host", "pkg/upstream/globals", "pkg/upstream/csi"}},
	{name: "L3 upstream", packages: []string{"pkg/upstream/..."}},
	{name: "L4 controllers", rule: noKubernetes, packages: []string{"pkg/controllers/..."}},
	{name: "L5 assembly", sideways: true, packages: []string{"pkg/agent", "pkg/server", "pkg/daemon"}},
	{name: "L6 command line", packages: []string{"pkg/cli"}},
	{name: "main", packages: []string{"."}},
}

// heavy are the modules that only the upstream layer and what stands above it
// may link, so that a unit test does not drag in all of Kubernetes.
var heavy = []string{"k8s.io/kubernetes/", "github.com/containerd/containerd/v2/cmd/", "github.com/flannel-io/flannel/"}

// pkg is what `go list -json` tells of a package.
type pkg struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
}

// list runs go list over the module's own packages.
func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Standard,Imports,Deps"}, args...)...)
	cmd.Dir = root(t)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Fatalf("go list: %v\n%s", err, exit.Stderr)
	}
	if err != nil {
		t.Fatal(err)
	}
	var ps []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return ps
		}
		if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
}

// product lists what the executable is made of.
func product(t *testing.T) []pkg {
	t.Helper()
	return slices.DeleteFunc(list(t, "./..."), func(p pkg) bool {
		name := own(p.ImportPath)
		return strings.HasPrefix(name, "tests/") || name == "scripts" || strings.HasPrefix(name, "scripts/")
	})
}

// own is a package's path below the module, "" for others' packages.
func own(path string) string {
	if path == strings.TrimSuffix(module, "/") {
		return "."
	}
	p, ok := strings.CutPrefix(path, module)
	if !ok {
		return ""
	}
	return p
}

// layerOf finds a package's layer: an exact name before a pattern, -1 if none.
func layerOf(p string) int {
	match := func(want func(pattern string) bool) int {
		return slices.IndexFunc(layers, func(l layer) bool { return slices.ContainsFunc(l.packages, want) })
	}
	if i := match(func(pattern string) bool { return pattern == p }); i >= 0 {
		return i
	}
	return match(func(pattern string) bool {
		dir, ok := strings.CutSuffix(pattern, "/...")
		return ok && (p == dir || strings.HasPrefix(p, dir+"/"))
	})
}

// documented are the packages that the table in docs/architecture.md names, below pkg/; `a/{b,c}` stands for two.
func documented(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "| L") {
			continue
		}
		for i, word := range strings.Split(line, "`") {
			if i%2 == 0 {
				continue
			}
			dir, list, ok := strings.Cut(strings.TrimSuffix(word, "}"), "{")
			for _, name := range strings.Split(list, ",") {
				names = append(names, dir+name)
			}
			if !ok {
				names = append(names, word)
			}
		}
	}
	return names
}

func TestImportsGoDownward(t *testing.T) {
	told := documented(t)
	for _, p := range product(t) {
		name := own(p.ImportPath)
		below, inside := strings.CutPrefix(name, "pkg/")
		if inside && !slices.ContainsFunc(told, func(d string) bool { return below == d || strings.HasPrefix(below, d+"/") }) {
			t.Errorf("%s is not in the table of docs/architecture.md", name)
		}
		at := layerOf(name)
		if at < 0 {
			t.Errorf("%s is in no layer: add it to the table in tests/arch and to docs/architecture.md", name)
			continue
		}
		for _, i := range p.Imports {
			to := own(i)
			if to == "" {
				continue
			}
			switch l := layerOf(to); {
			case l > at:
				t.Errorf("%s (%s) imports %s, which stands above it (%s)", name, layers[at].name, to, layers[l].name)
			case l == at && !layers[at].sideways && !strings.HasPrefix(to, name+"/"):
				t.Errorf("%s imports its neighbour %s; in %s none may", name, to, layers[at].name)
			}
		}
		if rule := layers[at].rule; rule != nil {
			for _, complaint := range rule(p) {
				t.Errorf("%s (%s) %s", name, layers[at].name, complaint)
			}
		}
	}
}

// stdlibOnly allows the standard library and the layer itself.
func stdlibOnly(p pkg) []string {
	var bad []string
	for _, i := range p.Imports {
		if first, _, _ := strings.Cut(i, "/"); strings.Contains(first, ".") && own(i) == "" {
			bad = append(bad, "imports "+i+"; leaves use the standard library only")
		}
	}
	return bad
}

// noKubernetes forbids what is heavy, at any depth.
func noKubernetes(p pkg) []string {
	for _, d := range p.Deps {
		for _, h := range heavy {
			if strings.HasPrefix(d, h) {
				return []string{"links " + d + "; only pkg/upstream and what stands above it may"}
			}
		}
	}
	return nil
}

func TestOnlyAdaptersImportUpstream(t *testing.T) {
	for _, p := range product(t) {
		name := own(p.ImportPath)
		if strings.HasPrefix(name, "pkg/upstream/") {
			continue
		}
		for _, i := range p.Imports {
			if slices.ContainsFunc(heavy, func(h string) bool { return strings.HasPrefix(i, h) }) {
				t.Errorf("%s imports %s; only the adapters in pkg/upstream may", name, i)
			}
		}
	}
}

// TestTestsStayLight looks at the packages that drive the executable from
// outside: they must not link what it embeds.
func TestTestsStayLight(t *testing.T) {
	for _, p := range list(t, "-test", "./tests/...") {
		for _, complaint := range noKubernetes(p) {
			t.Errorf("%s %s", p.ImportPath, complaint)
		}
	}
}

func TestLayersAreWithoutOverlap(t *testing.T) {
	seen := map[string]string{}
	for _, l := range layers {
		for _, p := range l.packages {
			if seen[p] != "" {
				t.Errorf("%s stands in %s and in %s", p, seen[p], l.name)
			}
			seen[p] = l.name
		}
	}
}
