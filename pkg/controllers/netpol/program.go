package netpol

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Table is the name of the nftables tables of the families inet and bridge.
const Table = "knarr-netpol"

// hooks are the base chains: a packet has to pass both. The first accepts what its sender's policies allow, the second
// what its receiver's do; an accept ends one base chain only. The hook is behind destination NAT, so that policies see
// the pods behind a Service, and ahead of source NAT, so that they see who really sends.
func hooks() map[string]*hook {
	return map[string]*hook{
		egress.String():  {unix.NF_INET_FORWARD, 0},
		ingress.String(): {unix.NF_INET_FORWARD, 1},
	}
}

// create appends a whole new table to b, in place of any that is there. Packets see the old one or the new one.
func create(b *batch, bridge string, rs *ruleset) {
	b.addTable() // so that there is one to remove
	b.removeTable()
	b.addTable()
	amend(b, &ruleset{}, rs)
	for _, d := range []direction{egress, ingress} {
		b.addChain(d.String(), hooks()[d.String()])
		b.addRule(d.String(), append(conntrack(), &expr.Verdict{Kind: expr.VerdictAccept})...)
		for _, f := range []family{ipv4, ipv6} {
			self := append(isFamily(f), load(f, true, expr8), load(f, false, expr8+words(f)))
			b.addRule(d.String(), append(self, &expr.Lookup{SourceRegister: expr8, SetName: selfSet(f)}, &expr.Verdict{Kind: expr.VerdictAccept})...)
			b.addRule(d.String(), append(isFamily(f), load(f, d == egress, unix.NFT_REG_1),
				&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: verdictMap(d, f), IsDestRegSet: true})...)
		}
		if bridge != "" { // an address that no pod has yet: closed until its policies are known
			b.addRule(d.String(), append(isLink(bridge, d == egress), &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop})...)
		}
	}
}

// amend appends what makes has into wants. The order is one in which nothing is used before it is made or removed
// while it is used.
func amend(b *batch, has, wants *ruleset) {
	for _, name := range sorted(wants.sets) {
		s, old := wants.sets[name], has.sets[name]
		if old == nil {
			b.addSet(name, s.key(), s.flags())
			old = &set{}
		}
		if s.kind != verdicts {
			b.change(name, old, s)
		}
	}
	for _, name := range sorted(wants.chains) {
		if has.chains[name] == nil {
			b.addChain(name, nil)
		}
	}
	for _, name := range sorted(wants.chains) {
		old, there := has.chains[name]
		if there && slices.Equal(old, wants.chains[name]) {
			continue
		}
		if there {
			b.flushChain(name)
		}
		for _, r := range wants.chains[name] {
			b.addRule(name, r.exprs()...)
		}
	}
	for _, name := range sorted(wants.sets) {
		if s := wants.sets[name]; s.kind == verdicts {
			b.change(name, has.sets[name], s)
		}
	}
	b.remove(has, wants)
}

// remove appends the removal of what has has and wants has not.
func (b *batch) remove(has, wants *ruleset) {
	var chains []string
	for _, name := range sorted(has.chains) {
		if _, stays := wants.chains[name]; !stays {
			chains = append(chains, name)
			b.flushChain(name)
		}
	}
	for _, name := range chains {
		b.removeChain(name)
	}
	for _, name := range sorted(has.sets) {
		if wants.sets[name] == nil {
			b.removeSet(name)
		}
	}
}

// change appends the difference between the elements of old, which may be nil, and s.
func (b *batch) change(name string, old, s *set) {
	if old == nil {
		old = &set{}
	}
	var gone, added []item
	for e, v := range old.elements {
		if now, stays := s.elements[e]; !stays || now != v {
			gone = append(gone, s.items(e, verdict{})...)
		}
	}
	for e, v := range s.elements {
		if before, there := old.elements[e]; !there || before != v {
			added = append(added, s.items(e, v)...)
		}
	}
	b.removeElements(name, gone)
	b.addElements(name, added)
}

