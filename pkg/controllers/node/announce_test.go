package node

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"
)

func TestAnnounce(t *testing.T) {
	a := Addresses{InternalIPs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}}
	done := map[string]string{AnnotationInternalIP: "10.0.0.1,fd00::1", AnnotationHostname: "a", "other": "stays"}
	tests := []struct {
		name    string
		has     map[string]string
		patches int
	}{
		{"first time", map[string]string{"other": "stays"}, 1},
		{"nothing new", done, 0},
		{"what is not announced any more goes", map[string]string{AnnotationExternalIP: "192.0.2.1", AnnotationHostname: "old", "other": "stays"}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", Annotations: tt.has}})
			if err := Announce(t.Context(), client, "a", a); err != nil {
				t.Fatal(err)
			}
			n, err := client.CoreV1().Nodes().Get(t.Context(), "a", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(n.Annotations, done) {
				t.Errorf("annotations are %v, want %v", n.Annotations, done)
			}
			if got := count(client, "patch"); got != tt.patches {
				t.Errorf("%d patches, want %d", got, tt.patches)
			}
		})
	}
}

// Runtimes come and go with what is installed; other labels stay.
func TestAnnounceRuntimes(t *testing.T) {
	client := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{LabelRuntime + "kata": "true", LabelRuntime + "crun": "true", "other": "stays"}}})
	for range 2 {
		if err := Announce(t.Context(), client, "a", Addresses{Runtimes: []string{"crun", "spin"}}); err != nil {
			t.Fatal(err)
		}
	}
	n, err := client.CoreV1().Nodes().Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{LabelRuntime + "crun": "true", LabelRuntime + "spin": "true", "other": "stays"}; !maps.Equal(n.Labels, want) {
		t.Errorf("labels are %v, want %v", n.Labels, want)
	}
	if got := count(client, "patch"); got != 1 {
		t.Errorf("%d patches for two announcements of the same", got)
	}
}

// A server's node says what it is, and what others have labelled it as stays.
func TestAnnounceRoles(t *testing.T) {
	const server, other = "node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/storage"
	client := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{other: "true"}}})
	for range 2 {
		if err := Announce(t.Context(), client, "a", Addresses{Roles: []string{"control-plane"}}); err != nil {
			t.Fatal(err)
		}
	}
	n, err := client.CoreV1().Nodes().Get(t.Context(), "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{server: "true", other: "true"}; !maps.Equal(n.Labels, want) {
		t.Errorf("labels are %v, want %v", n.Labels, want)
	}
	if got := count(client, "patch"); got != 1 {
		t.Errorf("%d patches, want the first to be enough", got)
	}
}

func count(client *fake.Clientset, verb string) (n int) {
	for _, a := range client.Actions() {
		if a.Matches(verb, "nodes") {
			n++
		}
	}
	return n
}

func TestAnnounceWaitsForTheRegistration(t *testing.T) {
	client := fake.NewClientset()
	watching := make(chan struct{}, 16)
	client.PrependWatchReactor("nodes", func(action kubetesting.Action) (bool, watch.Interface, error) {
		w, err := client.Tracker().Watch(action.GetResource(), "")
		watching <- struct{}{}
		return true, w, err
	})
	result := make(chan error, 1)
	go func() { result <- Announce(t.Context(), client, "a", Addresses{}) }()
	<-watching
	for _, name := range []string{"b", "a"} {
		if _, err := client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"a": "a", "b": ""} {
		n, err := client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := n.Annotations[AnnotationHostname]; got != want {
			t.Errorf("node %s has the host name %q, want %q", name, got, want)
		}
	}
}

func TestAnnounceFails(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "nodes"}, "a", errors.New("not yours"))
	tests := []struct {
		name     string
		failures []error
		want     func(error) bool
	}{
		{"the API is away for a moment", []error{errors.New("connection refused")}, func(err error) bool { return err == nil }},
		{"the API refuses", []error{forbidden, nil}, apierrors.IsForbidden},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
			client.PrependReactor("patch", "nodes", func(kubetesting.Action) (bool, runtime.Object, error) {
				if len(tt.failures) == 0 {
					return false, nil, nil
				}
				err := tt.failures[0]
				tt.failures = tt.failures[1:]
				return true, nil, err
			})
			if err := Announce(t.Context(), client, "a", Addresses{}); !tt.want(err) {
				t.Errorf("error %v", err)
			}
		})
	}
	t.Run("nobody registers", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if err := Announce(ctx, fake.NewClientset(), "a", Addresses{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
}

// A node is gone when the datastore says so, not when a watch does.
func TestDeleted(t *testing.T) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	for _, tt := range []struct {
		name string
		act  func(*testing.T, *fake.Clientset)
	}{
		{"deleted while watched", func(t *testing.T, c *fake.Clientset) {
			if err := c.CoreV1().Nodes().Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		}},
		{"deleted and made anew, and deleted", func(t *testing.T, c *fake.Clientset) {
			nodes := c.CoreV1().Nodes()
			if err := errors.Join(
				nodes.Delete(t.Context(), "a", metav1.DeleteOptions{}),
				c.Tracker().Add(n.DeepCopy()),
				nodes.Delete(t.Context(), "a", metav1.DeleteOptions{}),
			); err != nil {
				t.Error(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := fake.NewClientset(n.DeepCopy())
			watching := make(chan struct{}, 10)
			client.PrependWatchReactor("nodes", func(action kubetesting.Action) (bool, watch.Interface, error) {
				w, err := client.Tracker().Watch(action.GetResource(), action.GetNamespace())
				watching <- struct{}{}
				return true, w, err
			})
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			gone := make(chan error, 1)
			go func() { gone <- Deleted(ctx, client, "a") }()
			<-watching
			select {
			case err := <-gone:
				t.Fatalf("gone while it is there: %v", err)
			default:
			}
			tt.act(t, client)
			if err := <-gone; err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("deleted before", func(t *testing.T) {
		if err := Deleted(t.Context(), fake.NewClientset(), "a"); err != nil {
			t.Error(err)
		}
	})
	t.Run("asked to stop", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := Deleted(ctx, fake.NewClientset(n.DeepCopy()), "a"); err == nil {
			t.Error("a node that is there was reported gone")
		}
	})
}

func TestPublished(t *testing.T) {
	was := []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}, {Type: corev1.NodeHostName, Address: "a"}}
	client := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Status: corev1.NodeStatus{Addresses: was}})
	if !Published(t.Context(), client, "a", []netip.Addr{netip.MustParseAddr("10.0.0.1")}) {
		t.Error("addresses that are there are not seen")
	}
	fresh := []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}
	seen := make(chan bool, 1)
	go func() { seen <- Published(t.Context(), client, "a", fresh) }()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: "10.0.0.2"}, {Type: corev1.NodeInternalIP, Address: "fd00::2"}}}}
	if _, err := client.CoreV1().Nodes().UpdateStatus(t.Context(), n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if !<-seen {
		t.Error("addresses that came are not seen")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if Published(ctx, client, "a", fresh[:1]) {
		t.Error("addresses that are not there are seen")
	}
}
