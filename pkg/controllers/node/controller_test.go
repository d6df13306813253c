package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/knarr-io/knarr/tests/bed"
	"github.com/knarr-io/knarr/tests/bed/api"
)

// cluster is a fake API with our controller.
type cluster struct {
	t      *testing.T
	client *fake.Clientset
}

// start runs the controller until the test ends.
func start(t *testing.T, objects ...runtime.Object) cluster {
	t.Helper()
	b := cluster{t, fake.NewClientset(objects...)}
	b.run()
	return b
}

func (b cluster) run() {
	b.t.Helper()
	bed.Run(b.t, New(api.Client(b.client), api.Informers(b.t, b.client), slog.New(slog.DiscardHandler)))
}

// register does what a kubelet does.
func (b cluster) register(name string, annotations map[string]string) {
	b.t.Helper()
	_, err := b.client.CoreV1().Nodes().Create(b.t.Context(), registered(name, annotations), metav1.CreateOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
}

func registered(name string, annotations map[string]string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{
			{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule},
			{Key: "node.cloudprovider.kubernetes.io/uninitialized", Value: "true", Effect: corev1.TaintEffectNoSchedule},
		}},
	}
}

// await waits until the node is as described.
func (b cluster) await(name, want string) {
	b.t.Helper()
	bed.Eventually(b.t, "node "+name, func() error {
		n, err := b.client.CoreV1().Nodes().Get(b.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got := describe(n); got != want {
			return fmt.Errorf("\ngot  %s\nwant %s", got, want)
		}
		return nil
	})
}

func describe(n *corev1.Node) string {
	parts := append([]string{n.Spec.ProviderID}, texts(n.Status.Addresses)...)
	for _, t := range n.Spec.Taints {
		parts = append(parts, "taint="+strings.TrimPrefix(t.Key, "node."))
	}
	return strings.Join(parts, " ")
}

// patches counts what the controller has written, by subresource.
func (b cluster) patches() (n map[string]int) {
	n = make(map[string]int)
	for _, a := range b.client.Actions() {
		if a.Matches("patch", "nodes") {
			n[a.GetSubresource()]++
		}
	}
	return n
}

func TestANewNodeIsInitialized(t *testing.T) {
	b := start(t)
	b.register("a", map[string]string{AnnotationInternalIP: "10.0.0.1,fd00::1", AnnotationExternalIP: "192.0.2.1"})
	b.await("a", "knarr://a InternalIP=10.0.0.1 InternalIP=fd00::1 ExternalIP=192.0.2.1 Hostname=a taint=kubernetes.io/not-ready")
}

func TestANodeThatWasThereBeforeIsInitialized(t *testing.T) {
	b := start(t, registered("a", map[string]string{"alpha.kubernetes.io/provided-node-ip": "10.0.0.1"}))
	b.await("a", "knarr://a InternalIP=10.0.0.1 Hostname=a taint=kubernetes.io/not-ready")
}

func TestTheTaintStaysUntilThereIsAnAddress(t *testing.T) {
	b := start(t)
	b.register("a", nil)
	b.register("b", map[string]string{AnnotationInternalIP: "10.0.0.2"})
	b.await("b", "knarr://b InternalIP=10.0.0.2 Hostname=b taint=kubernetes.io/not-ready")
	b.await("a", " taint=kubernetes.io/not-ready taint=cloudprovider.kubernetes.io/uninitialized")

	if err := Announce(t.Context(), b.client, "a", Addresses{InternalIPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Hostname: "host"}); err != nil {
		t.Fatal(err)
	}
	b.await("a", "knarr://a InternalIP=10.0.0.1 Hostname=host taint=kubernetes.io/not-ready")
}

func TestAnnouncementsAreFollowed(t *testing.T) {
	b := start(t)
	b.register("a", map[string]string{AnnotationInternalIP: "10.0.0.1", AnnotationExternalIP: "192.0.2.1"})
	b.await("a", "knarr://a InternalIP=10.0.0.1 ExternalIP=192.0.2.1 Hostname=a taint=kubernetes.io/not-ready")
	for _, ip := range []string{"10.0.0.7", "10.0.0.8"} {
		if err := Announce(t.Context(), b.client, "a", Addresses{InternalIPs: []netip.Addr{netip.MustParseAddr(ip)}}); err != nil {
			t.Fatal(err)
		}
		b.await("a", "knarr://a InternalIP="+ip+" Hostname=a taint=kubernetes.io/not-ready")
	}
}

// A heartbeat must cost nothing. The node that is registered after it bounds the wait: events come in order.
func TestHeartbeatsCauseNoWrites(t *testing.T) {
	b := start(t)
	b.register("a", map[string]string{AnnotationInternalIP: "10.0.0.1"})
	b.await("a", "knarr://a InternalIP=10.0.0.1 Hostname=a taint=kubernetes.io/not-ready")
	b.register("b", map[string]string{AnnotationInternalIP: "10.0.0.2"})
	b.await("b", "knarr://b InternalIP=10.0.0.2 Hostname=b taint=kubernetes.io/not-ready")
	before := b.patches()[""]
	for i := range 20 {
		n, err := b.client.CoreV1().Nodes().Get(t.Context(), "a", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, LastHeartbeatTime: metav1.Unix(int64(i), 0)}}
		if _, err := b.client.CoreV1().Nodes().UpdateStatus(t.Context(), n, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	b.register("c", map[string]string{AnnotationInternalIP: "10.0.0.3"})
	b.await("c", "knarr://c InternalIP=10.0.0.3 Hostname=c taint=kubernetes.io/not-ready")
	if n := b.patches()["status"]; n != 3 {
		t.Errorf("%d patches of addresses for three nodes", n)
	}
	// One for c, and at most one more for each of b and c, made before their own change came back as an event.
	if n := b.patches()[""] - before; n > 3 {
		t.Errorf("%d further patches, want at most 3", n)
	}
}

func TestFailuresAreTriedAgain(t *testing.T) {
	b := cluster{t, fake.NewClientset()}
	failures := []error{
		errors.New("connection refused"),
		apierrors.NewConflict(schema.GroupResource{Resource: "nodes"}, "a", errors.New("changed")),
		apierrors.NewGenericServerResponse(422, "patch", schema.GroupResource{}, "a", "testing path failed", 0, false),
	}
	left := slices.Clone(failures)
	b.client.PrependReactor("patch", "nodes", func(a kubetesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "" || len(left) == 0 {
			return false, nil, nil
		}
		err := left[0]
		left = left[1:]
		return true, nil, err
	})
	b.run()
	b.register("a", map[string]string{AnnotationInternalIP: "10.0.0.1"})
	b.await("a", "knarr://a InternalIP=10.0.0.1 Hostname=a taint=kubernetes.io/not-ready")
}

// The API must refuse the patch when the taint is no longer where it was.
func TestATaintThatMovedIsNotMistaken(t *testing.T) {
	n := registered("a", nil)
	patch := initPatch(n)
	slices.Reverse(n.Spec.Taints)
	client := fake.NewClientset(n)
	r := &run{client: client}
	if err := r.patch(t.Context(), "a", patch); err == nil {
		t.Error("a taint of somebody else's was removed")
	}
	if err := r.patch(t.Context(), "gone", patch); err != nil {
		t.Errorf("a node deleted meanwhile is reported: %v", err)
	}
}

func TestNoClient(t *testing.T) {
	c := New(func() (kubernetes.Interface, error) { return nil, errors.New("no CA") }, nil, slog.New(slog.DiscardHandler))
	err := c.Run(t.Context(), func() { t.Error("ready") })
	if err == nil || !strings.Contains(err.Error(), "no CA") {
		t.Errorf("error %v", err)
	}
}
