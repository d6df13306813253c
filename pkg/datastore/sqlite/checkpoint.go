package sqlite

import (
	"fmt"
	"time"
)

const (
	// walSoftLimit is how much is written to the log before it is copied to the database, beside the writer.
	walSoftLimit = 8 << 20
	// walHardLimit is the size at which the writer itself copies the rest, so that the log starts over.
	walHardLimit = 24 << 20
	// walPreallocate is the size the log has from the start: what is written before a checkpoint, and some for what is
	// written during one.
	walPreallocate = walSoftLimit + 1<<20
)

// walState decides when to checkpoint. The writer never waits for a whole checkpoint: most of the copying is done by
// checkpointLoop on a connection of its own, and only what was written during that is left to the writer, who alone can
// make the log start over. Used by the writer, but for the channels.
type walState struct {
	pending   int64 // bytes in the log and not in the database yet, an estimate between checkpoints
	running   bool
	notBefore time.Time
	kick      chan struct{}
	done      chan checkpointed
}

type checkpointed struct {
	frames, copied int64
	err            error
}

func (w *walState) init() {
	w.kick, w.done = make(chan struct{}, 1), make(chan checkpointed, 1)
}

// wrote takes note of a transaction: its rows, and about two pages beside them.
func (w *walState) wrote(rows, bytes int) {
	w.pending += int64(bytes+bytes/8) + int64(rows)*64 + 3*pageSize
}

// start begins a checkpoint when one is due.
func (w *walState) start() {
	if w.pending >= walSoftLimit && !w.running && time.Now().After(w.notBefore) {
		w.running = true
		w.kick <- struct{}{}
	}
}

// checkpointLoop copies the log into the database while the writer goes on.
func (b *Backend) checkpointLoop() {
	defer b.wg.Done()
	for {
		select {
		case <-b.stop:
			return
		case <-b.failed:
			return
		case <-b.w.wal.kick:
			b.w.wal.done <- checkpoint(b.w.checkpointer)
		}
	}
}

func checkpoint(c *conn) checkpointed {
	n, _, err := c.ints("PRAGMA wal_checkpoint(PASSIVE)")
	if err != nil {
		return checkpointed{err: err}
	}
	return checkpointed{frames: n[1], copied: n[2]}
}

// checkpointDone is called by the writer after each checkpoint of the loop.
func (b *Backend) checkpointDone(r checkpointed) {
	w := &b.w.wal
	w.running = false
	if r.err == nil && (r.frames*pageSize >= walHardLimit || b.queue.empty()) {
		r = checkpoint(b.w.conn)
	}
	if recoverable(r.err) {
		// The log goes on growing, if it can, and nothing is lost.
		b.log.Error("no space to copy the write-ahead log to the database; will be tried again", "err", r.err)
		w.notBefore = time.Now().Add(time.Second)
		return
	}
	if r.err != nil {
		b.fail(fmt.Errorf("checkpoint datastore: %w", r.err))
		return
	}
	w.pending = (r.frames - r.copied) * pageSize // when 0, the next write starts the log over
}
