package addon

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// describe is one line for each object and problem.
func describe(objects []object, problems []problem) string {
	var b strings.Builder
	for _, o := range objects {
		fmt.Fprintf(&b, "%d:%d %s\n", o.document, o.line, o.title())
	}
	for _, p := range problems {
		fmt.Fprintf(&b, "! %s\n", p.Error())
	}
	return b.String()
}

func TestParse(t *testing.T) {
	const a, b = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b, namespace: ns}\n"
	tests := []struct{ name, file, text, want string }{
		{"nothing", "f.yaml", "# only a comment\n---\n\n---\n", ""},
		{"documents", "f.yaml", "# head\n" + a + "---\n# more\n\n" + b, "1:2 ConfigMap a\n2:8 ConfigMap ns/b\n"},
		{"documents after empty ones, CRLF, BOM", "f.yml", "\ufeff---\r\n---\r\n" + strings.ReplaceAll(a, "\n", "\r\n") + "--- # next\r\n" + b + "...\n", "1:3 ConfigMap a\n2:7 ConfigMap ns/b\n"},
		{"dashes in a text are not the end", "f.yaml", a + "data:\n  k: |\n    ---\n    x\n---x: y\n", "1:1 ConfigMap a\n"},
		{"list", "f.yaml", "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: a}\n- apiVersion: v1\n  kind: Secret\n  metadata:\n    name: b\n", "1:4 ConfigMap a\n1:7 Secret b\n"},
		{"list of a kind", "f.yaml", "---\n" + "apiVersion: v1\nkind: ConfigMapList\nitems:\n- metadata: {name: a}\n- metadata: {name: b}\n", "1:5 ConfigMap a\n1:6 ConfigMap b\n"},
		{"JSON", "f.json", "\n{\"apiVersion\":\"v1\",\n\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"a\"}}\n{\"apiVersion\":\"v1\",\"kind\":\"Secret\",\"metadata\":{\"name\":\"b\"}}", "1:2 ConfigMap a\n2:4 Secret b\n"},
		{"JSON list", "f.json", `{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}]}`, "1:1 ConfigMap a\n"},
		{"not JSON", "f.json", "{\"apiVersion\":\"v1\",\n\"kind\"", "! f.json document 1, line 1: not JSON: unexpected EOF\n"},
		{"all problems at once", "f.yaml", "kind: [\n---\n- a\n---\napiVersion: a/b/c\nkind: X\n---\napiVersion: v1\n---\napiVersion: v1\nkind: X\n---\napiVersion: v1\nkind: X\nmetadata: {name: x, labels: {a: 1}}\n",
			"! f.yaml document 1, line 1: not YAML: did not find expected node content\n" +
				"! f.yaml document 2, line 3: not an object: want a mapping with apiVersion, kind and metadata\n" +
				"! f.yaml document 3, line 5: apiVersion \"a/b/c\": want VERSION or GROUP/VERSION\n" +
				"! f.yaml document 4, line 8: kind is missing\n" +
				"! f.yaml document 5, line 10: X: metadata, with a name, is missing\n" +
				"! f.yaml document 6, line 13: X x: metadata.labels: want a mapping of texts; put quotes around numbers and true or false\n"},
		{"twice the same", "f.yaml", a + "---\n" + a, "1:1 ConfigMap a\n"},
		{"twice, not the same", "f.yaml", a + "---\n" + a + "data: {k: v}\n", "1:1 ConfigMap a\n! f.yaml document 2, line 5: ConfigMap a: is in document 1, line 1 as well, with another content\n"},
		{"default is the default namespace", "f.yaml", a + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: default}\n", "1:1 ConfigMap a\n! f.yaml document 2, line 5: ConfigMap default/a: is in document 1, line 1 as well, with another content\n"},
		{"a word that is no text in YAML", "f.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: n}\n", "! f.yaml document 1, line 1: ConfigMap a: metadata.namespace: want a text, not false; put quotes around numbers and words like yes, no, y and n\n"},
		{"half a file", "f.yaml", a + "---\napiVersion: v1\nki", "1:1 ConfigMap a\n! f.yaml document 2, line 7: not YAML: could not find expected ':'\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := describe(parse(tt.file, []byte(tt.text))); got != tt.want {
				t.Errorf("got\n%swant\n%s", got, tt.want)
			}
		})
	}
}

