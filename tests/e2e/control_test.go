package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
)

// configMap creates a ConfigMap with owners.
func (e *env) configMap(name string, owners ...*corev1.ConfigMap) *corev1.ConfigMap {
	e.t.Helper()
	c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, o := range owners {
		c.OwnerReferences = append(c.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: o.Name, UID: o.UID, BlockOwnerDeletion: ptr.To(true)})
	}
	made, err := e.client.CoreV1().ConfigMaps(e.ns).Create(e.ctx, c, metav1.CreateOptions{})
	e.must(err)
	return made
}

func (e *env) gone(name string) error {
	_, err := e.client.CoreV1().ConfigMaps(e.ns).Get(e.ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return errors.Join(errors.New(name+" is there"), err)
}

func TestOwnerReferences(t *testing.T) {
	for _, policy := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan} {
		t.Run(string(policy), func(t *testing.T) {
			e := inNamespace(t)
			parent := e.configMap("parent")
			other := e.configMap("other")
			child := e.configMap("child", parent)
			e.configMap("grandchild", child)
			e.configMap("shared", parent, other)
			e.must(e.client.CoreV1().ConfigMaps(e.ns).Delete(e.ctx, "parent", metav1.DeleteOptions{PropagationPolicy: &policy}))
			e.eventually("the parent to go", func() error { return e.gone("parent") })
			if policy == metav1.DeletePropagationOrphan {
				e.stays("the orphan", func() error {
					_, err := e.client.CoreV1().ConfigMaps(e.ns).Get(e.ctx, "child", metav1.GetOptions{})
					return err
				})
				return
			}
			e.eventually("what it owned to go", func() error { return errors.Join(e.gone("child"), e.gone("grandchild")) })
			if e.gone("shared") == nil {
				t.Error("an object went although its other owner is there")
			}
		})
	}
}

// TestPriorityPreemption fills the node and lets an important pod push another
// one out. The resource is one that only this test uses.
func TestPriorityPreemption(t *testing.T) {
	e := alone(t)
	const gpu = "knarr.test/slot"
	_, err := e.client.CoreV1().Nodes().Patch(e.ctx, e.host.Name(), types.JSONPatchType,
		[]byte(`[{"op":"add","path":"/status/capacity/knarr.test~1slot","value":"2"}]`), metav1.PatchOptions{}, "status")
	e.must(err)
	class := e.ns + "-important"
	_, err = e.client.SchedulingV1().PriorityClasses().Create(e.ctx, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: class}, Value: 1000}, metav1.CreateOptions{})
	e.must(err)
	slot := func(name, class string) *corev1.Pod {
		c := idle("main")
		c.Resources.Limits = corev1.ResourceList{gpu: resource.MustParse("1")}
		p := pod(name, c)
		p.Spec.PriorityClassName = class
		return p
	}
	for _, name := range []string{"one", "two"} {
		e.startPod(slot(name, ""))
	}
	e.startPod(slot("important", class))
	l, err := e.client.CoreV1().Pods(e.ns).List(e.ctx, metav1.ListOptions{})
	e.must(err)
	var running []string
	for _, p := range l.Items {
		if p.DeletionTimestamp == nil {
			running = append(running, p.Name)
		}
	}
	if len(running) != 2 || running[0] != "important" {
		t.Errorf("after the preemption there are %v, want the important pod and one other", running)
	}
	e.createPod(slot("late", ""))
	e.podUntil("late", "waiting for room", func(p *corev1.Pod) bool {
		return p.Spec.NodeName == "" && len(p.Status.Conditions) > 0 && strings.Contains(p.Status.Conditions[0].Message, "Insufficient "+gpu)
	})
	e.must(e.client.SchedulingV1().PriorityClasses().Delete(e.ctx, class, metav1.DeleteOptions{}))
}

