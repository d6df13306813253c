package flannel

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/flannel-io/flannel/pkg/backend"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/pkg/upstream/host"
)

// device is the interface for traffic between nodes with this host's addresses on it, and the addresses that other nodes
// are told where those are not good for them.
func (c *Component) device(v4, v6 bool) (*backend.ExternalInterface, []netip.Addr, error) {
	link, err := c.link()
	if err != nil {
		return nil, nil, err
	}
	name := link.Attrs().Name
	iface, err := net.InterfaceByName(name)
	if err != nil {
		return nil, nil, fmt.Errorf("look at interface %s: %w", name, err)
	}
	d := &backend.ExternalInterface{Iface: iface, IfaceName: name}
	public := slices.Clone(c.config.PublicIPs)
	for _, f := range []struct {
		wanted bool
		six    bool
		iface  *net.IP
		ext    *net.IP
	}{{v4, false, &d.IfaceAddr, &d.ExtAddr}, {v6, true, &d.IfaceV6Addr, &d.ExtV6Addr}} {
		if !f.wanted {
			continue
		}
		local, elsewhere, err := c.localAddress(link, f.six)
		if err != nil {
			return nil, nil, err
		}
		*f.iface, *f.ext = local.AsSlice(), local.AsSlice()
		if elsewhere.IsValid() && !slices.ContainsFunc(public, func(a netip.Addr) bool { return a.Is6() == f.six }) {
			public = append(public, elsewhere)
		}
	}
	return d, public, nil
}

// link is the interface that the user named, else the one with a node address, else the one of the host's own address.
func (c *Component) link() (netlink.Link, error) {
	if c.config.Interface != "" {
		link, err := netlink.LinkByName(c.config.Interface)
		if err != nil {
			return nil, fmt.Errorf("find the interface for traffic between nodes, --flannel-iface %s: %w", c.config.Interface, err)
		}
		return link, nil
	}
	own, err := host.Addresses()
	if err != nil {
		return nil, fmt.Errorf("find the interface for traffic between nodes (set --flannel-iface): %w", err)
	}
	addrs, err := netlink.AddrList(nil, unix.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("list this host's addresses: %w", err)
	}
	for _, want := range slices.Concat(c.config.NodeIPs, own) {
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP); !ok || ip.Unmap() != want {
				continue
			}
			link, err := netlink.LinkByIndex(a.LinkIndex)
			if err != nil {
				return nil, fmt.Errorf("look at the interface with the address %s: %w", want, err)
			}
			return link, nil
		}
	}
	return nil, fmt.Errorf("find the interface for traffic between nodes: none has the address %v; set --flannel-iface", own)
}

// localAddress is the address of one family that packets to other nodes are sent from. elsewhere is the node's address when
// it is another machine's, as behind a router with NAT.
func (c *Component) localAddress(link netlink.Link, six bool) (local, elsewhere netip.Addr, err error) {
	family, name := unix.AF_INET, "IPv4"
	if six {
		family, name = unix.AF_INET6, "IPv6"
	}
	addrs, err := netlink.AddrList(link, family)
	if err != nil {
		return local, elsewhere, fmt.Errorf("list the addresses of %s: %w", link.Attrs().Name, err)
	}
	var candidates []netip.Addr
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap().IsGlobalUnicast() {
			candidates = append(candidates, ip.Unmap())
		}
	}
	if len(candidates) == 0 {
		return local, elsewhere, fmt.Errorf("the cluster's pods have %s (--cluster-cidr %v), but interface %s has no %s address: give it one, or name another with --flannel-iface", name, c.config.ClusterCIDRs, link.Attrs().Name, name)
	}
	for _, ip := range c.config.NodeIPs {
		switch {
		case ip.Is6() != six:
		case slices.Contains(candidates, ip):
			return ip, elsewhere, nil
		case !hasInterface(ip):
			elsewhere = ip
		}
	}
	return candidates[0], elsewhere, nil
}

// hasInterface says whether a is an address of this host; a node IP behind NAT is not.
func hasInterface(a netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(addrs, func(have net.Addr) bool {
		p, err := netip.ParsePrefix(have.String())
		return err == nil && p.Addr().Unmap() == a
	})
}
