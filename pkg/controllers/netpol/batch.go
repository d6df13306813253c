package netpol

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// batch is the messages of one transaction on one table. github.com/google/nftables has the expressions; its transport
// asks for an acknowledgement and an echo of every message and loses count of them in large transactions, so the
// messages around the expressions are made here.
type batch struct {
	family   byte
	table    string
	messages []netlink.Message
	ids      uint32
	err      error // the first
}

// elementsPerMessage keeps a message below the 64 KiB that an attribute can have.
const elementsPerMessage = 200

func text0(s string) []byte { return append([]byte(s), 0) }

func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func nested(t uint16, data []byte) netlink.Attribute {
	return netlink.Attribute{Type: t | unix.NLA_F_NESTED, Data: data}
}

func (b *batch) attributes(list ...netlink.Attribute) []byte {
	data, err := netlink.MarshalAttributes(list)
	if err != nil && b.err == nil {
		b.err = fmt.Errorf("encode nftables message: %w", err)
	}
	return data
}

// add appends a message about an object of the table.
func (b *batch) add(kind int, flags netlink.HeaderFlags, list ...netlink.Attribute) {
	// NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE and NFTA_SET_ELEM_LIST_TABLE are all 1.
	list = append([]netlink.Attribute{{Type: unix.NFTA_TABLE_NAME, Data: text0(b.table)}}, list...)
	b.messages = append(b.messages, netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | flags},
		Data:   append([]byte{b.family, unix.NFNETLINK_V0, 0, 0}, b.attributes(list...)...),
	})
}

func (b *batch) addTable() { b.add(unix.NFT_MSG_NEWTABLE, netlink.Create) }

// removeTable fails when there is none.
func (b *batch) removeTable() { b.add(unix.NFT_MSG_DELTABLE, 0) }

// hook is where a base chain is called from.
type hook struct {
	number   uint32
	priority int32
}

// addChain makes a chain; h is nil when other chains lead to it.
func (b *batch) addChain(name string, h *hook) {
	list := []netlink.Attribute{{Type: unix.NFTA_CHAIN_NAME, Data: text0(name)}}
	if h != nil {
		list = append(list,
			nested(unix.NFTA_CHAIN_HOOK, b.attributes(
				netlink.Attribute{Type: unix.NFTA_HOOK_HOOKNUM, Data: be32(h.number)},
				netlink.Attribute{Type: unix.NFTA_HOOK_PRIORITY, Data: be32(uint32(h.priority))},
			)),
			netlink.Attribute{Type: unix.NFTA_CHAIN_POLICY, Data: be32(uint32(expr.VerdictAccept))},
			netlink.Attribute{Type: unix.NFTA_CHAIN_TYPE, Data: text0("filter")})
	}
	b.add(unix.NFT_MSG_NEWCHAIN, netlink.Create, list...)
}

func (b *batch) flushChain(name string) {
	b.add(unix.NFT_MSG_DELRULE, 0, netlink.Attribute{Type: unix.NFTA_RULE_CHAIN, Data: text0(name)})
}

// removeChain needs the chain to be flushed and led to by none.
func (b *batch) removeChain(name string) {
	b.add(unix.NFT_MSG_DELCHAIN, 0, netlink.Attribute{Type: unix.NFTA_CHAIN_NAME, Data: text0(name)})
}

// addRule appends a rule to a chain.
func (b *batch) addRule(chain string, exprs ...expr.Any) {
	list := make([]netlink.Attribute, len(exprs))
	for i, e := range exprs {
		data, err := expr.Marshal(b.family, e)
		if err != nil && b.err == nil {
			b.err = fmt.Errorf("encode nftables expression: %w", err)
		}
		list[i] = nested(unix.NFTA_LIST_ELEM, data)
	}
	b.add(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append,
		netlink.Attribute{Type: unix.NFTA_RULE_CHAIN, Data: text0(chain)},
		nested(unix.NFTA_RULE_EXPRESSIONS, b.attributes(list...)))
}

// keyType is what nft shows the keys of a set as: the numbers of nft's data types (src/datatype.c), six bits each.
type keyType struct {
	number uint32
	length uint32
}

