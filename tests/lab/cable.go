package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// End is one end of a cable: the link's name on the host and its address.
type End struct {
	Host *Host
	Link string
	Addr netip.Prefix
}

// Cable lays a cable between two hosts, beside the LAN. It goes away when one of them goes down.
func Cable(a, b End) error {
	first, err := netlink.NewHandleAt(netns.NsHandle(a.Host.ns["net"]))
	if err != nil {
		return fmt.Errorf("open netlink on %s: %w", a.Host.name, err)
	}
	defer first.Close()
	second, err := netlink.NewHandleAt(netns.NsHandle(b.Host.ns["net"]))
	if err != nil {
		return fmt.Errorf("open netlink on %s: %w", b.Host.name, err)
	}
	defer second.Close()
	cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: a.Link}, PeerName: b.Link, PeerNamespace: netlink.NsFd(b.Host.ns["net"])}
	if err := first.LinkAdd(cable); err != nil {
		return fmt.Errorf("lay a cable from %s to %s: %w", a.Host.name, b.Host.name, err)
	}
	return errors.Join(plugIn(first, a), plugIn(second, b))
}

func plugIn(nl *netlink.Handle, e End) error {
	link, err := nl.LinkByName(e.Link)
	if err != nil {
		return fmt.Errorf("find %s on %s: %w", e.Link, e.Host.name, err)
	}
	ip := &net.IPNet{IP: e.Addr.Addr().AsSlice(), Mask: net.CIDRMask(e.Addr.Bits(), e.Addr.Addr().BitLen())}
	if err := nl.AddrAdd(link, &netlink.Addr{IPNet: ip}); err != nil {
		return fmt.Errorf("add address %s on %s: %w", e.Addr, e.Host.name, err)
	}
	return nl.LinkSetUp(link)
}