func TestTaintBasedEviction(t *testing.T) {
	e := alone(t)
	e.startPod(pod("leaves", idle("main")))
	tolerant := pod("stays", idle("main"))
	tolerant.Spec.Tolerations = []corev1.Toleration{{Key: "knarr.test/leave", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}}
	e.startPod(tolerant)
	e.mustKubectl("taint", "node", e.host.Name(), "knarr.test/leave=now:NoExecute")
	defer e.mustKubectl("taint", "node", e.host.Name(), "knarr.test/leave-")
	e.mustKubectl("wait", "--for=delete", "pod/leaves", "--timeout=2m")
	e.stays("the pod that tolerates the taint", func() error {
		p, err := e.getPod("stays")
		if err == nil && !ready(p) {
			err = fmt.Errorf("%s", states(p))
		}
		return err
	})
}

func TestDrainAndUncordon(t *testing.T) {
	e := alone(t)
	_, err := e.client.AppsV1().Deployments(e.ns).Create(e.ctx, deployment("web", 1, web()), metav1.CreateOptions{})
	e.must(err)
	before := e.waitPods("web", 1)[0]
	e.mustKubectl("drain", e.host.Name(), "--pod-selector=app=web", "--force", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=2m")
	defer e.mustKubectl("uncordon", e.host.Name())
	if _, err := e.getPod(before.Name); !apierrors.IsNotFound(err) {
		t.Errorf("after the drain the pod is there (%v)", err)
	}
	e.eventually("a new pod that has no node to go to", func() error {
		out, err := e.runKubectl("get", "events", "-o", "jsonpath={.items[*].message}")
		if err == nil && !strings.Contains(out, "unschedulable") {
			err = fmt.Errorf("events say %q", out)
		}
		return err
	})
	e.mustKubectl("uncordon", e.host.Name())
	e.waitPods("web", 1)
}

func TestEvictionRespectsADisruptionBudget(t *testing.T) {
	e := inNamespace(t)
	_, err := e.client.AppsV1().Deployments(e.ns).Create(e.ctx, deployment("web", 2, web()), metav1.CreateOptions{})
	e.must(err)
	pods := e.waitPods("web", 2)
	_, err = e.client.PolicyV1().PodDisruptionBudgets(e.ns).Create(e.ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: policyv1.PodDisruptionBudgetSpec{Selector: selector("web"), MinAvailable: ptr.To(intstr.FromInt32(2))}}, metav1.CreateOptions{})
	e.must(err)
	evict := func() error {
		return e.client.PolicyV1().Evictions(e.ns).Evict(e.ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pods[0].Name, Namespace: e.ns}})
	}
	e.eventually("the budget to be counted", func() error {
		b, err := e.client.PolicyV1().PodDisruptionBudgets(e.ns).Get(e.ctx, "web", metav1.GetOptions{})
		if err == nil && b.Status.CurrentHealthy != 2 {
			err = fmt.Errorf("%d are healthy", b.Status.CurrentHealthy)
		}
		return err
	})
	if err := evict(); !apierrors.IsTooManyRequests(err) {
		t.Errorf("an eviction beyond the budget gives %v, want TooManyRequests", err)
	}
	e.mustKubectl("patch", "pdb", "web", "-p", `{"spec":{"minAvailable":1}}`)
	e.eventually("the eviction within the budget", evict)
	e.waitPods("web", 2)
	e.mustKubectl("wait", "--for=delete", "pod/"+pods[0].Name, "--timeout=2m")
}

func TestServerSideApplyConflict(t *testing.T) {
	e := inNamespace(t)
	apply := func(manager, value string, force bool) error {
		_, err := e.client.CoreV1().ConfigMaps(e.ns).Patch(e.ctx, "shared", types.ApplyPatchType,
			[]byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"shared"},"data":{"`+manager+`":"mine","key":"`+value+`"}}`),
			metav1.PatchOptions{FieldManager: manager, Force: &force})
		return err
	}
	e.must(apply("one", "a", false))
	err := apply("two", "b", false)
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), ".data.key") || !strings.Contains(err.Error(), `"one"`) {
		t.Errorf("a second owner of a field gives %v; want a conflict that names the field and its owner", err)
	}
	e.must(apply("two", "b", true))
	c, err := e.client.CoreV1().ConfigMaps(e.ns).Get(e.ctx, "shared", metav1.GetOptions{})
	e.must(err)
	if c.Data["key"] != "b" || c.Data["one"] != "mine" || c.Data["two"] != "mine" {
		t.Errorf("after the forced apply the data is %v", c.Data)
	}
	// A manager that drops a field it alone owns removes it.
	_, err = e.client.CoreV1().ConfigMaps(e.ns).Patch(e.ctx, "shared", types.ApplyPatchType,
		[]byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"shared"}}`), metav1.PatchOptions{FieldManager: "one", Force: ptr.To(true)})
	e.must(err)
	if c, err = e.client.CoreV1().ConfigMaps(e.ns).Get(e.ctx, "shared", metav1.GetOptions{}); err != nil || c.Data["one"] != "" || c.Data["key"] != "b" {
		t.Errorf("after the first owner let go the data is %v (%v)", c.Data, err)
	}
}

