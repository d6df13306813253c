package sqlite

const chunkRecords = 1024

// window knows, of every revision since the store was last compacted (physically, see compact), which key it wrote
// and which revision of that key it replaced: all that reading at an old revision and compacting need, 16 bytes a
// revision. Revisions in it are dense. It is guarded by Backend.mu.
type window struct {
	base   int64 // the first revision held; 0 when the window is empty
	next   int64 // one more than the last revision held
	chunks []*[chunkRecords]record
	skip   int // records of chunks[0] that were dropped
}

// record is one revision: the key's entry, and the revision it replaced (0: none known) with two bits that say what it
// did.
type record struct {
	e    *entry
	bits int64
}

const (
	bitTombstone = 1 << iota
	bitCreate
	prevShift = iota
)

func (r record) prev() int64     { return r.bits >> prevShift }
func (r record) tombstone() bool { return r.bits&bitTombstone != 0 }

// create tells that the key did not exist before; prev may be a tombstone.
func (r record) create() bool { return r.bits&bitCreate != 0 }

// append adds the next revision.
func (w *window) append(rev int64, e *entry, prev int64, tombstone, create bool) {
	if w.next == 0 || w.base == w.next {
		*w = window{base: rev, next: rev}
	}
	i := int(w.next-w.base) + w.skip
	if i/chunkRecords == len(w.chunks) {
		w.chunks = append(w.chunks, new([chunkRecords]record))
	}
	r := record{e: e, bits: prev << prevShift}
	if tombstone {
		r.bits |= bitTombstone
	}
	if create {
		r.bits |= bitCreate
	}
	w.chunks[i/chunkRecords][i%chunkRecords] = r
	w.next = rev + 1
}

func (w *window) has(rev int64) bool { return rev >= w.base && rev < w.next }

// at returns the record of a revision the window has.
func (w *window) at(rev int64) record {
	i := int(rev-w.base) + w.skip
	return w.chunks[i/chunkRecords][i%chunkRecords]
}

// dropBefore forgets the revisions before rev.
func (w *window) dropBefore(rev int64) {
	for w.base < rev && w.base < w.next {
		w.chunks[0][w.skip] = record{}
		w.base++
		if w.skip++; w.skip == chunkRecords {
			w.chunks[0] = nil
			w.chunks = w.chunks[1:]
			w.skip = 0
		}
	}
}
