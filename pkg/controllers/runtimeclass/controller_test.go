package runtimeclass

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
)

func node(name string, classes ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"other": "true"}}}
	for _, c := range classes {
		n.Labels["rt.test/"+c] = "true"
	}
	return n
}

func config() Config {
	return Config{Label: "rt.test/", Handlers: map[string]string{"crun": "crun", "gvisor": "runsc", "kata": "kata"}}
}

// bench is a running controller on a fake API.
type bench struct {
	t      *testing.T
	client *fake.Clientset
}

func (b bench) expect(want ...string) {
	b.t.Helper()
	synctest.Wait()
	list, err := b.client.NodeV1().RuntimeClasses().List(b.t.Context(), metav1.ListOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	got := []string{}
	for _, c := range list.Items {
		got = append(got, fmt.Sprint(c.Name, "=", c.Handler, " ", c.Scheduling != nil && c.Scheduling.NodeSelector["rt.test/"+c.Name] == "true"))
	}
	slices.Sort(got)
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		b.t.Errorf("classes are %v, want %v", got, want)
	}
}

func with(t *testing.T, c Config, test func(bench), objects ...corev1.Node) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		for _, n := range objects {
			if err := client.Tracker().Add(&n); err != nil {
				t.Fatal(err)
			}
		}
		for _, class := range []*nodev1.RuntimeClass{
			{ObjectMeta: metav1.ObjectMeta{Name: "kata"}, Handler: "kata-fc"}, // somebody else's
			{ObjectMeta: metav1.ObjectMeta{Name: "old", Labels: map[string]string{labelManaged: managedBy}}, Handler: "old"},
		} {
			if err := client.Tracker().Add(class); err != nil {
				t.Fatal(err)
			}
		}
		factory := informers.NewSharedInformerFactory(client, 0)
		ctx, cancel := context.WithCancel(t.Context())
		ready, done := make(chan struct{}), make(chan error, 1)
		go func() {
			done <- New(c, func() (kubernetes.Interface, error) { return client, nil }, func() informers.SharedInformerFactory { return factory }, slog.New(slog.DiscardHandler)).
				Run(ctx, func() {
					select {
					case <-ready:
					default:
						close(ready)
					}
				})
		}()
		<-ready
		test(bench{t, client})
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		factory.Shutdown()
	})
}

func TestClassesFollowNodes(t *testing.T) {
	with(t, config(), func(b bench) {
		nodes := b.client.CoreV1().Nodes()
		b.expect("crun=crun true", "kata=kata-fc false")
		must := func(_ *corev1.Node, err error) {
			if err != nil {
				b.t.Fatal(err)
			}
		}
		must(nodes.Create(b.t.Context(), node("b", "gvisor", "crun", "kata", "made-up"), metav1.CreateOptions{}))
		b.expect("crun=crun true", "gvisor=runsc true", "kata=kata-fc false")
		must(nodes.Update(b.t.Context(), node("a"), metav1.UpdateOptions{}))
		b.expect("crun=crun true", "gvisor=runsc true", "kata=kata-fc false")
		if err := nodes.Delete(b.t.Context(), "b", metav1.DeleteOptions{}); err != nil {
			b.t.Fatal(err)
		}
		b.expect("kata=kata-fc false")
	}, *node("a", "crun"))
}

// With nothing to offer, what was offered before goes.
func TestDisabled(t *testing.T) {
	with(t, Config{Label: "rt.test/"}, func(b bench) { b.expect("kata=kata-fc false") }, *node("a", "crun"))
}

// A class of ours without its node selector would send pods to nodes that cannot run them.
func TestSchedulingIsRestored(t *testing.T) {
	with(t, config(), func(b bench) {
		classes := b.client.NodeV1().RuntimeClasses()
		c, err := classes.Get(b.t.Context(), "crun", metav1.GetOptions{})
		if err != nil {
			b.t.Fatal(err)
		}
		c.Scheduling = nil
		if _, err := classes.Update(b.t.Context(), c, metav1.UpdateOptions{}); err != nil {
			b.t.Fatal(err)
		}
		if _, err := b.client.CoreV1().Nodes().Create(b.t.Context(), node("b", "gvisor"), metav1.CreateOptions{}); err != nil {
			b.t.Fatal(err)
		}
		b.expect("crun=crun true", "gvisor=runsc true", "kata=kata-fc false")
	}, *node("a", "crun"))
}
