package sqlite

import (
	"sync"
	"sync/atomic"
)

// value is the cached value of a key's newest revision.
type value struct {
	rev   int64
	lease int64
	data  []byte
	used  atomic.Bool // since the hand last came by
}

// valueOverhead is what a cached value costs beside its bytes.
const valueOverhead = 64

// cache bounds the memory of cached values. Which value belongs to which key is kept in the entries themselves, so
// looking one up costs nothing; the ring is for choosing what to evict (CLOCK: a value read since the hand last passed
// stays). What was just written is cached, since its watchers and its next writer want it; what was read is cached
// when it is read a second time, so that listing everything once does not push out what is in use.
type cache struct {
	mu    sync.Mutex
	limit int
	bytes int
	ring  []*entry
	hand  int
	seen  [4096]int64 // revisions read once, by their low bits
}

// put makes data the cached value of e at rev. The caller holds Backend.mu for writing, or knows that e is at rev.
func (c *cache) put(e *entry, rev, lease int64, data []byte) {
	size := len(data) + valueOverhead
	c.mu.Lock()
	defer c.mu.Unlock()
	if size > c.limit/8 {
		c.dropLocked(e)
		return
	}
	if old := e.val.Swap(&value{rev: rev, lease: lease, data: data}); old != nil {
		c.bytes -= len(old.data) + valueOverhead
	}
	c.bytes += size
	if e.slot == 0 {
		c.ring = append(c.ring, e)
		e.slot = int32(len(c.ring))
	}
	for c.bytes > c.limit {
		c.evictOne()
	}
}

func (c *cache) evictOne() {
	if c.hand >= len(c.ring) {
		c.hand = 0
	}
	e := c.ring[c.hand]
	if e.val.Load().used.Swap(false) {
		c.hand++
		return
	}
	c.dropLocked(e) // moves another entry under the hand
}

// drop forgets e's value.
func (c *cache) drop(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropLocked(e)
}

func (c *cache) dropLocked(e *entry) {
	if e.slot == 0 {
		return
	}
	last := c.ring[len(c.ring)-1]
	c.ring[e.slot-1] = last
	last.slot = e.slot
	c.ring[len(c.ring)-1] = nil
	c.ring = c.ring[:len(c.ring)-1]
	e.slot = 0
	c.bytes -= len(e.val.Swap(nil).data) + valueOverhead
}

// get returns e's value at rev, nil when it is not cached.
func (c *cache) get(e *entry, rev int64) *value {
	v := e.val.Load()
	if v == nil || v.rev != rev {
		return nil
	}
	if !v.used.Load() {
		v.used.Store(true)
	}
	return v
}

// again tells whether rev was asked for before, and remembers it.
func (c *cache) again(rev int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := uint64(rev) % uint64(len(c.seen))
	if c.seen[i] == rev {
		return true
	}
	c.seen[i] = rev
	return false
}
