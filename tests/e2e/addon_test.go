package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
)

// manifests is where users put manifests on a server.
var manifests = filepath.Join(cluster.DataDir, "server/manifests")

// manifest writes a file of that directory the way an editor does: beside, then renamed.
func manifest(t *testing.T, h *lab.Host, name, text string) {
	t.Helper()
	path := filepath.Join(manifests, name)
	must(t, h.WriteFile(path+".new", []byte(text), 0o600))
	_, err := h.Exec(t.Context(), "mv", path+".new", path)
	must(t, err)
}

func removeManifest(t *testing.T, h *lab.Host, names ...string) {
	t.Helper()
	for _, name := range names {
		_, err := h.Exec(t.Context(), "rm", "-rf", filepath.Join(manifests, name))
		must(t, err)
	}
}

// addonStatus is what an Addon object says.
type addonStatus struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Spec     struct {
		Source string `json:"source"`
	} `json:"spec"`
	Status struct {
		State, Objects, Message string
		Problems                []struct {
			File, Object, Message string
			Document, Line        int
		}
	} `json:"status"`
}

func getAddon(ctx context.Context, c *cluster.Client, name string) (a addonStatus, err error) {
	data, err := c.RESTClient().Get().AbsPath("/apis/knarr.io/v1/namespaces/kube-system/addons", name).DoRaw(ctx)
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(data, &a)
}

// awaitAddon waits until an Addon is in the state, with a message that contains text.
func awaitAddon(t *testing.T, c *cluster.Client, name, state, text string) (a addonStatus) {
	t.Helper()
	eventually(t, fmt.Sprintf("addon %s to be %s %q", name, state, text), func() error {
		var err error
		if a, err = getAddon(t.Context(), c, name); err == nil && (a.Status.State != state || !strings.Contains(a.Status.Message, text)) {
			err = fmt.Errorf("it is %+v", a.Status)
		}
		return err
	})
	return a
}

// awaitNoAddon waits until an Addon, and with it all that it had made, is gone.
func awaitNoAddon(t *testing.T, c *cluster.Client, name string) {
	t.Helper()
	eventually(t, "addon "+name+" to be gone", func() error {
		a, err := getAddon(t.Context(), c, name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(err, fmt.Errorf("it is there, %+v", a.Status))
	})
}

// configMaps are the names of the ConfigMaps in a namespace, without those that every namespace has.
func configMaps(ctx context.Context, c *cluster.Client, ns string) ([]string, error) {
	list, err := c.CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, m := range list.Items {
		if m.Name != "kube-root-ca.crt" {
			names = append(names, m.Name)
		}
	}
	return names, nil
}

func awaitConfigMaps(t *testing.T, c *cluster.Client, ns string, want ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("the ConfigMaps %v in %s", want, ns), func() error {
		got, err := configMaps(t.Context(), c, ns)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("there are %v", got)
		}
		return err
	})
}

