package servicelb

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// testNode is a ready node that has looked at the ports; report is e.g. "TCP/80 TCP/443=nginx".
func testNode(name, report string, addresses ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}, Annotations: map[string]string{}},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}
	r := Report{Ports: map[string]string{}}
	for item := range strings.FieldsSeq(report) {
		port, holder, _ := strings.Cut(item, "=")
		if ip, ok := strings.CutPrefix(port, "translated:"); ok {
			r.Translated = append(r.Translated, ip)
			continue
		}
		r.Ports[port] = holder
	}
	n.Annotations[AnnotationReport] = r.text()
	for _, a := range addresses {
		kind, ip, external := corev1.NodeInternalIP, a, false
		if ip, external = strings.CutPrefix(a, "ext:"); external {
			kind = corev1.NodeExternalIP
		}
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: kind, Address: ip})
	}
	return n
}

// testService wants TCP ports; age orders the creation, the higher the older.
func testService(name string, age int, ports ...int32) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Labels: map[string]string{},
			CreationTimestamp: metav1.NewTime(time.Unix(1_000_000-int64(age), 0))},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}},
	}
	for _, p := range ports {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Protocol: corev1.ProtocolTCP, Port: p})
	}
	return s
}

// listed gives s the addresses in its status, with all its ports.
func listed(s *corev1.Service, addresses ...string) *corev1.Service {
	for _, a := range addresses {
		in := corev1.LoadBalancerIngress{IP: a}
		for _, p := range s.Spec.Ports {
			in.Ports = append(in.Ports, corev1.PortStatus{Protocol: p.Protocol, Port: p.Port})
		}
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, in)
	}
	return s
}

// with changes one object and returns it.
func with[T any](obj *T, change func(*T)) *T {
	change(obj)
	return obj
}

func label(key, value string) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Labels[key] = value }
}

func notReady(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }

