package servicelb

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Class is the loadBalancerClass of Services that are ours; those without a class are ours too.
const Class = "knarr.io/servicelb"

// Labels of node pools, by the names that k3s gave them.
const (
	// LabelEnable on any node leaves Services to those nodes on which it is "true".
	LabelEnable = "svccontroller.k3s.cattle.io/enablelb"
	// LabelPool on a Service leaves it to the nodes with the same value.
	LabelPool = "svccontroller.k3s.cattle.io/lbpool"
)

// Ours tells whether s is to be served by this load balancer.
func Ours(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.DeletionTimestamp == nil &&
		(s.Spec.LoadBalancerClass == nil || *s.Spec.LoadBalancerClass == Class)
}

// place is a node as the assignment sees it.
type place struct {
	*corev1.Node
	name               string
	internal, external []netip.Addr
	report             Report
	ready              bool
}

func newPlace(n *corev1.Node) place {
	p := place{Node: n, name: n.Name, report: readReport(n)}
	for _, a := range n.Status.Addresses {
		ip, err := netip.ParseAddr(a.Address)
		switch {
		case err != nil: // a name
		case a.Type == corev1.NodeInternalIP:
			p.internal = append(p.internal, ip)
		case a.Type == corev1.NodeExternalIP:
			p.external = append(p.external, ip)
		}
	}
	p.ready = slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
	return p
}

func (p place) owns(ip netip.Addr) bool {
	return slices.Contains(p.internal, ip) || slices.Contains(p.external, ip)
}

// published are the addresses of p for the families of s: the external ones of each family, if there are any, else the
// internal. second are internal addresses that must be served although clients should not use them: an external address
// that no link of the host has is translated on the way, and what arrives is for the internal one.
func (p place) published(s *corev1.Service) (first, second []netip.Addr) {
	for _, family := range s.Spec.IPFamilies {
		is := func(ip netip.Addr) bool { return ip.Is6() == (family == corev1.IPv6Protocol) }
		external, internal := keep(p.external, is), keep(p.internal, is)
		if len(external) == 0 {
			first = append(first, internal...)
			continue
		}
		first = append(first, external...)
		if slices.ContainsFunc(external, func(ip netip.Addr) bool { return slices.Contains(p.report.Translated, ip.String()) }) {
			second = append(second, internal...)
		}
	}
	return first, second
}

// addresses are all that published has.
func (p place) addresses(s *corev1.Service) []netip.Addr {
	first, second := p.published(s)
	return append(first, second...)
}

func keep(ips []netip.Addr, is func(netip.Addr) bool) (kept []netip.Addr) {
	for _, ip := range ips {
		if is(ip) {
			kept = append(kept, ip)
		}
	}
	return kept
}

// eligible are the nodes that may serve s: those of its pool, with an address of its families.
func eligible(s *corev1.Service, places []place) []place {
	chosen := slices.ContainsFunc(places, func(p place) bool { return p.Labels[LabelEnable] != "" })
	pool := s.Labels[LabelPool]
	return slices.DeleteFunc(slices.Clone(places), func(p place) bool {
		_, excluded := p.Labels[corev1.LabelNodeExcludeBalancers]
		return excluded || p.DeletionTimestamp != nil ||
			chosen && p.Labels[LabelEnable] != "true" ||
			pool != "" && p.Labels[LabelPool] != pool ||
			len(p.addresses(s)) == 0
	})
}

// alive are the nodes to list: the ready ones. When none is ready, those listed already stay, since what the kubelet has
// does not tell that packets are not served.
func alive(places []place, has holding) []place {
	ready := slices.DeleteFunc(slices.Clone(places), func(p place) bool { return !p.ready })
	if len(ready) > 0 {
		return ready
	}
	return slices.DeleteFunc(slices.Clone(places), func(p place) bool { return len(has[p.name]) == 0 })
}

// noNode says what a node would need.
func noNode(s *corev1.Service) string {
	if pool := s.Labels[LabelPool]; pool != "" {
		return fmt.Sprintf("no node is in the pool %q and has an address of %v; label nodes with %s=%s", pool, s.Spec.IPFamilies, LabelPool, pool)
	}
	return fmt.Sprintf("no node that may serve it has an address of %v", s.Spec.IPFamilies)
}
