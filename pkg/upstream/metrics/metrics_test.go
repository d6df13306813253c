package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

var noon = metav1.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func cpu(nanos uint64) *stats.CPUStats { return &stats.CPUStats{Time: noon, UsageNanoCores: &nanos} }

func memory(bytes uint64) *stats.MemoryStats {
	return &stats.MemoryStats{Time: metav1.NewTime(noon.Add(-time.Second)), WorkingSetBytes: &bytes}
}

func container(name string, c *stats.CPUStats, m *stats.MemoryStats) stats.ContainerStats {
	return stats.ContainerStats{Name: name, CPU: c, Memory: m}
}

func podStats(uid string, containers ...stats.ContainerStats) stats.PodStats {
	return stats.PodStats{PodRef: stats.PodReference{UID: uid}, Containers: containers}
}

// newTestAPI answers for kubelets from a map; nodes that are not in it do not answer.
func newTestAPI(t *testing.T, kubelets map[string]*stats.Summary, objects ...runtime.Object) *API {
	t.Helper()
	client := fake.NewClientset(objects...)
	a := New(Config{Client: func() (kubernetes.Interface, error) { return client, nil }, Logger: slog.New(slog.DiscardHandler)})
	a.kubelets.ask = func(_ context.Context, node string) (*stats.Summary, error) {
		if s, ok := kubelets[node]; ok {
			return s, nil
		}
		return nil, errors.New("no route to host")
	}
	return a
}

func node(name string) *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }

func TestNodeMetrics(t *testing.T) {
	a := newTestAPI(t, map[string]*stats.Summary{
		"up":       {Node: stats.NodeStats{CPU: cpu(1_500_000_000), Memory: memory(3 << 20)}},
		"starting": {Node: stats.NodeStats{CPU: &stats.CPUStats{Time: noon}, Memory: memory(1)}},
	})
	got, err := a.GetNodeMetrics(node("up"), node("starting"), node("down"))
	if err != nil || len(got) != 1 {
		t.Fatalf("got %v, %v, want one node", got, err)
	}
	m := got[0]
	text := fmt.Sprint(m.Name, " ", m.Usage.Cpu(), " ", m.Usage.Memory(), " ", m.Timestamp.UTC().Format(time.TimeOnly), " ", m.Window.Duration)
	if want := "up 1500m 3Mi 11:59:59 10s"; text != want {
		t.Errorf("got %s, want %s", text, want)
	}
}

func TestPodMetrics(t *testing.T) {
	a := newTestAPI(t, map[string]*stats.Summary{
		"a": {Pods: []stats.PodStats{
			podStats("1", container("web", cpu(2_000_000), memory(1024)), container("log", cpu(0), memory(512))),
			podStats("2", container("web", cpu(1), memory(1)), container("young", nil, nil)),
			podStats("3"),
		}},
		"b": {Pods: []stats.PodStats{podStats("4", container("db", cpu(7), memory(9)))}},
	}, node("a"), node("b"), node("down"))
	var list []*metav1.PartialObjectMetadata
	for _, uid := range []string{"1", "2", "3", "4", "5"} {
		list = append(list, &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: "p" + uid, UID: types.UID(uid)}})
	}
	got, err := a.GetPodMetrics(list...)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, p := range got {
		for _, c := range p.Containers {
			lines = append(lines, fmt.Sprint(p.Name, "/", c.Name, " ", c.Usage.Cpu(), " ", c.Usage.Memory()))
		}
	}
	if got, want := strings.Join(lines, "\n"), "p1/log 0 512\np1/web 2m 1Ki\np4/db 7n 9"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestPodsThatRun(t *testing.T) {
	pod := func(name string, phase corev1.PodPhase) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "n", Labels: map[string]string{"app": name}},
			Status:     corev1.PodStatus{Phase: phase},
		}
	}
	a := newTestAPI(t, nil, pod("web", corev1.PodRunning), pod("job", corev1.PodSucceeded))
	lister := pods{a.objects}.ByNamespace("n")
	for name, want := range map[string]string{"web": "", "job": `pods "n/job" not found`, "none": `pods "none" not found`} {
		_, err := lister.Get(name)
		if got := fmt.Sprint(err); got != want && (err != nil || want != "") {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	list, err := lister.List(labels.SelectorFromSet(labels.Set{"app": "web"}))
	if err != nil || len(list) != 1 || list[0].(*metav1.PartialObjectMetadata).Name != "web" {
		t.Errorf("list: %v, %v", list, err)
	}
}

// TestKubeletsAreAskedOnce is many requests at the same time, and again when the answers are no longer fresh.
func TestKubeletsAreAskedOnce(t *testing.T) {
	var mu sync.Mutex
	now, asked := noon.Time, map[string]int{}
	ask := func(_ context.Context, node string) (*stats.Summary, error) {
		mu.Lock()
		defer mu.Unlock()
		asked[node]++
		if node == "down" {
			return nil, errors.New("no route to host")
		}
		return &stats.Summary{}, nil
	}
	k := newKubelets(ask, func() time.Time { mu.Lock(); defer mu.Unlock(); return now }, slog.New(slog.DiscardHandler))
	for round := 1; round <= 3; round++ {
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if got := k.summaries([]string{"a", "b", "down"}); len(got) != 2 {
					t.Errorf("summaries of %d nodes, want 2", len(got))
				}
			})
		}
		wg.Wait()
		for _, node := range []string{"a", "b", "down"} {
			if asked[node] != round {
				t.Errorf("round %d: %s was asked %d times", round, node, asked[node])
			}
		}
		mu.Lock()
		now = now.Add(fresh)
		mu.Unlock()
	}
	k.summaries(nil)
	if len(k.nodes) != 0 {
		t.Errorf("%d nodes are kept though nobody asks for them", len(k.nodes))
	}
}
