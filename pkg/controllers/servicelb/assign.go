package servicelb

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Reasons of the events that tell why a Service has no address, or not on all nodes.
const (
	reasonPortTaken = "PortTaken"
	reasonNoNode    = "NoNode"
)

// Port is a protocol and a number; both as in a Service.
type Port struct {
	Protocol corev1.Protocol
	Number   int32
}

// String is e.g. "TCP/80", the form in annotations and events.
func (p Port) String() string { return fmt.Sprintf("%s/%d", p.Protocol, p.Number) }

// socket is a port on one address.
type socket struct {
	Port
	address netip.Addr
}

// world is all that an assignment follows from.
type world struct {
	services []*corev1.Service
	nodes    []*corev1.Node
	// reserved are ports that knarr itself listens on, on every node, with what for.
	reserved map[Port]string
	// backends are the nodes that have ready pods of a Service; asked for Services with the policy Local.
	backends func(types.NamespacedName) map[string]bool
	// held is what the last assignment gave each Service: the informers may not show it yet.
	held map[types.UID]holding
}

// holding is what a Service has: the ports that are its own on each node.
type holding map[string]map[Port]bool

func (h holding) add(node string, p Port) {
	if h[node] == nil {
		h[node] = make(map[Port]bool)
	}
	h[node][p] = true
}

// grant is the outcome for one Service.
type grant struct {
	service *corev1.Service
	// holding is set aside for the Service; with the policy Local that is more than what is in its status.
	holding holding
	// ingress is what belongs into the status, in order, never nil.
	ingress []corev1.LoadBalancerIngress
	// reason and problem say what stands in the way; empty for nothing. With an ingress it is that of some nodes only.
	reason, problem string
}

// assign gives nodes to Services. Who has a port keeps it; of those who want it, the older Service gets it. The order of
// the inputs makes no difference.
func assign(w world) []grant {
	nodes := slices.SortedFunc(slices.Values(w.nodes), func(a, b *corev1.Node) int { return cmp.Compare(a.Name, b.Name) })
	places := make([]place, len(nodes))
	for i, n := range nodes {
		places[i] = newPlace(n)
	}
	t := newTable(w)
	var grants []grant
	for _, s := range w.inOrder(places) {
		grants = append(grants, t.serve(s, places))
	}
	return grants
}

// inOrder are the Services that are ours, those first that have nodes, then the older ones.
func (w world) inOrder(places []place) []candidate {
	var list []candidate
	for _, s := range w.services {
		if Ours(s) {
			list = append(list, candidate{Service: s, has: w.holds(s, places)})
		}
	}
	slices.SortFunc(list, func(a, b candidate) int {
		return cmp.Or(
			-cmp.Compare(min(len(a.has), 1), min(len(b.has), 1)),
			a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			cmp.Compare(a.Namespace, b.Namespace),
			cmp.Compare(a.Name, b.Name))
	})
	return list
}

// candidate is a Service with the nodes that it has already.
type candidate struct {
	*corev1.Service
	has holding
}

// holds is what s has by its status or by the last assignment.
func (w world) holds(s *corev1.Service, places []place) holding {
	has := make(holding)
	for node, ports := range w.held[s.UID] {
		has[node] = maps.Clone(ports)
	}
	for _, in := range s.Status.LoadBalancer.Ingress {
		ip, err := netip.ParseAddr(in.IP)
		if err != nil {
			continue // a host name: not from us
		}
		for _, p := range places {
			for _, status := range in.Ports {
				if p.owns(ip) {
					has.add(p.name, Port{status.Protocol, status.Port})
				}
			}
		}
	}
	return has
}

// table is who has which port.
type table struct {
	world
	nodePorts map[Port]types.NamespacedName // on all addresses of all nodes
	sockets   map[socket]types.NamespacedName
}

func newTable(w world) *table {
	t := &table{world: w, nodePorts: make(map[Port]types.NamespacedName), sockets: make(map[socket]types.NamespacedName)}
	for _, s := range w.services {
		for _, sp := range s.Spec.Ports {
			if sp.NodePort != 0 {
				t.nodePorts[Port{sp.Protocol, sp.NodePort}] = key(s)
			}
			for _, text := range s.Spec.ExternalIPs {
				if ip, err := netip.ParseAddr(text); err == nil {
					t.sockets[socket{Port{sp.Protocol, sp.Port}, ip}] = key(s)
				}
			}
		}
	}
	return t
}

