package netpol

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// kubePod is a Pod as the API has it; ips are those of its status.
func kubePod(namespace, name, node string, lbls map[string]string, ips ...string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(namespace + "-" + name), Labels: lbls},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "main", Ports: []corev1.ContainerPort{
			{Name: "web", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}, {Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP}, {ContainerPort: 9}}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	for _, ip := range ips {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	return p
}

func trimmed(t testing.TB, p *corev1.Pod) *pod {
	t.Helper()
	obj, err := trimPod(p)
	if err != nil {
		t.Fatal(err)
	}
	return obj.(*pod)
}

// policyOf reads a NetworkPolicy's spec.
func policyOf(t testing.TB, namespace, name, spec string) *networkingv1.NetworkPolicy {
	t.Helper()
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
		t.Fatal(err)
	}
	return p
}

// town is a world for most tests: two nodes, two namespaces, both families.
func town(t testing.TB) *world {
	t.Helper()
	db, web := map[string]string{"app": "db"}, map[string]string{"app": "web"}
	w := &world{node: "here", namespaces: map[string]labels.Set{"shop": {"team": "a"}, "lab": {"team": "b"}}}
	for _, p := range []*corev1.Pod{
		kubePod("shop", "db-0", "here", db, "10.42.0.2", "fd42::2"),
		kubePod("shop", "web-0", "here", web, "10.42.0.3", "fd42::3"),
		kubePod("shop", "web-1", "there", web, "10.42.1.3", "fd42:0:0:1::3"),
		kubePod("lab", "web-2", "there", web, "10.42.1.4", "fd42:0:0:1::4"),
		kubePod("lab", "db-1", "here", db, "10.42.0.4", "fd42::4"),
	} {
		w.pods = append(w.pods, trimmed(t, p))
	}
	host := kubePod("shop", "host", "here", web, "192.0.2.1")
	host.Spec.HostNetwork = true
	done := kubePod("shop", "done", "here", web, "10.42.0.9")
	done.Status.Phase = corev1.PodSucceeded
	w.pods = append(w.pods, trimmed(t, host), trimmed(t, done), trimmed(t, kubePod("shop", "new", "here", web)))
	return w
}

func addrs(texts ...string) (list []netip.Addr) {
	for _, s := range texts {
		list = append(list, netip.MustParseAddr(s))
	}
	return list
}

// crowd is n pods and m policies: each policy of one of the namespaces selects some pods and allows some others on a
// port, an address block and a namespace.
func crowd(t testing.TB, pods, policies int) (list []*corev1.Pod, namespaces []*corev1.Namespace, all []*networkingv1.NetworkPolicy) {
	t.Helper()
	const spaces = 10
	for i := range spaces {
		name := fmt.Sprintf("ns-%d", i)
		namespaces = append(namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"name": name}}})
	}
	for i := range pods {
		l := map[string]string{"app": fmt.Sprintf("app-%d", i/spaces%20), "name": fmt.Sprintf("pod-%d", i)}
		list = append(list, kubePod(fmt.Sprintf("ns-%d", i%spaces), fmt.Sprintf("pod-%d", i), "here", l, fmt.Sprintf("10.42.%d.%d", i/250, 2+i%250)))
	}
	for i := range policies {
		space := fmt.Sprintf("ns-%d", i%spaces)
		all = append(all, policyOf(t, space, fmt.Sprintf("policy-%d", i), fmt.Sprintf(`
podSelector: {matchLabels: {app: app-%d}}
policyTypes: [Ingress, Egress]
ingress:
- from:
  - podSelector: {matchLabels: {app: app-%d}}
  - namespaceSelector: {matchLabels: {name: ns-%d}}
  - ipBlock: {cidr: 198.51.%d.0/24, except: [198.51.%d.128/25]}
  ports: [{port: %d}, {port: web}]
egress:
- to: [{namespaceSelector: {}}]
  ports: [{port: 53, protocol: UDP}]
`, i/spaces%20, (i/spaces+1)%20, (i+3)%spaces, i%250, i%250, 1000+i)))
	}
	return list, namespaces, all
}

// await polls, since the kernel calls nobody back, until is; it fails with what state tells.
func await(t testing.TB, state func() string, is func() bool) {
	t.Helper()
	limit, tick := time.NewTimer(20*time.Second), time.NewTicker(2*time.Millisecond)
	defer limit.Stop()
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatal(state())
		}
	}
}