// What an export from a cluster holds beyond what was once applied is left out.
func TestParseTidies(t *testing.T) {
	objects, problems := parse("f.yaml", []byte(`
apiVersion: v1
kind: Secret
metadata: {name: a, uid: x, resourceVersion: "1", creationTimestamp: null, labels: null, annotations: {a: b}, managedFields: []}
data: {old: b2xk}
stringData: {new: "new\n"}
`))
	if len(problems) > 0 || len(objects) != 1 {
		t.Fatal(objects, problems)
	}
	got, err := objects[0].MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"apiVersion":"v1","data":{"new":"bmV3Cg==","old":"b2xk"},"kind":"Secret","metadata":{"annotations":{"a":"b"},"name":"a"}}`
	if strings.TrimSpace(string(got)) != want {
		t.Errorf("got  %swant %s", got, want)
	}
}

func TestOverlay(t *testing.T) {
	const base = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: d, namespace: ns, labels: {a: b}}
spec:
  replicas: 1
  template: {spec: {containers: [{name: main, image: i, args: [x]}, {name: side, image: s}]}}
---
{apiVersion: example.com/v1, kind: Foo, metadata: {name: f}, spec: {list: [1, 2], keep: 1, drop: 2}}
`
	tests := []struct{ name, patch, want, problem string }{
		{"containers are merged by name", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {template: {spec: {containers: [{name: main, args: [-v]}]}}}\n",
			`"containers":[{"args":["-v"],"image":"i","name":"main"},{"image":"s","name":"side"}]`, ""},
		{"another version of the kind", "apiVersion: apps/v1beta1\nkind: Deployment\nmetadata: {name: d}\nspec: {replicas: 7}\n", `"replicas":7`, ""},
		{"a container is taken out", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: ns}\nspec: {template: {spec: {containers: [{name: side, $patch: delete}]}}}\n",
			`"containers":[{"args":["x"],"image":"i","name":"main"}]`, ""},
		{"others' kinds by JSON merge", "apiVersion: example.com/v1\nkind: Foo\nmetadata: {name: f}\nspec: {list: [3], drop: null, new: {a: b}}\n",
			`"spec":{"keep":1,"list":[3],"new":{"a":"b"}}`, ""},
		{"dropped", "apiVersion: example.com/v1\nkind: Foo\nmetadata: {name: f}\n$patch: delete\n", "Deployment", ""},
		{"no such object", "\n\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n", `"keep":1`, "p.yaml document 1, line 3: Deployment x: there is no such object to patch"},
		{"of another namespace", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: m}\n", `"keep":1`, "p.yaml document 1, line 1: Deployment m/d: there is no such object to patch"},
		{"not to be merged", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n$patch: merge?\n", `"keep":1`, "p.yaml document 1, line 1: Deployment d: patch: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			objects, problems := parse("f.yaml", []byte(base))
			patches, wrong := parse("p.yaml", []byte(tt.patch))
			if problems = append(problems, wrong...); len(problems) > 0 {
				t.Fatal(problems)
			}
			got, problems := overlay(objects, patches)
			var text string
			for _, o := range got {
				data, err := o.MarshalJSON()
				if err != nil {
					t.Fatal(err)
				}
				text += string(data)
			}
			if !strings.Contains(text, tt.want) {
				t.Errorf("got\n%swant\n%s", text, tt.want)
			}
			if tt.name == "dropped" && strings.Contains(text, "Foo") {
				t.Errorf("it is still there:\n%s", text)
			}
			if tt.problem == "" && len(problems) > 0 || tt.problem != "" && (len(problems) != 1 || !strings.HasPrefix(problems[0].Error(), tt.problem) || !problems[0].final) {
				t.Errorf("problems %v, want %q", problems, tt.problem)
			}
		})
	}
}