func sorted[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

func (s *set) key() keyType {
	number, length := uint32(typeIPv4), uint32(4)
	if s.family == ipv6 {
		number, length = typeIPv6, 16
	}
	switch s.kind {
	case pairs:
		return keyType{number<<typeBits | number, 2 * length}
	case endpoints:
		return keyType{(number<<typeBits|typeProto)<<typeBits | typeService, length + 8}
	default:
		return keyType{number, length}
	}
}

func (s *set) flags() uint32 {
	switch s.kind {
	case ranges:
		return unix.NFT_SET_INTERVAL
	case verdicts:
		return unix.NFT_SET_MAP
	default:
		return 0
	}
}

// items are what the kernel keeps for an element. Each field of a key takes whole words.
func (s *set) items(e element, v verdict) []item {
	key := e.addr.AsSlice()
	switch s.kind {
	case ranges:
		list := []item{{key: key}}
		if next := e.end.Next(); next.IsValid() {
			list = append(list, item{key: next.AsSlice(), end: true})
		}
		return list
	case pairs:
		return []item{{key: append(key, e.end.AsSlice()...)}}
	case endpoints:
		key = append(key, e.proto, 0, 0, 0)
		return []item{{key: append(binary.BigEndian.AppendUint16(key, e.port), 0, 0)}}
	case verdicts:
		return []item{{key: key, to: &v}}
	default:
		return []item{{key: key}}
	}
}

// expr8 is the first of the kernel's registers of one word, from which the fields of a key follow each other.
const expr8 = unix.NFT_REG32_00

func words(f family) uint32 {
	if f == ipv4 {
		return 1
	}
	return 4
}

// exprs is the rule for the kernel, the cheap conditions first.
func (r rule) exprs() []expr.Any {
	var list []expr.Any
	if r.family != 0 {
		list = append(list, isFamily(r.family)...)
	}
	if r.proto != 0 {
		list = append(list, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG_1}, equal(r.proto))
	}
	if r.low != 0 {
		list = append(list, port(unix.NFT_REG_1))
		low, high := binary.BigEndian.AppendUint16(nil, r.low), binary.BigEndian.AppendUint16(nil, r.high)
		if r.low == r.high {
			list = append(list, equal(low...))
		} else {
			list = append(list, &expr.Range{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, FromData: low, ToData: high})
		}
	}
	if r.peers != "" {
		list = append(list, load(r.family, r.source, unix.NFT_REG_1), &expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: r.peers})
	}
	if r.endpoints != "" {
		at := expr8 + words(r.family)
		list = append(list, load(r.family, false, expr8), &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: at}, port(at+1),
			&expr.Lookup{SourceRegister: expr8, SetName: r.endpoints})
	}
	if r.verdict.action == drop {
		list = append(list, &expr.Counter{})
	}
	return append(list, &expr.Verdict{Kind: r.verdict.action.kind(), Chain: r.verdict.chain})
}

func equal(data ...byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: data}
}

func isFamily(f family) []expr.Any {
	number := byte(unix.NFPROTO_IPV4)
	if f == ipv6 {
		number = unix.NFPROTO_IPV6
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: unix.NFT_REG_1}, equal(number)}
}

// load puts the source or destination address into a register. TCP, UDP and SCTP have their ports at one place.
func load(f family, source bool, register uint32) expr.Any {
	offset, length := uint32(16), uint32(4)
	if f == ipv6 {
		offset, length = 24, 16
	}
	if source {
		offset -= length
	}
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

// port puts the destination port into a register; TCP, UDP and SCTP have it at one place.
func port(register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

// conntrack matches packets of connections that were accepted before, and errors about them.
func conntrack() []expr.Any {
	bits := binary.NativeEndian.AppendUint32(nil, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
	zero := make([]byte, 4)
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: unix.NFT_REG_1},
		&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4, Mask: bits, Xor: zero},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: unix.NFT_REG_1, Data: zero},
	}
}

// isLink matches packets that came in or go out by a link.
func isLink(name string, in bool) []expr.Any {
	key := expr.MetaKeyOIFNAME
	if in {
		key = expr.MetaKeyIIFNAME
	}
	return []expr.Any{&expr.Meta{Key: key, Register: unix.NFT_REG_1}, equal(ifname(name)...)}
}

func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// masked is the network of p as the kernel compares it.
func masked(p netip.Prefix) (mask, network []byte) {
	full := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		full[i/8] |= 0x80 >> (i % 8)
	}
	return full, p.Masked().Addr().AsSlice()
}
