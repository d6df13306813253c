package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
)

func helmResource(name string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "helm.cattle.io", Version: "v1", Resource: name}
}

// helm is a place for HelmCharts: a namespace of a cluster.
type helm struct {
	t       *testing.T
	client  *cluster.Client
	objects dynamic.Interface
	ns      string
}

func newHelm(t *testing.T, client *cluster.Client, ns string) helm {
	t.Helper()
	objects, err := dynamic.NewForConfig(client.Config)
	must(t, err)
	return helm{t, client, objects, ns}
}

// write makes an object of the group, or changes its spec.
func (h helm) write(resource, kind, name string, spec map[string]any) {
	h.t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "helm.cattle.io/v1", "kind": kind, "metadata": map[string]any{"name": name}, "spec": spec}}
	_, err := h.objects.Resource(helmResource(resource)).Namespace(h.ns).Apply(h.t.Context(), name, u, metav1.ApplyOptions{FieldManager: "test", Force: true})
	must(h.t, err)
}

func (h helm) chart(name string, spec map[string]any) {
	h.t.Helper()
	h.write("helmcharts", "HelmChart", name, spec)
}

// status waits until the chart's condition is true and its status is about what it now wants, and returns the status.
func (h helm) status(name, condition string) map[string]any {
	h.t.Helper()
	var status map[string]any
	eventually(h.t, "chart "+name+" to be "+condition, func() error {
		u, err := h.objects.Resource(helmResource("helmcharts")).Namespace(h.ns).Get(h.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		status, _, err = unstructured.NestedMap(u.Object, "status")
		if err != nil {
			return err
		}
		if status["observedGeneration"] != u.GetGeneration() {
			return fmt.Errorf("status is not about generation %d: %v", u.GetGeneration(), status)
		}
		list, _ := status["conditions"].([]any)
		for _, c := range list {
			if m, ok := c.(map[string]any); ok && m["type"] == condition && m["status"] == "True" {
				return nil
			}
		}
		return fmt.Errorf("status is %v", status)
	})
	return status
}

// shows waits until the ConfigMap that the release made says so.
func (h helm) shows(namespace, release, want string) {
	h.t.Helper()
	eventually(h.t, "release "+release+" to show "+want, func() error {
		m, err := h.client.CoreV1().ConfigMaps(namespace).Get(h.t.Context(), release+"-out", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got := fmt.Sprint(m.Data["version"], " ", m.Data["revision"], " ", m.Data["color"], " ", m.Data["size"]); got != want {
			return fmt.Errorf("it shows %s", got)
		}
		return nil
	})
}

// remove deletes a chart and waits until it and what it made are gone.
func (h helm) remove(name, namespace string) {
	h.t.Helper()
	must(h.t, h.objects.Resource(helmResource("helmcharts")).Namespace(h.ns).Delete(h.t.Context(), name, metav1.DeleteOptions{}))
	eventually(h.t, "chart "+name+" to be gone", func() error {
		_, err := h.objects.Resource(helmResource("helmcharts")).Namespace(h.ns).Get(h.t.Context(), name, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there, %w", err)
		}
		return nil
	})
	if _, err := h.client.CoreV1().ConfigMaps(namespace).Get(h.t.Context(), name+"-out", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		h.t.Errorf("what the release %s made is left, %v", name, err)
	}
	left, err := h.client.CoreV1().Secrets(namespace).List(h.t.Context(), metav1.ListOptions{LabelSelector: "owner=helm,name=" + name})
	must(h.t, err)
	if len(left.Items) > 0 {
		h.t.Errorf("%d revisions of the release %s are left", len(left.Items), name)
	}
}

func (h helm) secret(name string, kind corev1.SecretType, data map[string]string) {
	h.t.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: kind, StringData: data}
	_, err := h.client.CoreV1().Secrets(h.ns).Create(h.t.Context(), s, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = h.client.CoreV1().Secrets(h.ns).Update(h.t.Context(), s, metav1.UpdateOptions{})
	}
	must(h.t, err)
}

// A chart from a repository behind a password, its values from everywhere, and every way to change them.
func TestHelmRepository(t *testing.T) {
	e := inNamespace(t)
	h := newHelm(t, e.client, e.ns)
	url := chartRepository(t, e.outside, 8081, "open", "web", "1.0.0", "1.1.0", "2.0.0")
	h.secret("login", corev1.SecretTypeBasicAuth, map[string]string{"username": "tester", "password": "open"})
	h.secret("values", corev1.SecretTypeOpaque, map[string]string{"v.yaml": "size: small"})
	spec := map[string]any{
		"chart": "web", "repo": url, "version": "^1.0.0", "authSecret": map[string]any{"name": "login"},
		"valuesContent": "color: red\nsize: none\n", "valuesSecrets": []any{map[string]any{"name": "values", "keys": []any{"v.yaml"}}},
		"jobImage": "nobody.test/needs:this",
	}
	h.chart("site", spec)
	h.shows(e.ns, "site", "1.1.0 1 red small")
	status := h.status("site", "Ready")
	if status["revision"] != int64(1) || status["chartVersion"] != "1.1.0" || status["appVersion"] != "app-1.1.0" || status["lastError"] != nil {
		t.Errorf("status is %v", status)
	}
	h.status("site", "Ignored") // of jobImage
	e.told("site", "Installed", "chart web 1.1.0 as revision 1")

	h.write("helmchartconfigs", "HelmChartConfig", "site", map[string]any{"valuesContent": "color: blue"})
	h.shows(e.ns, "site", "1.1.0 2 blue small")
	h.secret("values", corev1.SecretTypeOpaque, map[string]string{"v.yaml": "size: large"})
	h.shows(e.ns, "site", "1.1.0 3 blue large")
	spec["version"], spec["set"] = "2.0.0", map[string]any{"size": int64(7)}
	h.chart("site", spec)
	h.shows(e.ns, "site", "2.0.0 4 blue 7")
	must(t, h.objects.Resource(helmResource("helmchartconfigs")).Namespace(e.ns).Delete(t.Context(), "site", metav1.DeleteOptions{}))
	h.shows(e.ns, "site", "2.0.0 5 red 7")
	e.eventually("the status to tell of revision 5, which comes after the objects", func() error {
		if status := h.status("site", "Ready"); status["revision"] != int64(5) || status["release"] != "deployed" {
			return fmt.Errorf("it is %v", status)
		}
		return nil
	})
	if out := e.mustKubectl("get", "hc", "site"); !strings.Contains(out, "2.0.0") || !strings.Contains(out, "True") {
		t.Errorf("kubectl get hc shows\n%s", out)
	}
	h.remove("site", e.ns)
}

// A chart from an OCI registry with a CA of its own and a password that is wrong at first.
func TestHelmRegistry(t *testing.T) {
	e := inNamespace(t)
	h := newHelm(t, e.client, e.ns)
	ca, cert, key := certificatesFor(t, e.outside.Addr().String())
	at := ociRegistry(t, e.outside, 5000, "open", cert, key)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	web := &http.Client{Transport: &http.Transport{DialContext: e.outside.DialContext, TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer web.CloseIdleConnections()
	for _, version := range []string{"1.0.0", "1.2.0"} {
		pushChart(t, web, at, "open", "web", version)
	}
	login := func(password string) {
		auth := base64.StdEncoding.EncodeToString([]byte("tester:" + password))
		h.secret("registry", corev1.SecretTypeDockerConfigJson, map[string]string{corev1.DockerConfigJsonKey: fmt.Sprintf(`{"auths":{"%s":{"auth":"%s"}}}`, at, auth)})
	}
	login("closed")
	spec := map[string]any{
		"chart": "oci://" + at + "/charts/web", "version": "~1.0", "repoCA": string(ca), "dockerRegistrySecret": map[string]any{"name": "registry"},
		"targetNamespace": e.ns + "-made", "createNamespace": true, "values": map[string]any{"color": "green"},
	}
	h.chart("image", spec)
	if status := h.status("image", "Failed"); !strings.Contains(fmt.Sprint(status["lastError"]), "401") {
		t.Errorf("the error is %v", status["lastError"])
	}
	login("open") // found at the next attempt, five or ten seconds later
	h.shows(e.ns+"-made", "image", "1.0.0 1 green chart")
	delete(spec, "version")
	h.chart("image", spec)
	h.shows(e.ns+"-made", "image", "1.2.0 2 green chart")
	h.status("image", "Ready")
	h.remove("image", e.ns+"-made")
	must(t, e.client.CoreV1().Namespaces().Delete(t.Context(), e.ns+"-made", metav1.DeleteOptions{}))
}

// Charts that cannot be installed say why, keep to their policy, and are in nobody's way.
func TestHelmFailures(t *testing.T) {
	e := inNamespace(t)
	h := newHelm(t, e.client, e.ns)
	broken := chartContent(t, "broken", "1.0.0", map[string]string{"out.yaml": strings.Replace(output, "kind: ConfigMap", "kind: ConfigMap\nimmutable: 3", 1)})
	good := chartContent(t, "good", "1.0.0", map[string]string{"out.yaml": output})
	for name, spec := range map[string]map[string]any{
		"nowhere": {"chart": "x", "repo": "http://" + net.JoinHostPort(e.outside.Addr().String(), "9") + "/none", "backOffLimit": int64(0)},
		"garbage": {"chartContent": "bm90IGEgY2hhcnQ="},
		"nothing": {"valuesContent": "a: 1"},
		"values":  {"chartContent": good, "valuesContent": "a: b: c"},
		"broken":  {"chartContent": broken},
	} {
		h.chart(name, spec)
	}
	h.chart("good", map[string]any{"chartContent": good})
	h.shows(e.ns, "good", "1.0.0 1 chart chart")
	for name, want := range map[string]string{
		"nowhere": "given up after 1 attempts", "garbage": "read the archive of the chart", "nothing": "set spec.chart or spec.chartContent",
		"values": "read values from spec.valuesContent", "broken": "immutable",
	} {
		if status := h.status(name, "Failed"); !strings.Contains(fmt.Sprint(status["lastError"]), want) {
			t.Errorf("%s: the error is %v, want %q in it", name, status["lastError"], want)
		}
		e.told(name, "Failed", want)
	}
	// Mended, it is installed.
	h.chart("broken", map[string]any{"chartContent": good})
	h.shows(e.ns, "broken", "1.0.0 1 chart chart")
	h.remove("broken", e.ns)

	h.testPolicies(e)
	h.testUnmanaged(e, good)
	h.testStatic(e)
	h.testManifest(e, good)
}

// testPolicies installs a chart, upgrades it to one whose hook fails, and looks what each policy makes of that.
func (h helm) testPolicies(e *env) {
	h.t.Helper()
	good := chartContent(h.t, "web", "1.0.0", map[string]string{"out.yaml": output})
	// The hook cannot be created a second time: that fails without waiting.
	bad := chartContent(h.t, "web", "1.1.0", map[string]string{"out.yaml": output, "hook.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: \"Not A Name\", annotations: {helm.sh/hook: \"pre-upgrade,pre-install\"}}\n"})
	next := chartContent(h.t, "web", "1.2.0", map[string]string{"out.yaml": output})
	for policy, after := range map[string]string{"abort": "1.0.0 1 chart chart", "retry": "1.2.0 3 chart chart", "reinstall": "1.2.0 1 chart chart"} {
		name := "policy-" + policy
		h.chart(name, map[string]any{"chartContent": good, "failurePolicy": policy})
		h.shows(e.ns, name, "1.0.0 1 chart chart")
		h.status(name, "Ready")
		h.chart(name, map[string]any{"chartContent": bad, "failurePolicy": policy})
		if status := h.status(name, "Failed"); !strings.Contains(fmt.Sprint(status["lastError"]), "Not A Name") {
			h.t.Errorf("%s: the error is %v", name, status["lastError"])
		}
		h.chart(name, map[string]any{"chartContent": next, "failurePolicy": policy})
		if policy == "abort" {
			h.status(name, "Failed")
		} else {
			h.status(name, "Ready")
		}
		h.shows(e.ns, name, after)
	}
}

// testUnmanaged hands a release over to somebody else.
func (h helm) testUnmanaged(e *env, content string) {
	h.t.Helper()
	h.chart("handed", map[string]any{"chartContent": content})
	h.shows(e.ns, "handed", "1.0.0 1 chart chart")
	h.status("handed", "Ready")
	e.mustKubectl("annotate", "hc", "handed", "helmcharts.helm.cattle.io/unmanaged=true")
	h.chart("handed", map[string]any{"chartContent": content, "valuesContent": "color: red"})
	must(h.t, h.objects.Resource(helmResource("helmcharts")).Namespace(h.ns).Delete(h.t.Context(), "handed", metav1.DeleteOptions{}))
	eventually(h.t, "the HelmChart to be gone", func() error {
		if _, err := h.objects.Resource(helmResource("helmcharts")).Namespace(h.ns).Get(h.t.Context(), "handed", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there, %w", err)
		}
		return nil
	})
	h.shows(e.ns, "handed", "1.0.0 1 chart chart")
}

// testStatic installs from a file of the server's, named as k3s's users do: over an object that is there already, with
// its releases in ConfigMaps. Then the release moves to another namespace.
func (h helm) testStatic(e *env) {
	h.t.Helper()
	_, err := e.client.CoreV1().ConfigMaps(e.ns).Create(e.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "local-out"}}, metav1.CreateOptions{})
	e.must(err)
	archive := testChart(h.t, h.t.TempDir(), "local", "1.0.0", map[string]string{"out.yaml": output})
	must(h.t, e.host.CopyIn(archive, cluster.DataDir+"/server/static/charts/local-1.0.0.tgz", 0o644))
	spec := map[string]any{"chart": "https://%{KUBERNETES_API}%/static/charts/local-1.0.0.tgz", "driver": "configmap"}
	h.chart("local", spec)
	if status := h.status("local", "Failed"); !strings.Contains(fmt.Sprint(status["lastError"]), "exists and cannot be imported") {
		h.t.Errorf("the error is %v", status["lastError"])
	}
	spec["takeOwnership"] = true
	h.chart("local", spec)
	h.shows(e.ns, "local", "1.0.0 1 chart chart")
	if list, err := e.client.CoreV1().ConfigMaps(e.ns).List(e.ctx, metav1.ListOptions{LabelSelector: "owner=helm,name=local"}); err != nil || len(list.Items) != 1 {
		h.t.Errorf("%d revisions in ConfigMaps, %v", len(list.Items), err)
	}
	spec["targetNamespace"], spec["createNamespace"] = e.ns+"-moved", true
	h.chart("local", spec)
	h.shows(e.ns+"-moved", "local", "1.0.0 1 chart chart")
	h.status("local", "Ready")
	if _, err := e.client.CoreV1().ConfigMaps(e.ns).Get(e.ctx, "local-out", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		h.t.Errorf("what the release made before it moved: %v", err)
	}
	e.must(e.client.CoreV1().Namespaces().Delete(e.ctx, e.ns+"-moved", metav1.DeleteOptions{}))
}

// testManifest puts a HelmChart beside the server's manifests and takes it away again.
func (h helm) testManifest(e *env, content string) {
	h.t.Helper()
	const file = cluster.DataDir + "/server/manifests/chart.yaml"
	must(h.t, e.host.WriteFile(file, []byte("apiVersion: helm.cattle.io/v1\nkind: HelmChart\nmetadata: {name: filed, namespace: "+e.ns+"}\nspec: {chartContent: "+content+", valuesContent: 'color: grey'}\n"), 0o600))
	h.shows(e.ns, "filed", "1.0.0 1 grey chart")
	_, err := e.host.Exec(e.ctx, "rm", file)
	must(h.t, err)
	eventually(h.t, "the chart to be gone with its file", func() error {
		if _, err := e.client.CoreV1().ConfigMaps(e.ns).Get(e.ctx, "filed-out", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there, %w", err)
		}
		return nil
	})
}

// A server that is killed while it installs goes on where it was, and so does one killed while it upgrades.
func TestHelmInterrupted(t *testing.T) {
	s := cluster.Require(t, suite.lab, "helm", lab.Options{}, suite.binary, nil)
	s.Args, s.Config = []string{"--disable-agent"}, "" // no node: hooks end when the test says so
	must(t, s.Start())
	client, err := s.WaitAPI(t.Context())
	must(t, err)
	h := newHelm(t, client, "default")
	eventually(t, "HelmChart to be defined", func() error {
		_, err := h.objects.Resource(helmResource("helmcharts")).Namespace(h.ns).List(t.Context(), metav1.ListOptions{})
		return err
	})
	hook := "apiVersion: batch/v1\nkind: Job\nmetadata: {name: hook, annotations: {helm.sh/hook: \"pre-install,pre-upgrade\"}}\n" +
		"spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: none.test/none}]}}}\n"
	last := ""
	for i, version := range []string{"1.0.0", "2.0.0"} {
		h.chart("slow", map[string]any{"chartContent": chartContent(t, "slow", version, map[string]string{"out.yaml": output, "hook.yaml": hook}), "failurePolicy": "abort"})
		last = h.hook(last)
		must(t, s.Process().Kill())
		must(t, s.Start())
		client, err := s.WaitAPI(t.Context())
		must(t, err)
		h = newHelm(t, client, "default")
		last = h.hook(last)
		h.finish(last)
		// The revision that was interrupted counts, but Helm renders every installation as the first.
		h.shows("default", "slow", version+[]string{" 1", " 4"}[i]+" chart chart")
		if status := h.status("slow", "Ready"); status["revision"] != int64(2*(i+1)) || status["chartVersion"] != version {
			t.Errorf("status is %v", status)
		}
	}
}

// hook waits for the hook's Job and returns its UID, which is another than before.
func (h helm) hook(before string) (uid string) {
	h.t.Helper()
	eventually(h.t, "the hook to run", func() error {
		j, err := h.client.BatchV1().Jobs(h.ns).Get(h.t.Context(), "hook", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if uid = string(j.UID); uid == before || j.DeletionTimestamp != nil || j.Status.StartTime == nil {
			return errors.New("it is the one before or has not begun")
		}
		return nil
	})
	return uid
}

// finish ends the hook's Job well.
func (h helm) finish(uid string) {
	h.t.Helper()
	eventually(h.t, "the hook to be finished", func() error {
		j, err := h.client.BatchV1().Jobs(h.ns).Get(h.t.Context(), "hook", metav1.GetOptions{})
		if err != nil {
			return err
		}
		now := metav1.NewTime(time.Now())
		j.Status.CompletionTime, j.Status.Active, j.Status.Succeeded, j.Status.Ready, j.Status.Terminating = &now, 0, 1, nil, nil
		for _, kind := range []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobComplete} {
			j.Status.Conditions = append(j.Status.Conditions, batchv1.JobCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: now})
		}
		if string(j.UID) != uid {
			return fmt.Errorf("the Job is another: %s", j.UID)
		}
		_, err = h.client.BatchV1().Jobs(h.ns).UpdateStatus(h.t.Context(), j, metav1.UpdateOptions{})
		return err
	})
}