func TestOptimisticLocking(t *testing.T) {
	e := inNamespace(t)
	first := e.configMap("locked")
	second := first.DeepCopy()
	first.Data = map[string]string{"by": "first"}
	_, err := e.client.CoreV1().ConfigMaps(e.ns).Update(e.ctx, first, metav1.UpdateOptions{})
	e.must(err)
	second.Data = map[string]string{"by": "second"}
	if _, err := e.client.CoreV1().ConfigMaps(e.ns).Update(e.ctx, second, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an update of an old version gives %v, want Conflict", err)
	}
}

func TestWatchFromResourceVersion(t *testing.T) {
	e := inNamespace(t)
	maps := e.client.CoreV1().ConfigMaps(e.ns)
	start := e.configMap("first").ResourceVersion
	want := []string{}
	for i := range 5 {
		name := fmt.Sprintf("after-%d", i)
		e.configMap(name)
		want = append(want, "ADDED "+name)
	}
	e.must(maps.Delete(e.ctx, "after-2", metav1.DeleteOptions{}))
	want = append(want, "DELETED after-2")
	// What happened before the watch began is told in order, and then what
	// happens after.
	w, err := maps.Watch(e.ctx, metav1.ListOptions{ResourceVersion: start, FieldSelector: "metadata.name!=kube-root-ca.crt"})
	e.must(err)
	defer w.Stop()
	e.configMap("live")
	want = append(want, "ADDED live")
	for i, wanted := range want {
		event, ok := <-w.ResultChan()
		if !ok || event.Type == watch.Error {
			t.Fatalf("event %d: the watch ended: %+v", i, event.Object)
		}
		if got := string(event.Type) + " " + event.Object.(*corev1.ConfigMap).Name; got != wanted {
			t.Errorf("event %d is %s, want %s", i, got, wanted)
		}
	}
	if _, err := maps.List(e.ctx, metav1.ListOptions{ResourceVersion: "999999999999", ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}); err == nil {
		t.Error("a list from the future succeeds")
	}
}

func TestListInPages(t *testing.T) {
	e := inNamespace(t)
	for i := range 25 {
		e.configMap(fmt.Sprintf("page-%02d", i))
	}
	var names []string
	o := metav1.ListOptions{Limit: 10, FieldSelector: "metadata.name!=kube-root-ca.crt"}
	pages := 0
	for ; ; pages++ {
		l, err := e.client.CoreV1().ConfigMaps(e.ns).List(e.ctx, o)
		e.must(err)
		for _, c := range l.Items {
			names = append(names, c.Name)
		}
		if o.Continue = l.Continue; o.Continue == "" {
			break
		}
	}
	if len(names) != 25 || names[0] != "page-00" || names[24] != "page-24" || pages < 2 {
		t.Errorf("25 objects in pages of 10 came as %d in %d pages: %v", len(names), pages+1, names)
	}
}

func TestNamespaceDeletionTakesEverything(t *testing.T) {
	e := inNamespace(t)
	e.startWeb(1, corev1.ServiceTypeClusterIP)
	e.configMap("one")
	e.mustKubectl("delete", "namespace", e.ns, "--timeout=2m")
	if _, err := e.client.CoreV1().Namespaces().Get(e.ctx, e.ns, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the namespace is there (%v)", err)
	}
}