const (
	typeIPv4    = 7
	typeIPv6    = 8
	typeProto   = 12
	typeService = 13
	typeIfname  = 41
	typeBits    = 6
)

// addSet makes an empty set.
func (b *batch) addSet(name string, key keyType, flags uint32) {
	b.ids++
	list := []netlink.Attribute{
		{Type: unix.NFTA_SET_NAME, Data: text0(name)},
		{Type: unix.NFTA_SET_FLAGS, Data: be32(flags)},
		{Type: unix.NFTA_SET_KEY_TYPE, Data: be32(key.number)},
		{Type: unix.NFTA_SET_KEY_LEN, Data: be32(key.length)},
		{Type: unix.NFTA_SET_ID, Data: be32(b.ids)},
	}
	if key.number == typeIfname { // nft shows names of links only in this byte order
		list = append(list, netlink.Attribute{Type: unix.NFTA_SET_USERDATA, Data: hostOrder()})
	}
	if flags&unix.NFT_SET_MAP != 0 {
		list = append(list, netlink.Attribute{Type: unix.NFTA_SET_DATA_TYPE, Data: be32(unix.NFT_DATA_VERDICT)})
	}
	b.add(unix.NFT_MSG_NEWSET, netlink.Create, list...)
}

// hostOrder is NFTNL_UDATA_SET_KEYBYTEORDER (libnftnl udata.h: type 0), of which 1 is the host's own.
func hostOrder() []byte { return binary.NativeEndian.AppendUint32([]byte{0, 4}, 1) }

// removeSet needs a set that no rule uses.
func (b *batch) removeSet(name string) {
	b.add(unix.NFT_MSG_DELSET, 0, netlink.Attribute{Type: unix.NFTA_SET_NAME, Data: text0(name)})
}

// item is an element of a set as the kernel has it.
type item struct {
	key []byte
	end bool // the first address after an interval
	to  *verdict
}

func (b *batch) addElements(set string, items []item) {
	b.elements(unix.NFT_MSG_NEWSETELEM, netlink.Create, set, items)
}

func (b *batch) removeElements(set string, items []item) {
	b.elements(unix.NFT_MSG_DELSETELEM, 0, set, items)
}

func (b *batch) elements(kind int, flags netlink.HeaderFlags, set string, items []item) {
	for len(items) > 0 {
		n := min(len(items), elementsPerMessage)
		list := make([]netlink.Attribute, n)
		for i, it := range items[:n] {
			list[i] = nested(unix.NFTA_LIST_ELEM, b.item(it))
		}
		b.add(kind, flags,
			netlink.Attribute{Type: unix.NFTA_SET_ELEM_LIST_SET, Data: text0(set)},
			nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, b.attributes(list...)))
		items = items[n:]
	}
}

func (b *batch) item(it item) []byte {
	var list []netlink.Attribute
	if it.end {
		list = append(list, netlink.Attribute{Type: unix.NFTA_SET_ELEM_FLAGS, Data: be32(unix.NFT_SET_ELEM_INTERVAL_END)})
	}
	list = append(list, nested(unix.NFTA_SET_ELEM_KEY, b.attributes(netlink.Attribute{Type: unix.NFTA_DATA_VALUE, Data: it.key})))
	if it.to != nil {
		code := []netlink.Attribute{{Type: unix.NFTA_VERDICT_CODE, Data: be32(uint32(it.to.action.kind()))}}
		if it.to.chain != "" {
			code = append(code, netlink.Attribute{Type: unix.NFTA_VERDICT_CHAIN, Data: text0(it.to.chain)})
		}
		v := nested(unix.NFTA_DATA_VERDICT, b.attributes(code...))
		list = append(list, nested(unix.NFTA_SET_ELEM_DATA, b.attributes(v)))
	}
	return b.attributes(list...)
}

// kind is the kernel's number of an action.
func (a action) kind() expr.VerdictKind {
	return [...]expr.VerdictKind{accept: expr.VerdictAccept, drop: expr.VerdictDrop, jump: expr.VerdictJump, goOver: expr.VerdictGoto}[a]
}
