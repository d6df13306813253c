package sqlite

import "sync/atomic"

// fanout is the most entries of a leaf and the most children of an inner node.
const fanout = 64

// entry is what is known in memory of one key: its newest revision, and no value unless cached. Entries are made in
// slabs, 56 bytes each; with the key's own bytes and the tree's slot that is the whole cost of a key.
//
// Entries are read and written under Backend.mu, but for slot and val, which are the cache's.
type entry struct {
	key     string
	mod     int64 // revision of the newest row, a tombstone's if deleted
	create  int64 // revision at which the key was created; 0 if deleted
	hash    uint64
	version uint32 // number of writes since it was created, 1 for the first; 0 if deleted
	slot    int32  // position in the cache's ring plus one; 0 when not cached; guarded by cache.mu
	val     atomic.Pointer[value]
}

func (e *entry) deleted() bool { return e.version == 0 }

// index is an ordered set of entries, a B+tree that knows the number of live (not deleted) entries below each node,
// so that counting a range costs no more than finding its ends.
type index struct {
	root *node
	size int // entries, deleted ones included
	slab []entry
	free []*entry
}

type node struct {
	live int
	ents []*entry // of a leaf
	kids []*node  // of an inner node
	low  string   // no key below this node is smaller; not kept up to date for the leftmost
}

func newIndex() *index { return &index{root: &node{ents: make([]*entry, 0, fanout)}} }

// newEntry takes an entry from the slab. A slab is one allocation of about a page.
func (x *index) newEntry(key string) *entry {
	if n := len(x.free); n > 0 {
		e := x.free[n-1]
		x.free = x.free[:n-1]
		e.key = key
		return e
	}
	if len(x.slab) == 0 {
		x.slab = make([]entry, 73)
	}
	e := &x.slab[0]
	x.slab = x.slab[1:]
	e.key = key
	return e
}

func (n *node) leaf() bool { return n.kids == nil }

