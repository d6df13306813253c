// Package vip holds a virtual address: one that some server of the cluster has at any time, for clients that know only one.
// The address is put on the network interface that reaches it and announced to the neighbours (gratuitous ARP, or an
// unsolicited neighbour advertisement), so they find its new place at once. All servers have to be on one link.
//
// It does not decide who holds the address: that is the lease above it (pkg/controllers/leader). It does not balance.
//
// The address has a lifetime in the kernel that is renewed for as long as the component runs. A holder that is killed, or
// hangs, loses it without anybody's doing. When its context ends, the component takes the address back.
package vip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Config is data.
type Config struct {
	Address netip.Addr
	// Neighbour is this server's own address: the interface that has it gets the virtual one as well.
	Neighbour netip.Addr
	// Lifetime is how long the address stays without being renewed, in whole seconds. It should end before the lease does.
	Lifetime time.Duration
}

const (
	// renewals is how often the address is renewed in its lifetime.
	renewals = 3
	// repeats is how many renewals announce the address once more, at first: one packet may be lost, and who missed it sends
	// to the old place.
	repeats = 3
	// announceEvery repeats the announcement after that.
	announceEvery = 10 * time.Second
)

// Holder is the component. Use [New].
type Holder struct {
	config Config
	log    *slog.Logger
}

// New makes the component.
func New(c Config, log *slog.Logger) *Holder { return &Holder{c, log} }

// Name implements lifecycle.Component.
func (*Holder) Name() string { return "virtual-address" }

// Run holds the address until ctx ends.
func (h *Holder) Run(ctx context.Context, ready func()) (err error) {
	link, err := find(h.config.Neighbour)
	if err != nil {
		return err
	}
	addr := h.addr()
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("put the virtual address %s on %s: %w", h.config.Address, link.Attrs().Name, err)
	}
	defer func() {
		if e := netlink.AddrDel(link, addr); e != nil && !errors.Is(e, unix.EADDRNOTAVAIL) {
			err = errors.Join(err, fmt.Errorf("take the virtual address %s from %s: %w", h.config.Address, link.Attrs().Name, e))
		}
	}()
	h.log.Info("this server has the virtual address", "address", h.config.Address, "interface", link.Attrs().Name)
	if err := announce(link, h.config.Address); err != nil {
		h.log.Warn("neighbours are not told where the virtual address is", "error", err)
	}
	ready()
	return h.renew(ctx, link, addr)
}

// renew keeps the address from ending.
func (h *Holder) renew(ctx context.Context, link netlink.Link, addr *netlink.Addr) error {
	ticker := time.NewTicker(h.config.Lifetime / renewals)
	defer ticker.Stop()
	announced := time.Now()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			if err := netlink.AddrReplace(link, addr); err != nil {
				return fmt.Errorf("renew the virtual address %s on %s: %w", h.config.Address, link.Attrs().Name, err)
			}
			if n > repeats && now.Sub(announced) < announceEvery {
				continue
			}
			announced = now
			if err := announce(link, h.config.Address); err != nil {
				h.log.Debug("the virtual address is not announced", "error", err)
			}
		}
	}
}

// addr is the address as the kernel gets it: alone in its prefix, and never chosen as the source of a connection, nor
// taken for this host's own by whoever looks, since it is deprecated from the start.
func (h *Holder) addr() *netlink.Addr {
	bits := h.config.Address.BitLen()
	a := &netlink.Addr{
		IPNet:    &net.IPNet{IP: h.config.Address.AsSlice(), Mask: net.CIDRMask(bits, bits)},
		ValidLft: int(h.config.Lifetime / time.Second),
	}
	if h.config.Address.Is6() {
		a.Flags = unix.IFA_F_NODAD // the lease has decided
	}
	return a
}

// find is the interface that has an address.
func find(has netip.Addr) (netlink.Link, error) {
	family := netlink.FAMILY_V4
	if has.Is6() {
		family = netlink.FAMILY_V6
	}
	addrs, err := netlink.AddrList(nil, family)
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap() == has {
			link, err := netlink.LinkByIndex(a.LinkIndex)
			if err != nil {
				return nil, fmt.Errorf("find the interface of %s: %w", has, err)
			}
			return link, nil
		}
	}
	return nil, fmt.Errorf("find the interface for the virtual address: none has %s, which is to be this server's own", has)
}