func TestArrange(t *testing.T) {
	var text strings.Builder
	for _, k := range []string{"admissionregistration.k8s.io/v1 ValidatingWebhookConfiguration", "example.com/v1 Foo", "apps/v1 Deployment", "v1 Service", "v1 ConfigMap",
		"apiextensions.k8s.io/v1 CustomResourceDefinition", "v1 Namespace", "networking.k8s.io/v1 Ingress", "rbac.authorization.k8s.io/v1 ClusterRole", "v1 Pod"} {
		version, kind, _ := strings.Cut(k, " ")
		fmt.Fprintf(&text, "---\napiVersion: %s\nkind: %s\nmetadata: {name: x}\n", version, kind)
	}
	objects, problems := parse("f.yaml", []byte(text.String()))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	var got []string
	for _, o := range arrange(objects) {
		got = append(got, o.GetKind())
	}
	want := []string{"Namespace", "CustomResourceDefinition", "ConfigMap", "ClusterRole", "Service", "Deployment", "Ingress", "Pod", "Foo", "ValidatingWebhookConfiguration"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestAssign(t *testing.T) {
	tests := []struct {
		name    string
		files   string
		holders map[string]string
		want    string
	}{
		{"names", "web.yaml sub/My_App.YML sub/My_App.yml a.b.json .hidden.yaml x.yaml~ x.yaml.swp README.md", nil,
			"a-b=a.b.json my-app=sub/My_App.yml web=web.yaml"},
		{"patch and skip", "a.yaml a.patch.yaml b.json b.json.skip b.patch.yml c/d.yaml d.yaml.skip", nil,
			"a=a.yaml+a.patch.yaml b=b.json+b.patch.yml(skipped) d=c/d.yaml"},
		{"two of a name: the first by path", "b/web.yaml a/web.yaml", nil,
			"web-" + hash("b/web.yaml") + "=b/web.yaml(the name web is taken by a/web.yaml: rename this file) web=a/web.yaml"},
		{"two of a name: who has it", "b/web.yaml a/web.yaml", map[string]string{"web": "b/web.yaml"},
			"web-" + hash("a/web.yaml") + "=a/web.yaml(the name web is taken by b/web.yaml: rename this file) web=b/web.yaml"},
		{"two of a name: the packaged one", "a/coredns.yaml coredns.yaml", map[string]string{"coredns": "gone.yaml"},
			"coredns-" + hash("a/coredns.yaml") + "=a/coredns.yaml(the name coredns is taken by coredns.yaml: rename this file) coredns=coredns.yaml"},
		{"a patch of nothing", "corends.patch.yaml coredns.patch.yaml", nil,
			"corends-patch=corends.patch.yaml(there is no corends.yaml beside it to patch)"},
		{"no name left", "___.yaml", nil, hash("___") + "=___.yaml"},
		{"a long name", strings.Repeat("x", 70) + ".yaml", nil, strings.Repeat("x", 54) + "-" + hash(strings.Repeat("x", 70)) + "=" + strings.Repeat("x", 70) + ".yaml"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files := make(map[string]stamp)
			for i, f := range strings.Fields(tt.files) {
				if _, ok := base(strings.TrimSuffix(f, skipSuffix)); ok { // as the tree leaves the others out
					files[f] = stamp{inode: uint64(i + 1)}
				}
			}
			var got []string
			for name, s := range assign(files, func(n string) string { return tt.holders[n] }, func(p string) bool { return p == "coredns.yaml" }) {
				text := name + "=" + s.path
				if s.patch != "" {
					text += "+" + s.patch
				}
				if s.skip {
					text += "(skipped)"
				}
				if s.conflict != "" {
					text += "(" + s.conflict + ")"
				}
				if s.stamps[0] != files[s.path] || s.stamps[1] != files[s.patch] || s.name != name {
					t.Errorf("%s is %+v", name, s)
				}
				got = append(got, text)
			}
			slices.Sort(got)
			if text := strings.Join(got, " "); text != tt.want {
				t.Errorf("got  %s\nwant %s", text, tt.want)
			}
		})
	}
}

func TestClaims(t *testing.T) {
	k := func(n string) key { return key{"", "ConfigMap", "default", n} }
	c := newClaims()
	steps := []struct {
		name      string
		keys      []key
		concerned string
		owner     string // of x
	}{
		{"b", []key{k("x"), k("y")}, "[]", "b"},
		{"c", []key{k("x")}, "[]", "b"},
		{"a", []key{k("x")}, "[b]", "a"},
		{"a", nil, "[b]", "b"},
		{"b", []key{k("y")}, "[c]", "c"},
		{"c", nil, "[]", ""},
		{"b", nil, "[]", ""},
	}
	for i, s := range steps {
		if got := fmt.Sprint(c.set(s.name, s.keys)); got != s.concerned {
			t.Errorf("step %d concerns %s, want %s", i, got, s.concerned)
		}
		if got := c.owner(k("x")); got != s.owner {
			t.Errorf("after step %d the owner is %q, want %q", i, got, s.owner)
		}
	}
	if len(c.wanted)+len(c.by) > 0 {
		t.Errorf("something is left: %v %v", c.wanted, c.by)
	}
}

func TestPackagedFiles(t *testing.T) {
	dir := t.TempDir()
	content := "kind: one\n"
	pack := func(path, component string) Packaged {
		return Packaged{path, component, func() ([]byte, error) { return []byte(content), nil }}
	}
	c := Config{Dir: dir, Packaged: []Packaged{pack("dns.yaml", "dns"), pack("way/in.yaml", "way")}}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return ""
		}
		return string(data)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	known := make(map[string]stamp)
	restore := func(want ...string) {
		t.Helper()
		files, err := newTree(dir).walk()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.removeStale(files); err != nil {
			t.Fatal(err)
		}
		edited, err := c.restore(files, known)
		if err != nil || !slices.Equal(edited, want) {
			t.Errorf("edited are %v, want %v; error %v", edited, want, err)
		}
	}
	restore()
	if got := read("way/in.yaml"); !strings.HasSuffix(got, "\n"+content) || !strings.Contains(got, "--disable way") || !strings.Contains(got, "in.patch.yaml") {
		t.Errorf("the file says\n%s", got)
	}
	was := read("dns.yaml")
	write("dns.yaml", was+"mine: true\n")
	restore("dns.yaml")
	if read("dns.yaml") != was || read("dns.yaml.edited") != was+"mine: true\n" {
		t.Errorf("an edit: the file says\n%s\nthe copy\n%s", read("dns.yaml"), read("dns.yaml.edited"))
	}
	content = "kind: two\n"
	clear(known)
	restore()
	if got := read("dns.yaml"); !strings.HasSuffix(got, content) {
		t.Errorf("an upgrade: the file says\n%s", got)
	}
	content = "kind: three\n"
	clear(known)
	write("dns.yaml.skip", "")
	restore()
	if got := read("dns.yaml"); strings.HasSuffix(got, content) || !strings.HasSuffix(read("way/in.yaml"), content) {
		t.Errorf("skipped: the file says\n%s", got)
	}
	write("copy.yaml", read("way/in.yaml")) // a user's, since the path is another
	c.Disabled = []string{"way"}
	clear(known)
	restore()
	if read("way/in.yaml") != "" || read("copy.yaml") == "" {
		t.Error("disabled: the file is there, or a copy of it is not")
	}
	write("way/in.yaml", "a user's own\n")
	restore()
	if read("way/in.yaml") != "a user's own\n" {
		t.Errorf("a user's file in place of a disabled one says %q", read("way/in.yaml"))
	}
	c.Packaged = c.Packaged[1:]
	if err := os.Remove(filepath.Join(dir, "dns.yaml.skip")); err != nil {
		t.Fatal(err)
	}
	restore()
	if read("dns.yaml") != "" {
		t.Error("what is not packaged any more is still there")
	}
	c.Disabled = nil
	clear(known)
	restore("way/in.yaml")
	if read("way/in.yaml.edited") != "a user's own\n" {
		t.Error("a user's file was lost")
	}
}
