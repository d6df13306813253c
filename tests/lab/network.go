package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/tests/apart"
)

const bridgeName = "lan0"

// newLAN makes a network namespace that holds nothing but the bridge. Only the
// returned descriptor and the hosts' links keep it alive.
func newLAN() (netns.NsHandle, error) {
	lan, err := apart.NewNetwork()
	if err != nil {
		return lan, err
	}
	if err := makeBridge(lan); err != nil {
		return lan, errors.Join(err, lan.Close())
	}
	return lan, nil
}

func makeBridge(lan netns.NsHandle) error {
	nl, err := netlink.NewHandleAt(lan)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer nl.Close()
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}}
	if err := nl.LinkAdd(br); err != nil {
		return fmt.Errorf("add bridge: %w", err)
	}
	return bringUp(nl, br, netip.PrefixFrom(gateway(), network.Bits()))
}

// bringUp gives a link and the loopback of its namespace life.
func bringUp(nl *netlink.Handle, link netlink.Link, addr netip.Prefix) error {
	lo, err := nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	ip := &net.IPNet{IP: addr.Addr().AsSlice(), Mask: net.CIDRMask(addr.Bits(), addr.Addr().BitLen())}
	if err := nl.AddrAdd(link, &netlink.Addr{IPNet: ip}); err != nil {
		return fmt.Errorf("add address %s: %w", addr, err)
	}
	return errors.Join(nl.LinkSetUp(lo), nl.LinkSetUp(link))
}

// connect lays a cable from the bridge to eth0 of a freshly booted host.
func (h *Host) connect() error {
	lan, err := netlink.NewHandleAt(h.lab.lan)
	if err != nil {
		return fmt.Errorf("open netlink on the LAN: %w", err)
	}
	defer lan.Close()
	inside, err := netlink.NewHandleAt(netns.NsHandle(h.ns["net"]))
	if err != nil {
		return fmt.Errorf("open netlink on the host: %w", err)
	}
	defer inside.Close()
	br, err := lan.LinkByName(bridgeName)
	if err != nil {
		return fmt.Errorf("find bridge: %w", err)
	}
	// After a crash the kernel takes the old cable away in its own time.
	if old, err := lan.LinkByName(h.port()); err == nil {
		if err := lan.LinkDel(old); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("remove the old cable: %w", err)
		}
	}
	cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: h.port(), MasterIndex: br.Attrs().Index}, PeerName: "eth0", PeerNamespace: netlink.NsFd(h.ns["net"])}
	if err := lan.LinkAdd(cable); err != nil {
		return fmt.Errorf("lay cable: %w", err)
	}
	if err := lan.LinkSetUp(cable); err != nil {
		return fmt.Errorf("plug cable in: %w", err)
	}
	eth0, err := inside.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find eth0: %w", err)
	}
	if err := bringUp(inside, eth0, netip.PrefixFrom(h.Addr(), network.Bits())); err != nil {
		return err
	}
	return inside.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: gateway().AsSlice()})
}

// port is the name of the host's end of the cable on the bridge.
func (h *Host) port() string { return fmt.Sprintf("host%d", h.index) }

// Partition pulls the host's network cable; Heal plugs it in again.
func (h *Host) Partition() error { return h.setPort((*netlink.Handle).LinkSetDown) }

// Heal ends a Partition.
func (h *Host) Heal() error { return h.setPort((*netlink.Handle).LinkSetUp) }

func (h *Host) setPort(set func(*netlink.Handle, netlink.Link) error) error {
	lan, err := netlink.NewHandleAt(h.lab.lan)
	if err != nil {
		return fmt.Errorf("open netlink on the LAN: %w", err)
	}
	defer lan.Close()
	l, err := lan.LinkByName(h.port())
	if err != nil {
		return fmt.Errorf("find the cable of %s: %w", h.name, err)
	}
	return set(lan, l)
}

// DialContext connects from inside the host. The address must be numeric: a
// name would be looked up by another thread, outside.
func (h *Host) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	var c net.Conn
	err := h.enter([]string{"net"}, func() error {
		d := net.Dialer{Timeout: 30 * time.Second}
		var err error
		c, err = d.DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// ListenPacket opens a datagram socket inside the host, e.g. for a unix socket
// path of the host or a UDP port.
func (h *Host) ListenPacket(network, addr string) (net.PacketConn, error) {
	var c net.PacketConn
	err := h.Do(func() error {
		var err error
		c, err = net.ListenPacket(network, addr)
		return err
	})
	return c, err
}

// Listen opens a stream socket inside the host.
func (h *Host) Listen(network, addr string) (net.Listener, error) {
	var l net.Listener
	err := h.Do(func() error {
		var err error
		l, err = net.Listen(network, addr)
		return err
	})
	return l, err
}

// HTTPClient makes requests from inside the host, each on a connection of its
// own, so that load balancing shows. Close it with CloseIdleConnections.
func (h *Host) HTTPClient(timeout time.Duration) *http.Client {
	return &http.Client{Timeout: timeout, Transport: &http.Transport{DialContext: h.DialContext, DisableKeepAlives: true}}
}
