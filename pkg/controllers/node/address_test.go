package node

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestWanted(t *testing.T) {
	byKubelet := []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.9"}, {Type: corev1.NodeHostName, Address: "host-a"}}
	tests := []struct {
		name        string
		annotations map[string]string
		has         []corev1.NodeAddress
		want        string
		err         string // part of it; "" for none
	}{
		{"everything, dual stack", map[string]string{
			AnnotationInternalIP:  "10.0.0.1,fd00::1",
			AnnotationExternalIP:  "fd01::1, 192.0.2.1",
			AnnotationInternalDNS: "a.internal",
			AnnotationExternalDNS: "a.example,b.example",
			AnnotationHostname:    "host-b",
		}, byKubelet, "InternalIP=10.0.0.1 InternalIP=fd00::1 ExternalIP=fd01::1 ExternalIP=192.0.2.1 " +
			"InternalDNS=a.internal ExternalDNS=a.example ExternalDNS=b.example Hostname=host-b", ""},
		{"as the kubelet was told", map[string]string{"alpha.kubernetes.io/provided-node-ip": "10.0.0.2,fd00::2"}, nil,
			"InternalIP=10.0.0.2 InternalIP=fd00::2 Hostname=n", ""},
		{"ours before the kubelet's", map[string]string{AnnotationInternalIP: "10.0.0.1", "alpha.kubernetes.io/provided-node-ip": "10.0.0.2"}, byKubelet,
			"InternalIP=10.0.0.1 Hostname=host-a", ""},
		{"nothing announced", nil, byKubelet, "InternalIP=10.0.0.9 Hostname=host-a", ""},
		{"external address withdrawn", map[string]string{AnnotationInternalIP: "10.0.0.9"},
			append([]corev1.NodeAddress{{Type: corev1.NodeExternalIP, Address: "192.0.2.1"}}, byKubelet...), "InternalIP=10.0.0.9 Hostname=host-a", ""},
		{"nothing known", nil, nil, "Hostname=n", ""},
		{"twice the same", map[string]string{AnnotationInternalIP: "fd00::1,fd00:0::1"}, nil, "InternalIP=fd00::1 Hostname=n", ""},
		{"empty items", map[string]string{AnnotationInternalIP: " ,10.0.0.1,"}, nil, "InternalIP=10.0.0.1 Hostname=n", ""},
		{"unreadable ones are left out", map[string]string{AnnotationInternalIP: "10.0.0.1,10.0.0", AnnotationExternalDNS: "a b"}, nil,
			"InternalIP=10.0.0.1 Hostname=n", "annotation knarr.io/internal-ip: \"10.0.0\": not an IP address\nannotation knarr.io/external-dns: \"a b\": not a host name"},
		{"none readable", map[string]string{AnnotationInternalIP: "x"}, byKubelet, "InternalIP=10.0.0.9 Hostname=host-a", "not an IP address"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Annotations: tt.annotations}, Status: corev1.NodeStatus{Addresses: tt.has}}
			list, err := wanted(n)
			if got := strings.Join(texts(list), " "); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

// What a node announces must be what the controller reads.
func TestAnnouncementIsUnderstood(t *testing.T) {
	a := Addresses{
		InternalIPs: []netip.Addr{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("10.0.0.1")},
		ExternalIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		InternalDNS: []string{"a.internal", "b.internal"},
		ExternalDNS: []string{"a.example"},
	}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Annotations: a.annotations("n")}}
	list, err := wanted(n)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"InternalIP=fd00::1", "InternalIP=10.0.0.1", "ExternalIP=192.0.2.1", "InternalDNS=a.internal",
		"InternalDNS=b.internal", "ExternalDNS=a.example", "Hostname=n"}
	if got := texts(list); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestInitPatch(t *testing.T) {
	taint := func(key string) corev1.Taint { return corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule} }
	const cloud = "node.cloudprovider.kubernetes.io/uninitialized"
	tests := []struct {
		name string
		spec corev1.NodeSpec
		want []operation
	}{
		{"new", corev1.NodeSpec{Taints: []corev1.Taint{taint("a"), taint(cloud)}}, []operation{
			{"add", "/spec/providerID", "knarr://n"}, {"test", "/spec/taints/1/key", cloud}, {"remove", "/spec/taints/1", nil}}},
		{"provider ID of the user's", corev1.NodeSpec{ProviderID: "x://y", Taints: []corev1.Taint{taint(cloud)}}, []operation{
			{"test", "/spec/taints/0/key", cloud}, {"remove", "/spec/taints/0", nil}}},
		{"tainted twice", corev1.NodeSpec{ProviderID: "x", Taints: []corev1.Taint{taint(cloud), taint("a"), taint(cloud)}}, []operation{
			{"test", "/spec/taints/2/key", cloud}, {"remove", "/spec/taints/2", nil}, {"test", "/spec/taints/0/key", cloud}, {"remove", "/spec/taints/0", nil}}},
		{"done", corev1.NodeSpec{ProviderID: "knarr://n", Taints: []corev1.Taint{taint("a")}}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := initPatch(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Spec: tt.spec})
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
