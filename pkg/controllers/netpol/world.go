package netpol

import (
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// pod is what policies need to know about a pod. The informer holds it in place of the Pod, which is some fifty times
// as large.
type pod struct {
	metav1.ObjectMeta // name, namespace, UID, labels and resource version only
	node              string
	sandbox           types.UID    // that the runtime knows the pod by
	ips               []netip.Addr // as the API has them
	ports             []namedPort
	// outside says that no policy is about this pod: it has the host's network, or none any more.
	outside bool
}

type namedPort struct {
	name   string
	proto  uint8
	number uint16
}

// trimPod is an informer's transformer. It may see its own results again.
func trimPod(obj any) (any, error) {
	p, ok := obj.(*corev1.Pod)
	if !ok {
		return obj, nil
	}
	t := &pod{
		ObjectMeta: trimMeta(p.ObjectMeta),
		node:       p.Spec.NodeName,
		sandbox:    p.UID,
		outside:    p.Spec.HostNetwork || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed,
	}
	if static := p.Annotations[corev1.MirrorPodAnnotationKey]; static != "" {
		t.sandbox = types.UID(static) // the Pod only mirrors what the kubelet has started
	}
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil { // the API has seen to it
			t.ips = append(t.ips, a.Unmap())
		}
	}
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		for _, port := range c.Ports {
			if port.Name != "" {
				t.ports = append(t.ports, namedPort{port.Name, protocol(port.Protocol), uint16(port.ContainerPort)})
			}
		}
	}
	return t, nil
}

// same tells whether policies see no difference between p and o.
func (p *pod) same(o *pod) bool {
	return p.UID == o.UID && p.sandbox == o.sandbox && p.node == o.node && p.outside == o.outside && slices.Equal(p.ips, o.ips) &&
		slices.Equal(p.ports, o.ports) && maps.Equal(p.Labels, o.Labels)
}

// trimNamespace keeps what selectors need; it may see its own results again.
func trimNamespace(obj any) (any, error) {
	if n, ok := obj.(*corev1.Namespace); ok {
		return &corev1.Namespace{ObjectMeta: trimMeta(n.ObjectMeta)}, nil
	}
	return obj, nil
}

func trimMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: m.Name, Namespace: m.Namespace, UID: m.UID, Labels: m.Labels, ResourceVersion: m.ResourceVersion}
}

// IP protocol numbers.
const (
	tcp  = 6
	udp  = 17
	sctp = 132
)

func protocol(p corev1.Protocol) uint8 {
	switch p {
	case corev1.ProtocolUDP:
		return udp
	case corev1.ProtocolSCTP:
		return sctp
	default:
		return tcp
	}
}

func protocolName(p uint8) string {
	return map[uint8]string{tcp: "tcp", udp: "udp", sctp: "sctp"}[p]
}

// world is the state of the cluster from which rules are made.
type world struct {
	node       string
	policies   []*networkingv1.NetworkPolicy
	pods       []*pod
	namespaces map[string]labels.Set
	// sandboxes are this node's pods as the CNI plugins have recorded them: earlier than the API knows.
	sandboxes map[sandboxOf]sandbox
}

// resolve gives each pod of this node the addresses that it has now. One that the CNI plugins gave to a pod belongs to
// nobody else, whatever the API still says.
func (w *world) resolve() map[*pod][]netip.Addr {
	claimed := map[netip.Addr]sandboxOf{}
	for of, s := range w.sandboxes {
		for _, a := range s.ips {
			claimed[a] = of
		}
	}
	has := make(map[*pod][]netip.Addr, len(w.pods))
	for _, p := range w.pods {
		if p.outside {
			continue
		}
		of := sandboxOf{p.Namespace, p.Name, p.sandbox}
		s, known := w.sandboxes[of]
		if !known { // a runtime that does not tell the UID
			of.uid = ""
			s, known = w.sandboxes[of]
		}
		if known && p.node == w.node {
			has[p] = s.ips
			continue
		}
		for _, a := range p.ips {
			if _, taken := claimed[a]; !taken {
				has[p] = append(has[p], a)
			}
		}
	}
	return has
}