// definition is a kind in a group of the test's own.
func definition(group, kind string) string {
	lower := strings.ToLower(kind)
	return fmt.Sprintf(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[2]ss.%[1]s}
spec:
  group: %[1]s
  scope: Namespaced
  names: {plural: %[2]ss, singular: %[2]s, kind: %[3]s}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
`, group, lower, kind)
}

func configMap(ns, name, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: %s}\ndata: {key: %q}\n", name, ns, value)
}

// TestManifestIsFollowed takes a file of all sorts of objects through its life.
func TestManifestIsFollowed(t *testing.T) {
	e := inNamespace(t)
	own, group := e.ns+"-own", e.ns+".knarr.test"
	file := func(maps ...string) string {
		return strings.Join(append([]string{
			// Out of order on purpose: the kind and the namespace come after what needs them.
			"apiVersion: " + group + "/v1\nkind: Gadget\nmetadata: {name: one, namespace: " + own + "}\n",
			definition(group, "Gadget"),
			"apiVersion: v1\nkind: Namespace\nmetadata: {name: " + own + "}\n",
		}, maps...), "---\n")
	}
	removeManifest(t, e.host, e.ns) // the folder
	start := time.Now()
	manifest(t, e.host, e.ns+"/"+e.ns+".yaml", file("apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: "+own+"}}\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: b, namespace: "+own+"}}\n"))
	awaitConfigMaps(t, e.client, own, "a", "b")
	took := time.Since(start)
	t.Logf("applied %v after the write", took)
	a := awaitAddon(t, e.client, e.ns, "Ready", "")
	if a.Status.Objects != "5/5" || a.Spec.Source != filepath.Join(manifests, e.ns, e.ns+".yaml") {
		t.Errorf("the addon is %+v", a)
	}
	must(t, e.client.RESTClient().Get().AbsPath("/apis/"+group+"/v1/namespaces/"+own+"/gadgets/one").Do(e.ctx).Error())

	t.Log("JSON, in the same folder")
	manifest(t, e.host, e.ns+"/"+e.ns+"-json.json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"j","namespace":"`+own+`"}}`)
	awaitConfigMaps(t, e.client, own, "a", "b", "j")
	removeManifest(t, e.host, e.ns+"/"+e.ns+"-json.json")
	awaitConfigMaps(t, e.client, own, "a", "b")

	t.Log("an object dropped from the file is deleted, one that somebody else made stays")
	_, err := e.host.Exec(e.ctx, append(slices.Clone(e.kubectl), "-n", own, "create", "configmap", "foreign")...)
	must(t, err)
	manifest(t, e.host, e.ns+"/"+e.ns+".yaml", file(configMap(own, "b", "new")))
	awaitConfigMaps(t, e.client, own, "b", "foreign")
	awaitAddon(t, e.client, e.ns, "Ready", "")

	t.Log("the file removed, everything it made is gone")
	out, err := e.host.Exec(e.ctx, append(slices.Clone(e.kubectl), "get", "addons", "-A")...)
	must(t, err)
	if !strings.Contains(out, e.ns) || !strings.Contains(out, "OBJECTS") || !strings.Contains(out, "MESSAGE") {
		t.Errorf("kubectl get addons -A:\n%s", out)
	}
	removeManifest(t, e.host, e.ns)
	awaitNoAddon(t, e.client, e.ns)
	_, err = e.client.CoreV1().Namespaces().Get(e.ctx, own, metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("the namespace: %v", err)
	}
	if err := e.client.RESTClient().Get().AbsPath("/apis/" + group + "/v1").Do(e.ctx).Error(); !apierrors.IsNotFound(err) {
		t.Errorf("the kind: %v", err)
	}
}

