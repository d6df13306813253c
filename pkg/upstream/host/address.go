package host

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrNoAddress means that the host has no address that other machines could use.
var ErrNoAddress = errors.New("this host has no IP address but loopback's: give an interface an address, or name one with --node-ip")

// Addresses are the addresses by which other machines reach this one, at most one for each family, IPv4 first: the
// preferred source address of the default route, or without one the first global address of an interface that is up
// (an air-gapped site has no default route). Addresses of links that knarr or its pods made do not count.
func Addresses() ([]netip.Addr, error) {
	var found []netip.Addr
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		addr, err := address(family)
		if err != nil {
			return nil, err
		}
		if addr.IsValid() {
			found = append(found, addr)
		}
	}
	if len(found) == 0 {
		return nil, ErrNoAddress
	}
	return found, nil
}

func address(family int) (netip.Addr, error) {
	routes, err := whole(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list routes: %w", err)
	}
	defaults := slices.DeleteFunc(routes, func(r netlink.Route) bool { return r.Dst != nil && !isDefault(r) })
	slices.SortStableFunc(defaults, func(a, b netlink.Route) int { return cmp.Compare(a.Priority, b.Priority) })
	for _, r := range defaults {
		if a, ok := netip.AddrFromSlice(r.Src); ok {
			return a.Unmap(), nil
		}
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			if a, err := global(link, family); err != nil || a.IsValid() {
				return a, err
			}
		}
	}
	return anyGlobal(family)
}

func isDefault(r netlink.Route) bool {
	ones, _ := r.Dst.Mask.Size()
	return ones == 0
}

// anyGlobal looks through all links but those that containers and overlays are made of.
func anyGlobal(family int) (netip.Addr, error) {
	links, err := whole(netlink.LinkList)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list network links: %w", err)
	}
	for _, l := range links {
		if l.Attrs().OperState == netlink.OperDown || slices.Contains(virtual(), l.Attrs().Name) {
			continue
		}
		if a, err := global(l, family); err != nil || a.IsValid() {
			return a, err
		}
	}
	return netip.Addr{}, nil
}

// virtual are the links whose addresses mean nothing to other machines.
func virtual() []string {
	return []string{"lo", "cni0", "flannel.1", "flannel-v6.1", "docker0", "flannel-wg", "flannel-wg-v6", "kube-ipvs0", "nodelocaldns"}
}

func global(link netlink.Link, family int) (netip.Addr, error) {
	addrs, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(link, family) })
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
	}
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		if ip = ip.Unmap(); ok && ip.IsGlobalUnicast() && a.Scope == unix.RT_SCOPE_UNIVERSE && a.Flags&(unix.IFA_F_DEPRECATED|unix.IFA_F_TEMPORARY) == 0 {
			return ip, nil
		}
	}
	return netip.Addr{}, nil
}

// lists is how often a list that is interrupted is asked for.
const lists = 10

// whole asks the kernel for a list until nothing has come or gone while it was read, as pods' links do.
func whole[T any](list func() ([]T, error)) (found []T, err error) {
	for range lists {
		if found, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return found, err
}
