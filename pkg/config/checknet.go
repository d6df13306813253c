package config

import (
	"net/netip"
	"slices"
	"strings"
)

// checkRanges looks at the ranges of pods, services and node ports.
func (l *loader) checkRanges(s *Server) {
	pods, services := s.Network.ClusterCIDRs, s.Network.ServiceCIDRs
	podsFine := l.fine("cluster-cidr") && l.oneOfEach("cluster-cidr", rangeFamilies(pods))
	servicesFine := l.fine("service-cidr") && l.oneOfEach("service-cidr", rangeFamilies(services))
	if podsFine && pods.Len() == 0 {
		l.conflict("cluster-cidr", "has no range; want one or one of each IP family")
		podsFine = false
	}
	if servicesFine && services.Len() == 0 {
		l.conflict("service-cidr", "has no range; want one or one of each IP family")
		servicesFine = false
	}
	if podsFine {
		l.checkPodRanges(s)
	}
	if servicesFine {
		l.checkServiceRanges(s)
	}
	if podsFine && servicesFine {
		l.checkOverlap(s)
	}
	if l.fine("https-listen-port", "service-node-port-range") && s.Network.NodePorts.Contains(s.Listener.Port) {
		l.conflict("https-listen-port", "%d is in the range %s of --service-node-port-range", s.Listener.Port, s.Network.NodePorts)
	}
}

// checkPodRanges sees to it that a range holds at least one node's share, and
// for IPv6 at most 2^16 (pkg/controller/nodeipam/ipam/cidrset/cidr_set.go:82).
// With a share of the user's the controller manager itself has to judge.
func (l *loader) checkPodRanges(s *Server) {
	for _, arg := range s.Args.ControllerManager.All() {
		if strings.HasPrefix(arg, "node-cidr-mask-size") || strings.HasPrefix(arg, "allocate-node-cidrs") {
			return
		}
	}
	for _, p := range s.Network.ClusterCIDRs.All() {
		switch {
		case p.Addr().Is4() && p.Bits() > 24:
			l.conflict("cluster-cidr", "%s is too small: a node takes a /24 of it; want a /24 or larger", p)
		case p.Addr().Is6() && (p.Bits() > 64 || p.Bits() < 48):
			l.conflict("cluster-cidr", "%s does not fit: a node takes a /64 of it; want from /48 to /64", p)
		}
	}
}

// checkServiceRanges sees to it that the DNS service's address is in the range.
func (l *loader) checkServiceRanges(s *Server) {
	if !l.fine("cluster-dns") {
		return
	}
	for _, p := range s.Network.ServiceCIDRs.All() {
		if s.Network.DNS.Len() == 0 && !nth(p, 10).IsValid() {
			l.conflict("service-cidr", "%s is too small: its tenth address is the cluster's DNS; want a larger one or --cluster-dns", p)
		}
	}
	if !l.oneOfEach("cluster-dns", families(s.Network.DNS.items)) {
		return
	}
	for _, dns := range s.Network.DNS.All() {
		holds := func(p netip.Prefix) bool { return p.Contains(dns) }
		switch {
		case !slices.ContainsFunc(s.Network.ServiceCIDRs.items, holds):
			l.conflict("cluster-dns", "%s is not in --service-cidr %s", dns, joined(s.Network.ServiceCIDRs))
		case dns == s.Network.APIServiceIP():
			l.conflict("cluster-dns", "%s is the address of the API's own service; want another of --service-cidr", dns)
		}
	}
}

// checkOverlap compares the ranges with each other and with the node.
func (l *loader) checkOverlap(s *Server) {
	pods, services := s.Network.ClusterCIDRs, s.Network.ServiceCIDRs
	if !slices.Equal(rangeFamilies(pods), rangeFamilies(services)) {
		l.conflict("service-cidr", "%s does not match --cluster-cidr %s; want the same IP families in the same order",
			joined(services), joined(pods))
	}
	for _, p := range services.All() {
		for _, q := range pods.All() {
			if p.Overlaps(q) {
				l.conflict("service-cidr", "%s overlaps --cluster-cidr %s", p, q)
			}
		}
	}
	for _, name := range []string{"cluster-cidr", "service-cidr"} {
		ranges := pods
		if name == "service-cidr" {
			ranges = services
		}
		for _, ip := range s.Node.IPs.All() {
			for _, p := range ranges.All() {
				if p.Contains(ip) {
					l.conflict("node-ip", "%s is in --%s %s, which the node's network must not overlap", ip, name, p)
				}
			}
		}
	}
}

// checkAddresses sees to it that the node and the API can be reached over the
// primary family, as kube-apiserver demands
// (cmd/kube-apiserver/app/options/validation.go:108).
func (l *loader) checkAddresses(s *Server) {
	if !l.fine("service-cidr") || s.Network.ServiceCIDRs.Len() == 0 {
		return
	}
	six := s.Network.PrimaryIPv6()
	family := "IPv4"
	if six {
		family = "IPv6"
	}
	if a := s.Listener.AdvertiseAddress; a.IsValid() && a.Is6() != six {
		l.conflict("advertise-address", "%s does not match --service-cidr %s; want an %s address", a, joined(s.Network.ServiceCIDRs), family)
	}
	if ips := s.Node.IPs; ips.Len() > 0 && l.fine("node-ip") && !slices.Contains(families(ips.items), six) {
		l.conflict("node-ip", "%s does not match --service-cidr %s; want an %s address among them", joined(ips), joined(s.Network.ServiceCIDRs), family)
	}
}

// joined writes a list as a user would.
func joined[T interface{ String() string }](list List[T]) string {
	var texts []string
	for _, x := range list.All() {
		texts = append(texts, x.String())
	}
	return strings.Join(texts, ",")
}
