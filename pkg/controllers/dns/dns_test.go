package dns

import (
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/knarr-io/knarr/tests/bed"
	"github.com/knarr-io/knarr/tests/bed/api"
)

func node(name string, labels map[string]string, addresses ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	for _, text := range addresses {
		kind, address, _ := strings.Cut(text, "=")
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeAddressType(kind), Address: address})
	}
	return n
}

func TestNodeHosts(t *testing.T) {
	tests := []struct {
		name  string
		nodes []*corev1.Node
		want  string
	}{
		{"none", nil, ""},
		{"one", []*corev1.Node{node("a", nil, "InternalIP=192.0.2.1", "Hostname=a", "ExternalIP=198.51.100.1")}, "192.0.2.1 a\n"},
		{"in order, dual stack", []*corev1.Node{node("b", nil, "InternalIP=192.0.2.2", "InternalIP=2001:db8::2"), node("a", nil, "InternalIP=192.0.2.1")},
			"192.0.2.1 a\n192.0.2.2 b\n2001:db8::2 b\n"},
		{"other names", []*corev1.Node{node("a", nil, "InternalIP=192.0.2.1", "Hostname=box", "InternalDNS=a.example", "InternalDNS=a")}, "192.0.2.1 a box a.example\n"},
		{"without address", []*corev1.Node{node("a", nil, "Hostname=a")}, ""},
		{"a name that is none", []*corev1.Node{node("a", nil, "InternalIP=192.0.2.1", "Hostname=x\n192.0.2.9 bank.example", "InternalDNS=#")}, "192.0.2.1 a\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := nodeHosts(tt.nodes); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestPlace(t *testing.T) {
	label := func(value string) map[string]string { return map[string]string{placeLabel: value} }
	server := map[string]string{controlPlane: "true"}
	young := node("a-young", nil)
	young.CreationTimestamp = metav1.NewTime(time.Unix(1e9, 0))
	tests := []struct {
		name  string
		nodes []*corev1.Node
		want  map[string]bool
	}{
		{"none", nil, nil},
		{"agents only, the oldest", []*corev1.Node{young, node("c", nil), node("b", nil)}, map[string]bool{"b": true, "c": true}},
		{"one agent", []*corev1.Node{node("a", nil)}, map[string]bool{"a": true}},
		{"done", []*corev1.Node{node("x", label(auto)), node("y", label(auto)), node("a", nil)}, nil},
		{"one is gone", []*corev1.Node{node("x", label(auto)), node("a", nil), node("b", nil)}, map[string]bool{"a": true}},
		{"a server's node came", []*corev1.Node{node("x", label(auto)), node("s", server)}, map[string]bool{"x": false}},
		{"the user says where", []*corev1.Node{node("x", label(auto)), node("y", label("true")), node("a", nil)}, map[string]bool{"x": false}},
		{"the user says where not", []*corev1.Node{node("x", label("false")), node("y", nil)}, map[string]bool{"y": true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := place(tt.nodes); !maps.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// start runs the controller until the test ends.
func start(t *testing.T, c Config, client kubernetes.Interface) {
	t.Helper()
	bed.Run(t, New(c, api.Client(client), api.Informers(t, client), slog.New(slog.DiscardHandler)))
}

// eventually waits until what is there is as wanted.
func eventually(t *testing.T, what, want string, get func() string) {
	t.Helper()
	bed.Eventually(t, what, func() error {
		if got := get(); got != want {
			return fmt.Errorf("it is %q, want %q", got, want)
		}
		return nil
	})
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Data: data}
}

func TestNodeNamesFollowTheNodes(t *testing.T) {
	ctx := t.Context()
	client := fake.NewClientset(node("a", nil, "InternalIP=192.0.2.1"), configMap("other", nil))
	start(t, Config{}, client)
	maps := client.CoreV1().ConfigMaps(namespace)
	hosts := func() string {
		m, err := maps.Get(ctx, ownConfig, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		return m.Data["Corefile"] + m.Data[hostsKey]
	}
	if _, err := maps.Create(ctx, configMap(ownConfig, map[string]string{"Corefile": "C:"}), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the ConfigMap", "C:192.0.2.1 a\n", hosts)
	if _, err := client.CoreV1().Nodes().Create(ctx, node("b", nil, "InternalIP=192.0.2.2"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the ConfigMap", "C:192.0.2.1 a\n192.0.2.2 b\n", hosts)
	if err := client.CoreV1().Nodes().Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the ConfigMap", "C:192.0.2.2 b\n", hosts)
	m, err := maps.Get(ctx, ownConfig, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m.Data[hostsKey] = "by hand"
	if _, err := maps.Update(ctx, m, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the ConfigMap", "C:192.0.2.2 b\n", hosts)
}

func TestWithoutNameServerNothingIsMade(t *testing.T) {
	client := fake.NewClientset(node("a", nil, "InternalIP=192.0.2.1"))
	start(t, Config{Place: true}, client)
	eventually(t, "the label", auto, func() string { // the last thing that there is to do
		n, err := client.CoreV1().Nodes().Get(t.Context(), "a", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		return n.Labels[placeLabel]
	})
	list, err := client.CoreV1().ConfigMaps("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) > 0 {
		t.Errorf("there are %d ConfigMaps, want none", len(list.Items))
	}
}

func TestChangesAreAnnouncedToThePods(t *testing.T) {
	ctx := t.Context()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "coredns-x", Namespace: namespace, Labels: map[string]string{"k8s-app": "kube-dns"}}}
	other := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "other", Namespace: namespace}}
	client := fake.NewClientset(pod, other, configMap(ownConfig, map[string]string{"Corefile": "C:"}))
	start(t, Config{}, client)
	annotation := func(name string) string {
		p, err := client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		return p.Annotations[configAnnotation]
	}
	before := annotation("coredns-x")
	for _, text := range []string{"one", "two"} {
		custom := configMap(userConfig, map[string]string{"a.override": text})
		var err error
		if text == "one" {
			_, err = client.CoreV1().ConfigMaps(namespace).Create(ctx, custom, metav1.CreateOptions{})
		} else {
			_, err = client.CoreV1().ConfigMaps(namespace).Update(ctx, custom, metav1.UpdateOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "whether the pod has been told", "yes", func() string {
			if annotation("coredns-x") != before {
				return "yes"
			}
			return "no"
		})
		before = annotation("coredns-x")
	}
	if got := annotation("other"); got != "" {
		t.Errorf("another pod was told, too: %q", got)
	}
}
