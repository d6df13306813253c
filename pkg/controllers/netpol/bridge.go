package netpol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// bridging is what makes packets between two pods of this node pass the forward hook: those that a pod sends to another
// one's MAC address are given the bridge's own, so that the host routes them. It takes the place of the module
// br_netfilter, which a host may lack or have switched off, and works beside it. So do Services whose client and pod are
// on one node: their answers, too, must pass the host to be translated back.
type bridging struct {
	mac      []byte
	networks []netip.Prefix // of the bridge
	links    []string       // its ports that lead to pods
}

func (b *bridging) equal(o *bridging) bool {
	return o != nil && bytes.Equal(b.mac, o.mac) && slices.Equal(b.networks, o.networks) && slices.Equal(b.links, o.links)
}

// applyBridge follows the bridge, which comes with the first pod and may come anew.
func (k *kernel) applyBridge(links []string) error {
	if k.bridge == "" {
		return nil
	}
	link, err := net.InterfaceByName(k.bridge)
	if err != nil {
		return nil // no pods yet, or no more
	}
	addrs, err := link.Addrs()
	if err != nil {
		return fmt.Errorf("list the addresses of %s: %w", k.bridge, err)
	}
	want := &bridging{mac: link.HardwareAddr, links: links}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && !p.Addr().IsLinkLocalUnicast() {
			want.networks = append(want.networks, p.Masked())
		}
	}
	if want.equal(k.bridged) {
		return nil
	}
	if err := k.send(want.batch()); err != nil {
		if unsupported(err) && bridgeNetfilter() {
			return nil // the module shows bridged packets to the forward hook, too
		}
		return fmt.Errorf("make packets between pods of this node pass their policies: %w; if the kernel lacks nftables for bridges: "+
			"modprobe br_netfilter and sysctl -w net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1", err)
	}
	k.bridged = want
	return nil
}

// bridgeNetfilter tells whether bridged packets pass the IP hooks.
func bridgeNetfilter() bool {
	for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		text, err := os.ReadFile("/proc/sys/net/bridge/" + name)
		if errors.Is(err, os.ErrNotExist) || err == nil && strings.TrimSpace(string(text)) != "1" {
			return false
		}
	}
	return true
}

const (
	bridgeChain = "prerouting"
	linkSet     = "pod-links"
	// bridgePriority is that of NAT in a bridge: ahead of br_netfilter, which is at 0.
	bridgePriority = -300
)

// batch is the whole table of the family bridge.
func (b *bridging) batch() *batch {
	t := &batch{family: unix.NFPROTO_BRIDGE, table: Table}
	t.addTable() // so that there is one to remove
	t.removeTable()
	t.addTable()
	t.addSet(linkSet, keyType{typeIfname, unix.IFNAMSIZ}, 0)
	var items []item
	for _, l := range b.links {
		items = append(items, item{key: ifname(l)})
	}
	t.addElements(linkSet, items)
	t.addChain(bridgeChain, &hook{0 /* NF_BR_PRE_ROUTING */, bridgePriority})
	// What goes to this host anyway.
	t.addRule(bridgeChain, &expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseLLHeader, Len: 6}, equal(b.mac...),
		&expr.Verdict{Kind: expr.VerdictAccept})
	// Neighbour discovery, which is between neighbours only (RFC 4861: types 133 to 137).
	t.addRule(bridgeChain, append(isEther(unix.ETH_P_IPV6), &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG_1}, equal(unix.IPPROTO_ICMPV6),
		&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseTransportHeader, Len: 1},
		&expr.Range{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, FromData: []byte{133}, ToData: []byte{137}},
		&expr.Verdict{Kind: expr.VerdictAccept})...)
	// Link-local addresses cannot be routed, and policies do not know them.
	t.addRule(bridgeChain, append(isEther(unix.ETH_P_IPV6),
		&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: 24, Len: 2},
		&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 2, Mask: []byte{0xff, 0xc0}, Xor: []byte{0, 0}},
		equal(0xfe, 0x80),
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: unix.NFT_REG_1}, &expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: linkSet},
		&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})...)
	for _, p := range b.networks {
		t.addRule(bridgeChain, append(toNetwork(p),
			&expr.Immediate{Register: unix.NFT_REG_1, Data: b.mac},
			&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: unix.NFT_REG_1, Base: expr.PayloadBaseLLHeader, Len: 6},
			&expr.Immediate{Register: unix.NFT_REG_1, Data: []byte{unix.PACKET_HOST}},
			&expr.Meta{Key: expr.MetaKeyPKTTYPE, SourceRegister: true, Register: unix.NFT_REG_1})...)
	}
	return t
}

func isEther(protocol uint16) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: unix.NFT_REG_1}, equal(binary.BigEndian.AppendUint16(nil, protocol)...)}
}

// toNetwork matches packets to p.
func toNetwork(p netip.Prefix) []expr.Any {
	f, protocol := ipv4, uint16(unix.ETH_P_IP)
	if p.Addr().Is6() {
		f, protocol = ipv6, unix.ETH_P_IPV6
	}
	mask, network := masked(p)
	return append(isEther(protocol), load(f, false, unix.NFT_REG_1),
		&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))},
		equal(network...))
}
