package netpol

import (
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// compiler makes the rule set of one node. Policies that select no pod of this node make no rules; selectors that
// several policies share make one set.
type compiler struct {
	*world
	out         *ruleset
	addrs       map[*pod][]netip.Addr
	byNamespace map[string][]*pod // those with addresses
	families    []family          // that pods of this node have
	peers       map[string][]*pod // by selection key
	errs        []error
}

// compile is pure: the same world makes the same rule set. The error names what in policies cannot be understood, which
// then allows nothing; the rule set is good all the same.
func compile(w *world) (*ruleset, error) {
	c := &compiler{world: w, out: newRuleset(), addrs: w.resolve(), byNamespace: map[string][]*pod{}, peers: map[string][]*pod{}}
	for _, p := range w.pods {
		if len(c.addrs[p]) == 0 {
			continue
		}
		c.byNamespace[p.Namespace] = append(c.byNamespace[p.Namespace], p)
		if p.node != w.node {
			continue
		}
		for _, a := range c.addrs[p] {
			if f := familyOf(a); !slices.Contains(c.families, f) {
				c.families = append(c.families, f)
			}
		}
	}
	slices.Sort(c.families)
	c.locals()
	c.out.prune()
	return c.out, errors.Join(c.errs...)
}

// policy is a NetworkPolicy with the pods of this node that it selects.
type policy struct {
	*networkingv1.NetworkPolicy
	selector labels.Selector
	local    []*pod
}

func (p *policy) key() string { return p.Namespace + "/" + p.Name }

func (p *policy) affects(d direction) bool {
	want := networkingv1.PolicyTypeIngress
	if d == egress {
		want = networkingv1.PolicyTypeEgress
	}
	return slices.Contains(p.Spec.PolicyTypes, want)
}

// locals gives every pod of this node its verdicts, and makes the chains that they lead to.
func (c *compiler) locals() {
	inNamespace := map[string][]*policy{}
	for _, np := range c.policies {
		p := &policy{NetworkPolicy: np, selector: c.selector(np, &np.Spec.PodSelector, labels.Everything())}
		inNamespace[np.Namespace] = append(inNamespace[np.Namespace], p)
	}
	used := [2]map[*policy]bool{{}, {}}
	for _, p := range c.pods {
		if p.node != c.node || len(c.addrs[p]) == 0 {
			continue
		}
		var selecting []*policy
		for _, candidate := range inNamespace[p.Namespace] {
			if candidate.selector.Matches(labels.Set(p.Labels)) {
				candidate.local = append(candidate.local, p)
				selecting = append(selecting, candidate)
			}
		}
		for _, d := range []direction{ingress, egress} {
			c.isolate(p, d, selecting, used[d])
		}
	}
	for d, policies := range used {
		for p := range policies {
			c.out.chains[chainName(direction(d), p)] = c.rules(direction(d), p)
		}
	}
}

// isolate sets the verdict of one pod in one direction.
func (c *compiler) isolate(p *pod, d direction, selecting []*policy, used map[*policy]bool) {
	var chains, keys []string
	for _, s := range selecting {
		if s.affects(d) {
			used[s] = true
			chains, keys = append(chains, chainName(d, s)), append(keys, s.key())
		}
	}
	v := verdict{action: accept}
	if len(chains) > 0 {
		slices.Sort(chains)
		slices.Sort(keys)
		v = verdict{goOver, fmt.Sprintf("%v-pods-%s", d, hash(keys...))}
		if _, done := c.out.chains[v.chain]; !done {
			var rules []rule
			for _, name := range chains {
				rules = append(rules, rule{verdict: verdict{jump, name}})
			}
			c.out.chains[v.chain] = append(rules, rule{verdict: verdict{action: drop}})
		}
	}
	for _, a := range c.addrs[p] {
		f := familyOf(a)
		c.out.sets[verdictMap(d, f)].elements[element{addr: a}] = v
		if v.action != accept {
			c.out.sets[selfSet(f)].elements[element{addr: a, end: a}] = verdict{}
		}
	}
}

// rules are those of one policy in one direction: what they accept, the policy allows.
func (c *compiler) rules(d direction, p *policy) []rule {
	var out []rule
	if d == ingress {
		for _, r := range p.Spec.Ingress {
			out = append(out, c.rule(d, p, r.From, r.Ports)...)
		}
	} else {
		for _, r := range p.Spec.Egress {
			out = append(out, c.rule(d, p, r.To, r.Ports)...)
		}
	}
	return out
}

// rule is every combination of a rule's peers and ports.
func (c *compiler) rule(d direction, p *policy, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) []rule {
	sides, pods := c.sides(d, p, peers)
	var out []rule
	for _, m := range c.ports(d, p, pods, ports) {
		for _, s := range sides {
			if m.family != 0 && s.family != 0 && m.family != s.family {
				continue
			}
			r := rule{family: max(m.family, s.family), proto: m.proto, low: m.low, high: m.high, endpoints: m.endpoints, peers: s.peers, source: s.source}
			if r.endpoints != "" && d == egress {
				r.peers, r.source = "", false // the endpoints are the peers'
			}
			if !slices.Contains(out, r) {
				out = append(out, r)
			}
		}
	}
	return out
}

// sides are the conditions on the other side's address, and the pods that it selects, nil for all.
func (c *compiler) sides(d direction, p *policy, peers []networkingv1.NetworkPolicyPeer) ([]rule, []*pod) {
	if len(peers) == 0 {
		return []rule{{}}, nil
	}
	var out []rule
	var blocks []span
	pods := []*pod{}
	for i := range peers {
		peer := &peers[i]
		if peer.IPBlock != nil {
			list, err := parseBlock(peer.IPBlock)
			if err != nil {
				c.errs = append(c.errs, fmt.Errorf("policy %s: %w", p.key(), err))
			}
			blocks = append(blocks, list...)
			continue
		}
		key, selected := c.selected(p, peer)
		pods = append(pods, selected...)
		for _, f := range c.families {
			out = append(out, rule{family: f, peers: c.addressSet(f, key, selected), source: d == ingress})
		}
	}
	for _, f := range c.families {
		if name := c.rangeSet(f, blocks); name != "" {
			out = append(out, rule{family: f, peers: name, source: d == ingress})
		}
	}
	return out, pods
}

// selected are the pods that a peer selects, and a key that is the same for the same selection.
func (c *compiler) selected(p *policy, peer *networkingv1.NetworkPolicyPeer) (string, []*pod) {
	pods := labels.Everything()
	if peer.PodSelector != nil {
		pods = c.selector(p.NetworkPolicy, peer.PodSelector, labels.Nothing())
	}
	key := "in " + p.Namespace + " " + text(pods)
	if peer.NamespaceSelector == nil {
		if found, done := c.peers[key]; done {
			return key, found
		}
		c.peers[key] = matching(c.byNamespace[p.Namespace], pods)
		return key, c.peers[key]
	}
	spaces := c.selector(p.NetworkPolicy, peer.NamespaceSelector, labels.Nothing())
	key = "in all " + text(spaces) + " " + text(pods)
	if found, done := c.peers[key]; done {
		return key, found
	}
	var found []*pod
	for name, its := range c.namespaces {
		if spaces.Matches(its) {
			found = append(found, matching(c.byNamespace[name], pods)...)
		}
	}
	c.peers[key] = found
	return key, found
}

// text tells selectors apart; nothing and everything both have an empty String.
func text(s labels.Selector) string { return fmt.Sprintf("%q %t", s.String(), s.Empty()) }

func matching(pods []*pod, s labels.Selector) []*pod {
	var out []*pod
	for _, p := range pods {
		if s.Matches(labels.Set(p.Labels)) {
			out = append(out, p)
		}
	}
	return out
}

func (c *compiler) addressSet(f family, key string, pods []*pod) string {
	name := fmt.Sprintf("peers-%d-%s", f, hash(key))
	if c.out.sets[name] != nil {
		return name
	}
	s := &set{addresses, f, map[element]verdict{}}
	for _, p := range pods {
		for _, a := range c.addrs[p] {
			if familyOf(a) == f {
				s.elements[element{addr: a}] = verdict{}
			}
		}
	}
	c.out.sets[name] = s
	return name
}

// rangeSet names its sets by what is in them, so they never change: intervals are the slow kind of set. It is "" when
// there are none of the family.
func (c *compiler) rangeSet(f family, blocks []span) string {
	s := &set{ranges, f, map[element]verdict{}}
	var texts []string
	for _, b := range union(slices.Clone(blocks)) {
		if familyOf(b.from) == f {
			s.elements[element{addr: b.from, end: b.to}] = verdict{}
			texts = append(texts, b.from.String(), b.to.String())
		}
	}
	if len(texts) == 0 {
		return ""
	}
	name := fmt.Sprintf("blocks-%d-%s", f, hash(texts...))
	c.out.sets[name] = s
	return name
}

// ports are the conditions on protocol and port. pods are the peers of the rule, nil for all.
func (c *compiler) ports(d direction, p *policy, pods []*pod, list []networkingv1.NetworkPolicyPort) []rule {
	if len(list) == 0 {
		return []rule{{}}
	}
	var out []rule
	for _, port := range list {
		m := rule{proto: tcp}
		if port.Protocol != nil {
			m.proto = protocol(*port.Protocol)
		}
		switch {
		case port.Port == nil:
		case port.Port.Type == intstr.String:
			out = append(out, c.named(d, p, pods, m.proto, port.Port.StrVal)...)
			continue
		default:
			m.low = uint16(port.Port.IntVal)
			m.high = m.low
			if port.EndPort != nil {
				m.high = uint16(*port.EndPort)
			}
		}
		out = append(out, m)
	}
	return out
}

// named resolves a port's name, which each pod may give to another number: at the policy's own pods for what comes in,
// at the peers for what goes out. Addresses that are no pods' have no names.
func (c *compiler) named(d direction, p *policy, pods []*pod, proto uint8, port string) []rule {
	targets := pods
	switch {
	case d == ingress:
		targets = p.local
	case pods == nil:
		targets = c.pods
	}
	var out []rule
	for _, f := range c.families {
		s := &set{endpoints, f, map[element]verdict{}}
		for _, t := range targets {
			for _, n := range t.ports {
				if n.name != port || n.proto != proto {
					continue
				}
				for _, a := range c.addrs[t] {
					if familyOf(a) == f {
						s.elements[element{addr: a, proto: proto, port: n.number}] = verdict{}
					}
				}
			}
		}
		if len(s.elements) == 0 {
			continue
		}
		name := fmt.Sprintf("ports-%d-%s", f, s.digest())
		c.out.sets[name] = s
		out = append(out, rule{family: f, endpoints: name})
	}
	return out
}

// digest is a hash of what is in the set.
func (s *set) digest() string {
	var texts []string
	for e := range s.elements {
		texts = append(texts, s.describe(e))
	}
	slices.Sort(texts)
	return hash(texts...)
}

// selector parses what the API has validated.
func (c *compiler) selector(np *networkingv1.NetworkPolicy, s *metav1.LabelSelector, otherwise labels.Selector) labels.Selector {
	parsed, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("policy %s/%s: parse selector: %w", np.Namespace, np.Name, err))
		return otherwise
	}
	return parsed
}

// nameLimit keeps names of chains well below the kernel's 255 bytes and nft's shorter lines.
const nameLimit = 96

// chainName begins with a hash, which makes it unique, and goes on with what people look for.
func chainName(d direction, p *policy) string {
	name := fmt.Sprintf("%v-%s-%s", d, hash(p.key()), p.key())
	return name[:min(len(name), nameLimit)]
}

// hash is short for names: 60 bits.
func hash(texts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(texts, "\x00")))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:12]
}