// serve gives s every eligible node on which all its ports are free.
func (t *table) serve(s candidate, places []place) grant {
	g := grant{service: s.Service, holding: make(holding), ingress: []corev1.LoadBalancerIngress{}}
	eligible := eligible(s.Service, places)
	if len(eligible) == 0 {
		g.reason, g.problem = reasonNoNode, noNode(s.Service)
		return g
	}
	var given []place
	var taken []string
	for _, p := range eligible {
		holder, free := t.free(s, p)
		switch {
		case free:
			t.claim(s.Service, p)
			g.holding[p.name] = t.own(s, p)
			given = append(given, p)
		case holder != "":
			taken = append(taken, fmt.Sprintf("on node %s %s", p.name, holder))
		}
	}
	if len(taken) > 0 {
		g.reason, g.problem = reasonPortTaken, summary(taken)
	}
	if s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		backends := t.backends(key(s.Service))
		given = slices.DeleteFunc(given, func(p place) bool { return !backends[p.name] })
	}
	g.ingress = append(g.ingress, g.list(alive(given, s.has))...)
	return g
}

// free tells whether s may have all its ports on p. If not, what is in the way; "" as long as the node has not looked.
// Who came first keeps a port, whatever has begun to listen since.
func (t *table) free(s candidate, p place) (holder string, free bool) {
	free = true
	for _, sp := range s.Spec.Ports {
		want := Port{sp.Protocol, sp.Port}
		if by, is := t.reserved[want]; is {
			return fmt.Sprintf("%s is %s", want, by), false
		}
		for _, ip := range p.addresses(s.Service) {
			if by, is := t.sockets[socket{want, ip}]; is && by != key(s.Service) {
				return fmt.Sprintf("%s is held by service %s", want, by), false
			}
		}
		if s.has[p.name][want] {
			continue
		}
		if by, is := t.nodePorts[want]; is {
			return fmt.Sprintf("%s is the node port of service %s", want, by), false
		}
		by, looked := p.report.Ports[want.String()]
		if by != "" {
			return fmt.Sprintf("%s is held by %s", want, by), false
		}
		// A node that serves other ports of s stays: kube-proxy serves the new one too, as soon as it sees it.
		free = free && (looked || len(s.has[p.name]) > 0)
	}
	return "", free
}

// own are the ports of s on p that nobody can contest any more. Of a node that serves other ports already it leaves out
// those that the node has not looked at.
func (t *table) own(s candidate, p place) map[Port]bool {
	own := make(map[Port]bool)
	for _, sp := range s.Spec.Ports {
		want := Port{sp.Protocol, sp.Port}
		if _, looked := p.report.Ports[want.String()]; looked || s.has[p.name][want] {
			own[want] = true
		}
	}
	return own
}

func (t *table) claim(s *corev1.Service, p place) {
	for _, sp := range s.Spec.Ports {
		for _, ip := range p.addresses(s) {
			t.sockets[socket{Port{sp.Protocol, sp.Port}, ip}] = key(s)
		}
	}
}

// list is the status: the addresses of nodes, those that clients should prefer first, each with the ports that are held
// there. A restart knows the holdings from it.
func (g grant) list(nodes []place) []corev1.LoadBalancerIngress {
	mode := corev1.LoadBalancerIPModeVIP
	var first, second []corev1.LoadBalancerIngress
	for _, p := range nodes {
		in := corev1.LoadBalancerIngress{IPMode: &mode}
		for _, sp := range g.service.Spec.Ports {
			if g.holding[p.name][Port{sp.Protocol, sp.Port}] {
				in.Ports = append(in.Ports, corev1.PortStatus{Port: sp.Port, Protocol: sp.Protocol})
			}
		}
		prefer, accept := p.published(g.service)
		for _, ip := range prefer {
			in.IP = ip.String()
			first = append(first, in)
		}
		for _, ip := range accept {
			in.IP = ip.String()
			second = append(second, in)
		}
	}
	return append(first, second...)
}

// shown bounds how many nodes an event names.
const shown = 4

func summary(problems []string) string {
	if more := len(problems) - shown; more > 0 {
		problems = append(problems[:shown:shown], fmt.Sprintf("and the like on %d more nodes", more))
	}
	return strings.Join(problems, "; ")
}

func key(s *corev1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
}
