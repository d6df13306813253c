package netpol

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// family is an address family; the zero value stands for both.
type family uint8

const (
	ipv4 family = 4
	ipv6 family = 6
)

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

// action is what becomes of a packet.
type action uint8

const (
	accept action = iota
	drop
	jump   // and come back
	goOver // and do not come back
)

// verdict is an action, with the chain that jump and goOver name.
type verdict struct {
	action action
	chain  string
}

// kind is what the elements of a set are made of.
type kind uint8

const (
	addresses kind = iota // addr
	ranges                // from addr to end
	pairs                 // addr . end
	endpoints             // addr . proto . port
	verdicts              // addr : verdict
)

// element is one of a set; which fields count depends on the set's kind.
type element struct {
	addr, end netip.Addr
	proto     uint8
	port      uint16
}

func (e element) compare(o element) int {
	return cmp.Or(e.addr.Compare(o.addr), e.end.Compare(o.end), cmp.Compare(e.proto, o.proto), cmp.Compare(e.port, o.port))
}

// set is an nftables set or, with verdicts, a map.
type set struct {
	kind     kind
	family   family
	elements map[element]verdict
}

// rule lets packets that match all its conditions have its verdict. It is comparable: equal rules do the same.
type rule struct {
	family    family
	proto     uint8  // 0: any
	low, high uint16 // ports, both ends included; 0, 0: any
	// peers is a set of addresses or ranges that the other side is in; empty: any.
	peers string
	// source says that the other side is the sender.
	source bool
	// endpoints is a set that destination, protocol and port are in; empty: any.
	endpoints string
	verdict   verdict
}

// ruleset is all that differs from one node and moment to the next; what is always the same is in [program].
type ruleset struct {
	sets   map[string]*set
	chains map[string][]rule
}

func newRuleset() *ruleset {
	rs := &ruleset{sets: map[string]*set{}, chains: map[string][]rule{}}
	for _, f := range []family{ipv4, ipv6} {
		rs.sets[verdictMap(ingress, f)] = &set{verdicts, f, map[element]verdict{}}
		rs.sets[verdictMap(egress, f)] = &set{verdicts, f, map[element]verdict{}}
		rs.sets[selfSet(f)] = &set{pairs, f, map[element]verdict{}}
	}
	return rs
}

// direction is seen from the pod.
type direction uint8

const (
	ingress direction = iota
	egress
)

func (d direction) String() string { return [...]string{"ingress", "egress"}[d] }

// verdictMap is the name of the map that has every pod of this node.
func verdictMap(d direction, f family) string { return fmt.Sprintf("%v-pods-%d", d, f) }

// selfSet is the name of the set of pairs of equal addresses: nftables cannot compare two fields of a packet.
func selfSet(f family) string { return fmt.Sprintf("self-%d", f) }

// prune drops sets that no rule looks at.
func (rs *ruleset) prune() {
	used := map[string]bool{}
	for _, rules := range rs.chains {
		for _, r := range rules {
			used[r.peers], used[r.endpoints] = true, true
		}
	}
	maps.DeleteFunc(rs.sets, func(name string, s *set) bool { return s.kind != verdicts && s.kind != pairs && !used[name] })
}

// String is the rule set in a form for people and tests, sorted.
func (rs *ruleset) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(rs.sets)) {
		s := rs.sets[name]
		if len(s.elements) == 0 {
			continue
		}
		fmt.Fprintf(&b, "set %s {\n", name)
		for _, e := range slices.SortedFunc(maps.Keys(s.elements), element.compare) {
			fmt.Fprintf(&b, "\t%s\n", s.describe(e))
		}
		b.WriteString("}\n")
	}
	for _, name := range slices.Sorted(maps.Keys(rs.chains)) {
		fmt.Fprintf(&b, "chain %s {\n", name)
		for _, r := range rs.chains[name] {
			fmt.Fprintf(&b, "\t%s\n", r)
		}
		b.WriteString("}\n")
	}
	return b.String()
}

func (s *set) describe(e element) string {
	switch s.kind {
	case ranges:
		return fmt.Sprintf("%s-%s", e.addr, e.end)
	case pairs:
		return fmt.Sprintf("%s . %s", e.addr, e.end)
	case endpoints:
		return fmt.Sprintf("%s . %s . %d", e.addr, protocolName(e.proto), e.port)
	case verdicts:
		return fmt.Sprintf("%s : %s", e.addr, s.elements[e])
	default:
		return e.addr.String()
	}
}

func (v verdict) String() string {
	return strings.TrimSpace([...]string{"accept", "drop", "jump", "goto"}[v.action] + " " + v.chain)
}

func (r rule) String() string {
	var words []string
	if r.family != 0 {
		words = append(words, fmt.Sprintf("ipv%d", r.family))
	}
	if r.proto != 0 {
		words = append(words, protocolName(r.proto))
	}
	switch {
	case r.low == 0:
	case r.low == r.high:
		words = append(words, fmt.Sprintf("port %d", r.low))
	default:
		words = append(words, fmt.Sprintf("port %d-%d", r.low, r.high))
	}
	if r.peers != "" {
		side := "to"
		if r.source {
			side = "from"
		}
		words = append(words, side+" @"+r.peers)
	}
	if r.endpoints != "" {
		words = append(words, "endpoint @"+r.endpoints)
	}
	return strings.Join(append(words, r.verdict.String()), " ")
}