func local(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func TestAssign(t *testing.T) {
	type (
		S = []*corev1.Service
		N = []*corev1.Node
	)
	class := func(c string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.LoadBalancerClass = &c }
	}
	dual := func(s *corev1.Service) {
		s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}
	}
	pool := func(s *corev1.Service) { s.Labels[LabelPool] = "edge" }
	two := func() N { return N{testNode("b", "TCP/80", "10.0.0.2"), testNode("a", "TCP/80", "10.0.0.1")} }
	tests := []struct {
		name     string
		services S
		nodes    N
		want     string // a line for each Service: "name: addresses reason problem"
	}{
		{"every node", S{testService("web", 1, 80)}, two(), "web: 10.0.0.1 10.0.0.2"},
		{"our class", S{with(testService("web", 1, 80), class(Class))}, two(), "web: 10.0.0.1 10.0.0.2"},
		{"another's class", S{with(testService("web", 1, 80), class("x.example/lb"))}, two(), ""},
		{"another type", S{with(testService("web", 1, 80), func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort })}, two(), ""},
		{"the node has not looked", S{testService("web", 1, 80)}, N{testNode("a", "TCP/81", "10.0.0.1")}, "web: "},
		{"no node", S{testService("web", 1, 80)}, nil, "web: NoNode no node that may serve it has an address of [IPv4]"},
		{"not ready", S{testService("web", 1, 80)}, append(two(), with(testNode("c", "TCP/80", "10.0.0.3"), notReady)), "web: 10.0.0.1 10.0.0.2"},
		{"none ready, none listed", S{testService("web", 1, 80)}, N{with(testNode("a", "TCP/80", "10.0.0.1"), notReady)}, "web: "},
		{"none ready, one listed", S{listed(testService("web", 1, 80), "10.0.0.1")}, N{with(testNode("a", "TCP/80", "10.0.0.1"), notReady), with(testNode("b", "TCP/80", "10.0.0.2"), notReady)}, "web: 10.0.0.1"},
		{"excluded", S{testService("web", 1, 80)}, append(two(), with(testNode("c", "TCP/80", "10.0.0.3"), label(corev1.LabelNodeExcludeBalancers, ""))), "web: 10.0.0.1 10.0.0.2"},

		{"dual stack", S{with(testService("web", 1, 80), dual)}, N{testNode("a", "TCP/80", "10.0.0.1", "fd00::1"), testNode("b", "TCP/80", "10.0.0.2")}, "web: fd00::1 10.0.0.1 10.0.0.2"},
		{"no address of the family", S{with(testService("web", 1, 80), func(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} })}, two(),
			"web: NoNode no node that may serve it has an address of [IPv6]"},
		{"external addresses first", S{testService("web", 1, 80)}, N{testNode("a", "TCP/80", "10.0.0.1", "ext:192.0.2.1"), testNode("b", "TCP/80", "10.0.0.2")}, "web: 192.0.2.1 10.0.0.2"},
		{"external addresses behind NAT", S{testService("web", 1, 80)}, N{testNode("a", "TCP/80 translated:192.0.2.1", "10.0.0.1", "ext:192.0.2.1"), testNode("b", "TCP/80", "10.0.0.2")},
			"web: 192.0.2.1 10.0.0.2 10.0.0.1"},

		{"allowed nodes", S{testService("web", 1, 80)}, append(two(), with(testNode("c", "TCP/80", "10.0.0.3"), label(LabelEnable, "true"))), "web: 10.0.0.3"},
		{"pool", S{with(testService("web", 1, 80), pool), testService("all", 2, 81)},
			N{with(testNode("a", "TCP/80 TCP/81", "10.0.0.1"), label(LabelPool, "edge")), testNode("b", "TCP/80 TCP/81", "10.0.0.2")}, "all: 10.0.0.1 10.0.0.2\nweb: 10.0.0.1"},
		{"empty pool", S{with(testService("web", 1, 80), pool)}, two(),
			`web: NoNode no node is in the pool "edge" and has an address of [IPv4]; label nodes with svccontroller.k3s.cattle.io/lbpool=edge`},

		{"the older Service wins", S{testService("young", 1, 80), testService("old", 2, 80)}, two()[1:], "old: 10.0.0.1\nyoung: PortTaken on node a TCP/80 is held by service ns/old"},
		{"who has it keeps it", S{listed(testService("young", 1, 80), "10.0.0.1"), testService("old", 2, 80)}, two()[1:], "young: 10.0.0.1\nold: PortTaken on node a TCP/80 is held by service ns/young"},
		{"all ports or none", S{testService("old", 2, 80), testService("young", 1, 443, 80)}, N{testNode("a", "TCP/80 TCP/443", "10.0.0.1")},
			"old: 10.0.0.1\nyoung: PortTaken on node a TCP/80 is held by service ns/old"},
		{"another protocol", S{testService("old", 2, 80), with(testService("young", 1, 80), func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolUDP })},
			N{testNode("a", "TCP/80 UDP/80", "10.0.0.1")}, "old: 10.0.0.1\nyoung: 10.0.0.1"},
		{"knarr's own", S{listed(testService("web", 1, 6443), "10.0.0.1")}, two()[1:], "web: PortTaken on node a TCP/6443 is the API"},
		{"a listener", S{testService("web", 1, 80)}, N{testNode("a", "TCP/80=nginx", "10.0.0.1")}, "web: PortTaken on node a TCP/80 is held by nginx"},
		{"a listener on one of two", S{testService("web", 1, 80)}, N{testNode("a", "TCP/80=nginx", "10.0.0.1"), testNode("b", "TCP/80", "10.0.0.2")},
			"web: 10.0.0.2 PortTaken on node a TCP/80 is held by nginx"},
		{"a listener that came later", S{listed(testService("web", 1, 80), "10.0.0.1")}, N{testNode("a", "TCP/80=nginx", "10.0.0.1")}, "web: 10.0.0.1"},
		{"a port added later", S{with(listed(testService("web", 1, 80), "10.0.0.1"), func(s *corev1.Service) {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Protocol: "TCP", Port: 81})
		})}, two()[1:], "web: 10.0.0.1"},
		{"a port added later that is taken", S{with(listed(testService("web", 1, 80), "10.0.0.1"), func(s *corev1.Service) {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Protocol: "TCP", Port: 81})
		})}, N{testNode("a", "TCP/80 TCP/81=nginx", "10.0.0.1")}, "web: PortTaken on node a TCP/81 is held by nginx"},
		{"a node port", S{testService("web", 1, 30080), with(testService("np", 1, 80), func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort; s.Spec.Ports[0].NodePort = 30080 })},
			N{testNode("a", "TCP/30080", "10.0.0.1")}, "web: PortTaken on node a TCP/30080 is the node port of service ns/np"},
		{"an external IP", S{testService("web", 1, 80), with(testService("ext", 1, 80), func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeClusterIP
			s.Spec.ExternalIPs = []string{"10.0.0.1"}
		})}, two(), "web: 10.0.0.2 PortTaken on node a TCP/80 is held by service ns/ext"},
		{"taken on many", S{testService("web", 1, 80)}, N{testNode("a", "TCP/80=x", "10.0.0.1"), testNode("b", "TCP/80=x", "10.0.0.2"), testNode("c", "TCP/80=x", "10.0.0.3"),
			testNode("d", "TCP/80=x", "10.0.0.4"), testNode("e", "TCP/80=x", "10.0.0.5"), testNode("f", "TCP/80=x", "10.0.0.6")},
			"web: PortTaken on node a TCP/80 is held by x; on node b TCP/80 is held by x; on node c TCP/80 is held by x; on node d TCP/80 is held by x; and the like on 2 more nodes"},

		{"policy Local", S{with(testService("web", 1, 80), local)}, two(), "web: 10.0.0.2"},
		{"policy Local sets the port aside everywhere", S{with(testService("web", 2, 80), local), testService("late", 1, 80)}, two(),
			"web: 10.0.0.2\nlate: PortTaken on node a TCP/80 is held by service ns/web; on node b TCP/80 is held by service ns/web"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := world{services: tt.services, nodes: tt.nodes, reserved: map[Port]string{{corev1.ProtocolTCP, 6443}: "the API"},
				backends: func(types.NamespacedName) map[string]bool { return map[string]bool{"b": true} }}
			if got := describe(assign(w)); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
			slices.Reverse(w.services)
			slices.Reverse(w.nodes)
			if got := describe(assign(w)); got != tt.want {
				t.Errorf("in another order\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func describe(grants []grant) string {
	var lines []string
	for _, g := range grants {
		line := strings.Join(texts(g.ingress), " ")
		if g.problem != "" {
			line = strings.TrimSpace(line + " " + g.reason + " " + g.problem)
		}
		lines = append(lines, g.service.Name+": "+line)
	}
	return strings.Join(lines, "\n")
}

// A Service keeps what it was given while the informer still shows it without.
func TestAssignRemembers(t *testing.T) {
	w := world{services: []*corev1.Service{testService("b", 1, 80)}, nodes: []*corev1.Node{testNode("n", "TCP/80", "10.0.0.1")}}
	w.held = map[types.UID]holding{}
	for _, g := range assign(w) {
		w.held[g.service.UID] = g.holding
	}
	w.services = append(w.services, testService("a", 1, 80)) // as old, first by name
	want := "b: 10.0.0.1\na: PortTaken on node n TCP/80 is held by service ns/b"
	if got := describe(assign(w)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// What the status says is what the next start knows.
func TestIngressCarriesThePorts(t *testing.T) {
	w := world{services: []*corev1.Service{testService("web", 1, 80, 443)}, nodes: []*corev1.Node{testNode("n", "TCP/80 TCP/443", "10.0.0.1")}}
	in := assign(w)[0].ingress
	if got, want := fmt.Sprintln(len(in), *in[0].IPMode, in[0].Ports), "1 VIP [{80 TCP <nil>} {443 TCP <nil>}]\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A port added to a Service is its own only when the node has looked.
func TestAddedPortIsContested(t *testing.T) {
	s := listed(testService("web", 1, 80), "10.0.0.1")
	s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Protocol: corev1.ProtocolTCP, Port: 81})
	w := world{services: []*corev1.Service{s}, nodes: []*corev1.Node{testNode("n", "TCP/80", "10.0.0.1")}}
	g := assign(w)[0]
	if got, want := fmt.Sprintln(g.holding, g.ingress[0].Ports), "map[n:map[TCP/80:true]] [{80 TCP <nil>}]\n"; got != want {
		t.Errorf("before the node has looked: got %s, want %s", got, want)
	}
	w.held = map[types.UID]holding{s.UID: g.holding}
	w.nodes[0] = testNode("n", "TCP/80 TCP/81=nginx", "10.0.0.1")
	if got, want := describe(assign(w)), "web: PortTaken on node n TCP/81 is held by nginx"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	w.nodes[0] = testNode("n", "TCP/80 TCP/81", "10.0.0.1")
	if got, want := fmt.Sprintln(assign(w)[0].holding), "map[n:map[TCP/80:true TCP/81:true]]\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