// TestManifestInTrouble: what is wrong is said with its place, and is in no other file's way.
func TestManifestInTrouble(t *testing.T) {
	e := inNamespace(t)
	group := e.ns + ".knarr.test"
	broken, unknown, refused, good := e.ns+"-broken", e.ns+"-unknown", e.ns+"-refused", e.ns+"-good"
	names := []string{broken, unknown, refused, good}
	t.Cleanup(func() {
		for _, n := range names {
			// The test's context is over; the file must go all the same, for the tests that follow.
			_ = e.host.Do(func() error { return os.Remove(filepath.Join(manifests, n+".yaml")) })
		}
	})
	manifest(t, e.host, broken+".yaml", configMap(e.ns, "first", "")+"---\n\nkind: {\n")
	manifest(t, e.host, unknown+".yaml", configMap(e.ns, "beside", "")+"---\napiVersion: "+group+"/v1\nkind: Thing\nmetadata: {name: one, namespace: "+e.ns+"}\n")
	manifest(t, e.host, refused+".yaml", "# two lines\n# of comment\napiVersion: v1\nkind: Service\nmetadata: {name: bad, namespace: "+e.ns+"}\nspec: {ports: [{port: 99999}]}\n")
	manifest(t, e.host, good+".yaml", configMap(e.ns, "good", ""))
	awaitAddon(t, e.client, good, "Ready", "")
	awaitConfigMaps(t, e.client, e.ns, "beside", "good")

	for _, want := range []struct {
		name, state, text string
		document, line    int
	}{
		{broken, "Failed", "not YAML", 2, 7},
		{unknown, "Waiting", "does not know the kind", 2, 6},
		{refused, "Failed", "spec.ports[0].port", 1, 3},
	} {
		a := awaitAddon(t, e.client, want.name, want.state, want.text)
		if len(a.Status.Problems) != 1 {
			t.Fatalf("problems of %s: %+v", want.name, a.Status.Problems)
		}
		if p := a.Status.Problems[0]; p.File != want.name+".yaml" || p.Document != want.document || p.Line != want.line {
			t.Errorf("problem of %s is at %s document %d, line %d; want document %d, line %d", want.name, p.File, p.Document, p.Line, want.document, want.line)
		}
		e.eventually("an event about "+want.name, func() error {
			list, err := e.client.CoreV1().Events("kube-system").List(e.ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=Addon,involvedObject.name=" + want.name})
			if err == nil && (len(list.Items) == 0 || !strings.Contains(list.Items[0].Message, want.text)) {
				err = fmt.Errorf("there are %v", list.Items)
			}
			return err
		})
	}
	out, err := e.host.Exec(e.ctx, e.kubectl[0], "status")
	if !strings.Contains(out, broken+" is Failed") {
		t.Errorf("knarr status does not tell of %s: %v\n%s", broken, err, out)
	}

	t.Log("the kind becomes known")
	e.apply(definition(group, "Thing"))
	defer e.mustKubectl("delete", "crd", "things."+group)
	start := time.Now()
	awaitAddon(t, e.client, unknown, "Ready", "")
	t.Logf("applied %v after its kind was defined", time.Since(start))

	t.Log("the others are mended")
	manifest(t, e.host, broken+".yaml", configMap(e.ns, "first", ""))
	manifest(t, e.host, refused+".yaml", configMap(e.ns, "second", ""))
	awaitAddon(t, e.client, broken, "Ready", "")
	awaitAddon(t, e.client, refused, "Ready", "")
	for _, n := range names {
		removeManifest(t, e.host, n+".yaml")
	}
	for _, n := range names {
		awaitNoAddon(t, e.client, n)
	}
	awaitConfigMaps(t, e.client, e.ns)
}

// served starts a server of the test's own, a control plane alone, and waits for its API.
func served(t *testing.T, s *cluster.Server, args ...string) *cluster.Client {
	t.Helper()
	s.Config = "" // it is about the node
	s.Args = append([]string{"--disable-agent"}, args...)
	must(t, s.Start())
	c, err := s.WaitAPI(t.Context())
	must(t, err)
	return c
}

// killed kills the server as a power cut would.
func killed(t *testing.T, s *cluster.Server) {
	t.Helper()
	must(t, s.Process().Signal(syscall.SIGKILL))
	_, err := s.Process().Wait(t.Context())
	must(t, err)
}

// TestPackagedManifest: what a user does to a packaged component, and what a kill and a restart make of it.
func TestPackagedManifest(t *testing.T) {
	t.Parallel()
	s := own(t, "packaged", lab.Options{})
	h := s.Host
	c := served(t, s)
	awaitAddon(t, c, "roles", "Ready", "")
	kubectl := func(args ...string) string {
		t.Helper()
		out, err := s.Command(t.Context(), append([]string{"kubectl"}, args...)...)
		must(t, err)
		return out
	}
	role := func(what string, check func(labels, annotations map[string]string) bool) {
		t.Helper()
		eventually(t, "the role to have "+what, func() error {
			r, err := c.RbacV1().ClusterRoles().Get(t.Context(), "knarr:view", metav1.GetOptions{})
			if err == nil && !check(r.Labels, r.Annotations) {
				err = fmt.Errorf("it has %v and %v", r.Labels, r.Annotations)
			}
			return err
		})
	}
	const theirs = "rbac.authorization.k8s.io/aggregate-to-view"
	manifest(t, h, "roles.patch.yaml", "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: \"knarr:view\", labels: {mine: patched}}\n")
	role("the patch", func(l, _ map[string]string) bool { return l["mine"] == "patched" })

	t.Log("an edit of the file is put back, and kept beside it")
	before, err := h.ReadFile(filepath.Join(manifests, "roles.yaml"))
	must(t, err)
	manifest(t, h, "roles.yaml", string(before)+"# mine\n")
	eventually(t, "the file to be put back", func() error {
		now, err := h.ReadFile(filepath.Join(manifests, "roles.yaml"))
		if err == nil && string(now) != string(before) {
			err = errors.New("it is not")
		}
		return err
	})
	edited, err := h.ReadFile(filepath.Join(manifests, "roles.yaml.edited"))
	if err != nil || !strings.HasSuffix(string(edited), "# mine\n") {
		t.Errorf("the copy says %q: %v", edited, err)
	}

	t.Log("live edits, a file removed while nothing runs, a kill in the middle of a large file")
	kubectl("label", "clusterrole", "knarr:view", "--overwrite", theirs+"=no")
	kubectl("annotate", "clusterrole", "knarr:view", "own=kept")
	manifest(t, h, "gone.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: gone}\n---\n"+configMap("gone", "a", ""))
	awaitAddon(t, c, "gone", "Ready", "")
	many := []string{"apiVersion: v1\nkind: Namespace\nmetadata: {name: many}\n"}
	for i := range 800 {
		many = append(many, configMap("many", fmt.Sprintf("m-%d", i), ""))
	}
	manifest(t, h, "many.yaml", strings.Join(many, "---\n"))
	eventually(t, "some of many objects", func() error {
		names, err := configMaps(t.Context(), c, "many")
		if err == nil && len(names) < 100 {
			err = fmt.Errorf("%d are there", len(names))
		}
		return err
	})
	killed(t, s)
	must(t, h.Do(func() error { return os.Remove(filepath.Join(manifests, "gone.yaml")) }))
	manifest(t, h, "many.yaml", many[0]+"---\n"+many[7])

	c = served(t, s)
	awaitNoAddon(t, c, "gone")
	_, err = c.CoreV1().Namespaces().Get(t.Context(), "gone", metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("the namespace of the file that is gone: %v", err)
	}
	awaitConfigMaps(t, c, "many", "m-6")
	role("what the file says, the patch, and what nobody else says", func(l, a map[string]string) bool {
		return l[theirs] == "true" && l["mine"] == "patched" && a["own"] == "kept"
	})

	t.Log("disabled")
	_, err = s.Stop(t.Context())
	must(t, err)
	c = served(t, s, "--disable", "roles")
	awaitNoAddon(t, c, "roles")
	if _, err = c.RbacV1().ClusterRoles().Get(t.Context(), "knarr:view", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the role of the disabled component: %v", err)
	}
	if _, err := h.ReadFile(filepath.Join(manifests, "roles.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file of the disabled component: %v", err)
	}
	removeManifest(t, h, "many.yaml")
	awaitNoAddon(t, c, "many")
}

// TestManifestsOnAFullDisk: what cannot be written is said, and keeps nothing else from being applied.
func TestManifestsOnAFullDisk(t *testing.T) {
	t.Parallel()
	s := own(t, "full", lab.Options{})
	h := s.Host
	_, err := h.Exec(t.Context(), "sh", "-c", "mkdir -p "+manifests+" && mount -t tmpfs -o size=16m full "+manifests)
	must(t, err)
	manifest(t, h, "mine.yaml", configMap("default", "mine", ""))
	if _, err := h.Exec(t.Context(), "dd", "if=/dev/zero", "of="+filepath.Join(manifests, "filler"), "bs=64k", "count=1024"); err == nil {
		t.Fatal("the disk is not full")
	}
	c := served(t, s)
	awaitAddon(t, c, "mine", "Ready", "")
	eventually(t, "knarr status to name the cause", func() error {
		out, err := s.Command(t.Context(), "status", "-o", "json")
		if !strings.Contains(out, "no space left on device") {
			return errors.Join(err, fmt.Errorf("it says\n%s", out))
		}
		return nil
	})
	if n := strings.Count(s.Log(), "the manifests are not all in force"); n != 1 {
		t.Errorf("the log says it %d times", n)
	}
	removeManifest(t, h, "filler")
	awaitAddon(t, c, "roles", "Ready", "")
	_, err = s.Command(t.Context(), "status")
	must(t, err)
}
