package netpol

import (
	"fmt"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	netutils "k8s.io/utils/net"
)

// span is a range of addresses of one family, both ends included.
type span struct{ from, to netip.Addr }

func spanOf(p netip.Prefix) span {
	p = p.Masked()
	last := p.Addr().AsSlice()
	for i := p.Bits(); i < len(last)*8; i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	to, _ := netip.AddrFromSlice(last) // of the length that it came in
	return span{p.Addr(), to}
}

// parseBlock is the addresses of an ipBlock: its CIDR without its exceptions, in order.
func parseBlock(b *networkingv1.IPBlock) ([]span, error) {
	cidr, err := parseCIDR(b.CIDR)
	if err != nil {
		return nil, fmt.Errorf("parse ipBlock.cidr: %w", err)
	}
	left := []span{spanOf(cidr)}
	for _, text := range b.Except {
		p, err := parseCIDR(text)
		if err != nil {
			return nil, fmt.Errorf("parse ipBlock.except: %w", err)
		}
		left = without(left, spanOf(p))
	}
	return left, nil
}

// parseCIDR takes what the API accepts in objects of all ages: leading zeros, and IPv4 written as IPv6.
func parseCIDR(text string) (netip.Prefix, error) {
	_, n, err := netutils.ParseCIDRSloppy(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	bits, size := n.Mask.Size()
	addr, _ := netip.AddrFromSlice(n.IP) // 4 or 16 bytes
	if addr.Is4In6() && bits >= 96 {
		addr, bits = addr.Unmap(), bits-96
	}
	if size == 32 {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, bits), nil
}

// without takes hole out of list.
func without(list []span, hole span) []span {
	var left []span
	for _, s := range list {
		if hole.to.Less(s.from) || s.to.Less(hole.from) {
			left = append(left, s)
			continue
		}
		if s.from.Less(hole.from) {
			left = append(left, span{s.from, hole.from.Prev()})
		}
		if hole.to.Less(s.to) {
			left = append(left, span{hole.to.Next(), s.to})
		}
	}
	return left
}

// union is list in order, with what overlaps or touches made one: nftables refuses overlapping intervals.
func union(list []span) []span {
	slices.SortFunc(list, func(a, b span) int { return a.from.Compare(b.from) })
	var out []span
	for _, s := range list {
		if n := len(out); n > 0 {
			last := &out[n-1]
			next := last.to.Next() // not valid after the family's last address
			if last.to.Is4() == s.from.Is4() && (!next.IsValid() || !next.Less(s.from)) {
				if last.to.Less(s.to) {
					last.to = s.to
				}
				continue
			}
		}
		out = append(out, s)
	}
	return out
}
