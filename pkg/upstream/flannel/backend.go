package flannel

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/knarr-io/knarr/pkg/atomicfile"
)

// backendLinks are the links that backends make, with those who make them and whether they are for IPv6.
func backendLinks() []backendLink {
	return []backendLink{
		{"flannel.1", vxlanBackend, false}, {"flannel-v6.1", vxlanBackend, true},
		{wireguardLink, wireguardBackend, false}, {"flannel-wg-v6", wireguardBackend, true},
	}
}

type backendLink struct {
	name, backend string
	six           bool
}

const wireguardLink = "flannel-wg"

// tidy removes what another backend left on this host, or the same one for a family that the cluster has no more: its
// routes would win over those of this one.
func (c *Component) tidy(n *subnet.Config) error {
	for _, l := range backendLinks() {
		if l.backend == c.config.Backend && (l.six && n.EnableIPv6 || !l.six && n.EnableIPv4) {
			continue
		}
		link, err := netlink.LinkByName(l.name)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			continue
		}
		if err == nil {
			err = netlink.LinkDel(link)
		}
		if err != nil {
			return fmt.Errorf("remove the link %s of another flannel backend: %w", l.name, err)
		}
	}
	if c.config.Backend == hostGWBackend {
		return nil
	}
	return c.tidyRoutes()
}

// tidyRoutes removes the routes of host-gw: those to a part of the pod networks by way of another node's own address.
func (c *Component) tidyRoutes() error {
	routes, err := netlink.RouteList(nil, unix.AF_UNSPEC)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil || r.Gw == nil || r.Flags&int(netlink.FLAG_ONLINK) != 0 || !c.inPodNetworks(r.Dst.IP) || c.inPodNetworks(r.Gw) {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove the route to %s of another flannel backend: %w", r.Dst, err)
		}
	}
	return nil
}

func (c *Component) inPodNetworks(ip net.IP) bool {
	a, ok := netip.AddrFromSlice(ip)
	return ok && slices.ContainsFunc(c.config.ClusterCIDRs, func(p netip.Prefix) bool { return p.Contains(a.Unmap()) })
}

// checkWireGuard says whether this kernel has WireGuard, by making a link of that kind. add is netlink.LinkAdd.
func checkWireGuard(add, del func(netlink.Link) error) error {
	probe := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: "knarr-probe"}, LinkType: "wireguard"}
	err := add(probe)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("--flannel-backend=%s needs WireGuard, and this kernel has none (%w): load it (`modprobe wireguard`), "+
			"install the kernel's extra modules or a kernel from 5.6 on; without it, --flannel-backend=vxlan works on every network, host-gw where all nodes are on one LAN; neither encrypts",
			wireguardBackend, err)
	case errors.Is(err, unix.EEXIST): // a probe that was killed
	case err != nil:
		return fmt.Errorf("see whether this kernel has WireGuard: %w", err)
	}
	if err := del(probe); err != nil {
		return fmt.Errorf("remove the link that was made to see whether this kernel has WireGuard: %w", err)
	}
	return nil
}

// ensureWireGuardKey makes the node's key. Flannel would, but in pieces: a power cut between them leaves a file that it
// cannot read.
func ensureWireGuardKey(file string) error {
	text, err := os.ReadFile(file)
	if err == nil {
		if _, err = wgtypes.ParseKey(string(text)); err == nil {
			return nil
		}
		return fmt.Errorf("read the node's WireGuard key %s: %w; remove the file, and a new key is made", file, err)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the node's WireGuard key: %w", err)
	}
	key, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		return fmt.Errorf("make the node's WireGuard key: %w", err)
	}
	if _, err := atomicfile.WriteIfChanged(file, []byte(key.String()), 0o600); err != nil {
		return fmt.Errorf("keep the node's WireGuard key: %w", err)
	}
	return nil
}