// kid returns the position of the child whose range holds key.
func (n *node) kid(key string) int {
	lo, hi := 1, len(n.kids)
	for lo < hi {
		mid := (lo + hi) / 2
		if n.kids[mid].low <= key {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo - 1
}

// find returns the position of the first entry not smaller than key.
func (n *node) find(key string) int {
	lo, hi := 0, len(n.ents)
	for lo < hi {
		mid := (lo + hi) / 2
		if n.ents[mid].key < key {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// get returns the entry of key, nil if there is none.
func (x *index) get(key string) *entry {
	n := x.root
	for !n.leaf() {
		n = n.kids[n.kid(key)]
	}
	if i := n.find(key); i < len(n.ents) && n.ents[i].key == key {
		return n.ents[i]
	}
	return nil
}

// insert adds a deleted entry for key, which must not be in the index. Call setLive once it is filled.
func (x *index) insert(key string) *entry {
	e := x.newEntry(key)
	if right := x.root.insert(e); right != nil {
		x.root = &node{live: x.root.live + right.live, kids: append(make([]*node, 0, fanout), x.root, right)}
	}
	x.size++
	return e
}

// insert returns the new right neighbour if n had to be split.
func (n *node) insert(e *entry) *node {
	if n.leaf() {
		i := n.find(e.key)
		if len(n.ents) < fanout {
			n.ents = append(n.ents, nil)
			copy(n.ents[i+1:], n.ents[i:])
			n.ents[i] = e
			return nil
		}
		return n.splitLeaf(i, e)
	}
	i := n.kid(e.key)
	right := n.kids[i].insert(e)
	if right == nil {
		return nil
	}
	return n.addKid(i+1, right)
}

// splitLeaf splits in the middle, or before the new entry when that comes last: keys often arrive in order.
func (n *node) splitLeaf(i int, e *entry) *node {
	at := fanout / 2
	if i == fanout {
		at = fanout
	}
	right := &node{ents: append(make([]*entry, 0, fanout), n.ents[at:]...)}
	clear(n.ents[at:])
	n.ents = n.ents[:at]
	if i > at || i == fanout {
		right.insert(e)
	} else {
		n.insert(e)
	}
	right.low = right.ents[0].key
	for _, r := range right.ents {
		if !r.deleted() {
			right.live++
		}
	}
	n.live -= right.live
	return right
}

func (n *node) addKid(i int, kid *node) *node {
	if len(n.kids) < fanout {
		n.kids = append(n.kids, nil)
		copy(n.kids[i+1:], n.kids[i:])
		n.kids[i] = kid
		return nil
	}
	at := fanout / 2
	if i == fanout {
		at = fanout - 1 // an inner node keeps at least one child; in-order inserts still leave full nodes
	}
	right := &node{kids: append(make([]*node, 0, fanout), n.kids[at:]...)}
	clear(n.kids[at:])
	n.kids = n.kids[:at]
	right.low = right.kids[0].low
	if i > at {
		right.addKid(i-at, kid)
	} else {
		n.addKid(i, kid)
	}
	n.recount()
	right.recount()
	return right
}

func (n *node) recount() {
	n.live = 0
	for _, k := range n.kids {
		n.live += k.live
	}
}

// addLive changes the number of live entries on the way to key.
func (x *index) addLive(key string, delta int) {
	n := x.root
	for {
		n.live += delta
		if n.leaf() {
			return
		}
		n = n.kids[n.kid(key)]
	}
}

// remove takes a deleted entry out of the index. It must have left the cache before.
func (x *index) remove(key string) {
	e := x.root.remove(key)
	if e == nil {
		return
	}
	x.size--
	for !x.root.leaf() && len(x.root.kids) == 1 {
		x.root = x.root.kids[0]
	}
	e.key, e.mod, e.create, e.hash, e.version = "", 0, 0, 0, 0
	x.free = append(x.free, e)
}

func (n *node) remove(key string) *entry {
	if n.leaf() {
		i := n.find(key)
		if i == len(n.ents) || n.ents[i].key != key {
			return nil
		}
		e := n.ents[i]
		copy(n.ents[i:], n.ents[i+1:])
		n.ents[len(n.ents)-1] = nil
		n.ents = n.ents[:len(n.ents)-1]
		return e
	}
	i := n.kid(key)
	e := n.kids[i].remove(key)
	if e != nil {
		n.merge(i)
	}
	return e
}

// merge joins child i with a neighbour when the two fill less than half a node.
func (n *node) merge(i int) {
	if i == len(n.kids)-1 {
		i--
	}
	if i < 0 {
		return
	}
	l, r := n.kids[i], n.kids[i+1]
	if len(l.ents)+len(r.ents) > fanout/2 || len(l.kids)+len(r.kids) > fanout/2 {
		return
	}
	l.ents = append(l.ents, r.ents...)
	if !l.leaf() {
		l.kids = append(l.kids, r.kids...)
	}
	l.live += r.live
	copy(n.kids[i+1:], n.kids[i+2:])
	n.kids[len(n.kids)-1] = nil
	n.kids = n.kids[:len(n.kids)-1]
}

// rank returns the number of live entries with keys smaller than key.
func (x *index) rank(key string) int {
	r := 0
	n := x.root
	for !n.leaf() {
		i := n.kid(key)
		for _, k := range n.kids[:i] {
			r += k.live
		}
		n = n.kids[i]
	}
	for _, e := range n.ents[:n.find(key)] {
		if !e.deleted() {
			r++
		}
	}
	return r
}

// count returns the number of live entries in the span.
func (x *index) count(s span) int {
	to := x.root.live
	if s.end != "" {
		to = x.rank(s.end)
	}
	return max(0, to-x.rank(s.start))
}

// ascend calls f for each entry of the span in order, deleted ones included, until f returns false.
func (x *index) ascend(s span, f func(*entry) bool) { x.root.ascend(s, f) }

func (n *node) ascend(s span, f func(*entry) bool) bool {
	if n.leaf() {
		for _, e := range n.ents[n.find(s.start):] {
			if !s.before(e.key) || !f(e) {
				return false
			}
		}
		return true
	}
	for i := n.kid(s.start); i < len(n.kids); i++ {
		if i > 0 && !s.before(n.kids[i].low) || !n.kids[i].ascend(s, f) {
			return false
		}
	}
	return true
}

// span is a range of keys: start included, end excluded; an empty end means no end.
type span struct{ start, end string }

// spanOf reads etcd's way of giving a range: no end means the one key, "\x00" as the end means all keys from start on,
// and kine's server gives all keys as two empty strings.
func spanOf(key, end string) span {
	switch {
	case key == "" && end == "":
		return span{}
	case end == "":
		return span{key, key + "\x00"}
	case end == "\x00":
		return span{key, ""}
	}
	return span{key, end}
}

func (s span) before(key string) bool { return s.end == "" || key < s.end }

func (s span) has(key string) bool { return key >= s.start && s.before(key) }
