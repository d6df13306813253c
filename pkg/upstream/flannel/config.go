// Package flannel runs flannel's backends (vxlan, host-gw, wireguard) and its nftables traffic manager, unpatched, as a
// component of the process, and writes the CNI configuration that containerd reads.
//
// It is flanneld without its main package: which imports a cloud backend that cannot be had, polls, and ends the
// process on its own. The node annotations are flannel's, so that nodes of other distributions' tools understand them.
//
// It stops when its context ends. Links, routes and rules stay: pods go on talking while knarr is down.
package flannel

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/subnet"
)

// Config is what the pod network of one node needs to know.
type Config struct {
	NodeName string
	// Backend is vxlan, host-gw or wireguard-native.
	Backend string
	// Options are a file with options of the backend, in the form of flannel's net-conf.json; "" for none.
	Options string
	// Interface is the name of the interface for traffic between nodes; empty: the one with NodeIPs, else the one
	// with the default route.
	Interface string
	// NodeIPs are the node's addresses. Other nodes send to them also where they are not addresses of this host, but of a
	// router before it.
	NodeIPs []netip.Addr
	// PublicIPs are those that other nodes send to in place of NodeIPs, at most one for each family.
	PublicIPs []netip.Addr
	// ClusterCIDRs are the pod networks, one or one for each family.
	ClusterCIDRs []netip.Prefix
	// MasqueradeIPv6 hides pods' IPv6 addresses from the world as it is always done for IPv4.
	MasqueradeIPv6 bool
	// CNIConfigFile is written; containerd watches its directory. CNITemplate, unless "", is what is written there.
	CNIConfigFile, CNITemplate string
	// WireGuardKey is the file of the node's key; it is made when there is none.
	WireGuardKey string
	// NFTables says what programs packets: nftables, or else iptables.
	NFTables bool
}

// The backends that the package treats differently.
const (
	vxlanBackend     = "vxlan"
	hostGWBackend    = "host-gw"
	wireguardBackend = "wireguard-native"
)

// backendType is flannel's name of the backend.
func (c Config) backendType() string {
	if c.Backend == wireguardBackend {
		return "wireguard"
	}
	return c.Backend
}

// network is flannel's own configuration.
func (c Config) network() (*subnet.Config, error) {
	options, err := c.options()
	if err != nil {
		return nil, err
	}
	backend, err := json.Marshal(options)
	if err != nil {
		return nil, fmt.Errorf("encode flannel backend: %w", err)
	}
	n := &subnet.Config{BackendType: c.backendType(), Backend: backend, EnableNFTables: c.NFTables}
	for _, p := range c.ClusterCIDRs {
		if p.Addr().Is4() {
			n.EnableIPv4, n.Network = true, ip.FromIPNet(ipNet(p))
		} else {
			n.EnableIPv6, n.IPv6Network = true, ip.FromIP6Net(ipNet(p))
		}
	}
	return n, nil
}
