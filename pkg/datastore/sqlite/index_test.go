package sqlite

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// checkNode verifies the invariants of a node and returns its keys.
func checkNode(t *testing.T, n *node) []string {
	t.Helper()
	live := 0
	var keys []string
	if n.leaf() {
		for _, e := range n.ents {
			keys = append(keys, e.key)
			if !e.deleted() {
				live++
			}
		}
	}
	for i, k := range n.kids {
		sub := checkNode(t, k)
		if i > 0 && len(sub) > 0 && sub[0] < k.low {
			t.Fatalf("key %q is below its node's low %q", sub[0], k.low)
		}
		if i+1 < len(n.kids) && len(sub) > 0 && sub[len(sub)-1] >= n.kids[i+1].low {
			t.Fatalf("key %q is not below the next node's low %q", sub[len(sub)-1], n.kids[i+1].low)
		}
		keys = append(keys, sub...)
		live += k.live
	}
	if live != n.live {
		t.Fatalf("node counts %d live entries, has %d", n.live, live)
	}
	if len(n.ents) > fanout || len(n.kids) > fanout {
		t.Fatalf("node has %d entries and %d children", len(n.ents), len(n.kids))
	}
	return keys
}

func TestIndexAgainstAMap(t *testing.T) {
	for _, order := range []string{"random", "ascending", "descending"} {
		t.Run(order, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			x, model := newIndex(), map[string]bool{} // key to live
			key := func(i int) string { return fmt.Sprintf("/k/%05d", i) }
			const n = 20000
			for i := range n {
				k := key(rng.IntN(n))
				switch order {
				case "ascending":
					k = key(i)
				case "descending":
					k = key(n - i)
				}
				e := x.get(k)
				if live, ok := model[k]; ok != (e != nil) || ok && live == e.deleted() {
					t.Fatalf("get %q: %v, model has %v %v", k, e, live, ok)
				}
				if e == nil {
					e = x.insert(k)
				}
				switch {
				case e.deleted():
					e.version = 1
					x.addLive(k, 1)
					model[k] = true
				case rng.IntN(3) == 0:
					e.version = 0
					x.addLive(k, -1)
					x.remove(k)
					delete(model, k)
				default:
					e.version = 0
					x.addLive(k, -1)
					model[k] = false
				}
				if i%4000 == 0 {
					checkNode(t, x.root)
				}
			}
			compareIndex(t, rng, x, model, key, n)
			for k := range model {
				if e := x.get(k); !e.deleted() {
					e.version = 0
					x.addLive(k, -1)
				}
				x.remove(k)
			}
			if keys := checkNode(t, x.root); len(keys) != 0 || x.size != 0 {
				t.Errorf("%d keys are left in an index of size %d", len(keys), x.size)
			}
		})
	}
}

func compareIndex(t *testing.T, rng *rand.Rand, x *index, model map[string]bool, key func(int) string, n int) {
	t.Helper()
	keys := checkNode(t, x.root)
	want := []string{}
	for k := range model {
		want = append(want, k)
	}
	slices.Sort(want)
	if !slices.Equal(keys, want) || x.size != len(want) {
		t.Fatalf("index has %d keys (size %d), want %d", len(keys), x.size, len(want))
	}
	for range 200 {
		s := span{key(rng.IntN(n)), key(rng.IntN(n))}
		if rng.IntN(5) == 0 {
			s.end = ""
		}
		var got, wanted []string
		live := 0
		x.ascend(s, func(e *entry) bool { got = append(got, e.key); return true })
		for _, k := range want {
			if s.has(k) {
				wanted = append(wanted, k)
				if model[k] {
					live++
				}
			}
		}
		if !slices.Equal(got, wanted) {
			t.Fatalf("span %v has %d keys, want %d", s, len(got), len(wanted))
		}
		if c := x.count(s); c != live {
			t.Fatalf("span %v counts %d, want %d", s, c, live)
		}
	}
}

func TestWindowDropsAndKeeps(t *testing.T) {
	var w window
	e := &entry{}
	for rev := int64(5); rev < 5000; rev++ {
		w.append(rev, e, rev-1, rev%3 == 0, rev%5 == 0)
		if rev%7 == 0 {
			w.dropBefore(rev - 2500)
		}
	}
	if w.has(2400) || !w.has(2600) || !w.has(4999) || w.has(5000) {
		t.Fatalf("window is from %d to %d", w.base, w.next)
	}
	for rev := w.base; rev < w.next; rev++ {
		if r := w.at(rev); r.prev() != rev-1 || r.tombstone() != (rev%3 == 0) || r.create() != (rev%5 == 0) {
			t.Fatalf("record %d: %d %v", rev, r.prev(), r.tombstone())
		}
	}
	if n := len(w.chunks); n > 4 {
		t.Errorf("%d chunks for %d records", n, w.next-w.base)
	}
	w.dropBefore(5000)
	w.append(9000, e, 0, false, false)
	if w.base != 9000 || !w.has(9000) {
		t.Errorf("after it was emptied the window is from %d to %d", w.base, w.next)
	}
}
