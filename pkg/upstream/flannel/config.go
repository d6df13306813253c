// Package flannel runs flannel's backends (vxlan, host-gw) and its nftables traffic manager, unpatched, as a
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
	// Backend is vxlan, host-gw, or none: then only a CNI configuration of the user's makes a network.
	Backend string
	// Interface is the name of the interface for traffic between nodes; empty: the one with NodeIPs, else the one
	// with the default route.
	Interface string
	NodeIPs   []netip.Addr
	// ClusterCIDRs are the pod networks, one or one for each family.
	ClusterCIDRs []netip.Prefix
	// MasqueradeIPv6 hides pods' IPv6 addresses from the world as it is always done for IPv4.
	MasqueradeIPv6 bool
	// CNIConfigFile is written; containerd watches its directory.
	CNIConfigFile string
	// NFTables says what programs packets: nftables, or else iptables.
	NFTables bool
}

// network is flannel's own configuration.
func (c Config) network() (*subnet.Config, error) {
	backend, err := json.Marshal(map[string]string{"Type": c.Backend})
	if err != nil {
		return nil, fmt.Errorf("encode flannel backend: %w", err)
	}
	n := &subnet.Config{BackendType: c.Backend, Backend: backend, EnableNFTables: c.NFTables}
	for _, p := range c.ClusterCIDRs {
		if p.Addr().Is4() {
			n.EnableIPv4, n.Network = true, ip.FromIPNet(ipNet(p))
		} else {
			n.EnableIPv6, n.IPv6Network = true, ip.FromIP6Net(ipNet(p))
		}
	}
	return n, nil
}
