package sqlite

import (
	"database/sql/driver"
	"fmt"
	"time"

	"github.com/k3s-io/kine/pkg/server"
)

const (
	// stepTime bounds a step of housekeeping: the write lock is held for no longer, and one commit that nobody waits for.
	stepTime = 5 * time.Millisecond
	// sweepRows is how many replaced rows one step deletes.
	sweepRows = 512
	// vacuumPages is how many free pages one step gives back. Each takes SQLite a search of the list of free pages, the
	// better part of a millisecond when there are a hundred thousand.
	vacuumPages = 128
	// vacuumRest is how much longer than a step the time to the next one is, while space is given back: writers fill free
	// pages too, and nothing waits for the rest.
	vacuumRest = 10
	// vacuumSlack is how much free space may stay in the file whatever its size; beyond it, a quarter of the file.
	// Free pages are filled by the next writes, giving back all of them would only wear the disk.
	vacuumSlack = 1 << 20
)

// planCompact checks a compaction. It only moves the oldest readable revision, which is one small write; the rows are
// deleted by sweep.
func (b *Backend) planCompact(t *batch, o *op, newest int64) result {
	switch {
	case o.expect > newest:
		return result{rev: newest, err: server.ErrFutureRev}
	case o.expect <= max(b.compacted, t.compact):
		return result{rev: newest, err: server.ErrCompacted}
	}
	t.compact = o.expect
	return result{rev: newest, ok: true}
}

// housekeep does a step of what has to be done besides writing, and returns after how long the next one is due;
// negative means when something was written.
func (b *Backend) housekeep() time.Duration {
	b.w.wal.start()
	w := &b.w
	if b.swept >= b.compacted && !b.vacuuming {
		return -1
	}
	if wait := time.Until(w.sweepAt); wait > 0 {
		return wait
	}
	began := time.Now()
	var err error
	rest := time.Duration(1) // as much time for writers as for the sweep, so that neither ever stops the other
	if b.swept < b.compacted {
		err = b.sweep()
	} else {
		rest = vacuumRest
		err = b.vacuum()
	}
	now := time.Now()
	w.sweepAt = now.Add(rest * now.Sub(began))
	if err != nil {
		if err = fmt.Errorf("compact datastore: %w", err); !recoverable(err) {
			b.fail(err)
			return -1
		}
		b.log.Error("compaction will be tried again in a second", "err", err)
		w.sweepAt = now.Add(time.Second)
	}
	return max(time.Until(w.sweepAt), 0) // which may have passed already, on a busy machine
}

// sweep deletes rows that were replaced at or before the compacted revision, and tombstones before it, from where the
// last step ended. The row of the compacted revision itself stays, tombstone or not, so that a watch may start there
// and the newest revision is never lost.
func (b *Backend) sweep() error {
	began := time.Now()
	to := b.swept
	var dead []string // keys of tombstones that go
	err := b.w.transaction(func() error {
		rows := 0
		for to < b.compacted && rows < sweepRows && (rows == 0 || time.Since(began) < stepTime) {
			to++
			if prev := b.win.at(to).prev(); prev != 0 {
				if err := b.w.delete.exec(prev); err != nil {
					return err
				}
				rows++
			}
			if !b.win.has(to - 1) {
				continue
			}
			if old := b.win.at(to - 1); old.tombstone() {
				if err := b.w.delete.exec(to - 1); err != nil {
					return err
				}
				rows++
				if old.e.mod == to-1 {
					dead = append(dead, old.e.key)
				}
			}
		}
		return b.w.setMeta.exec(to, metaSwept)
	})
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.win.dropBefore(to)
	b.swept = to
	b.vacuuming = true
	for _, key := range dead {
		b.idx.remove(key)
	}
	b.w.wal.wrote(0, 64*pageSize)
	return nil
}

// vacuum gives a few free pages back to the file system.
func (b *Backend) vacuum() error {
	n, _, err := b.w.conn.ints("SELECT freelist_count, page_count FROM pragma_freelist_count, pragma_page_count")
	if err != nil {
		return err
	}
	free, pages := n[0], n[1]
	more := free*pageSize > vacuumSlack && free > pages/4
	if more {
		began, given := time.Now(), 0
		err := b.w.transaction(func() error {
			// The pragma frees a page for each row that it returns.
			return b.w.vacuum.each(func([]driver.Value) bool {
				given++
				return time.Since(began) < stepTime
			})
		})
		if err != nil {
			return err
		}
		b.w.wal.wrote(0, 2*given*pageSize)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.vacuuming = more
	return nil
}

// Settled tells whether everything compacted was deleted and the space was given back.
func (b *Backend) Settled() bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.swept == b.compacted && !b.vacuuming
}
