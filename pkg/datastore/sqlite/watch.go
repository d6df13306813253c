package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"

	"github.com/k3s-io/kine/pkg/server"
)

const (
	// watchBuffer is how many batches a watcher may be behind before it is served from disk.
	watchBuffer = 64
	// historyChunk is how many revisions are read from disk at a time, and historyBytes about how much of values.
	historyChunk = 256
	historyBytes = 4 << 20
)

// hub tells watchers what was committed. A watcher that keeps up gets each batch straight from the commit. One that
// does not, or that starts in the past, is read its history from disk until it has caught up: no event is dropped and
// none is held in memory for the slowest.
type hub struct {
	b      *Backend
	mu     sync.Mutex
	subs   map[*subscriber]struct{}
	sent   int64 // the last revision published
	closed bool
}

type subscriber struct {
	ch     chan server.EventBatch
	errc   chan error
	next   int64         // first revision not sent yet; guarded by hub.mu while live, else the catching-up goroutine's
	live   bool          // gets batches from publish; guarded by hub.mu
	behind chan struct{} // has an element when live was taken away
}

func (h *hub) active() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.subs) > 0
}

// publish is called by the writer after a batch is in the index.
func (h *hub) publish(t *batch) {
	if len(t.rows) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sent = t.rows[len(t.rows)-1].rev
	if len(h.subs) == 0 {
		return
	}
	var events []*server.Event
	if t.watched {
		events = make([]*server.Event, len(t.rows))
		for i := range t.rows {
			events[i] = t.event(i)
		}
	}
	// The receiver appends to the slice: without spare capacity it does that in a copy.
	batch := server.EventBatch{Events: events[:len(events):len(events)], CurrentRev: h.sent}
	for s := range h.subs {
		if !s.live {
			continue
		}
		if t.watched {
			select {
			case s.ch <- batch:
				s.next = h.sent + 1
				continue
			default:
			}
		}
		s.live = false
		s.behind <- struct{}{}
	}
}

func (t *batch) event(i int) *server.Event {
	r, p := &t.rows[i], &t.prevs[i]
	e := &server.Event{KV: r.keyValue(), Delete: r.tombstone(), Create: r.version == 1}
	if p.version != 0 {
		e.PrevKV = p.keyValue(r.key)
	}
	return e
}

// Watch returns the events from revision on, which is 0 for those after now. It always sends a first batch at once,
// perhaps without events: kine's server takes the newest revision from it.
func (b *Backend) Watch(ctx context.Context, revision int64) server.WatchResult {
	s := &subscriber{
		ch: make(chan server.EventBatch, watchBuffer), errc: make(chan error, 1), behind: make(chan struct{}, 1),
	}
	wr := server.WatchResult{Eventc: s.ch, Errorc: s.errc}
	b.mu.RLock()
	wr.CurrentRevision = b.current
	if revision > 0 && revision < b.compacted {
		wr.CompactRevision = b.compacted
	}
	b.mu.RUnlock()
	if wr.CompactRevision != 0 {
		close(s.ch)
		return wr
	}
	if s.next = revision; revision == 0 {
		s.next = wr.CurrentRevision + 1
	}
	if !b.enter() {
		s.errc <- errClosed
		close(s.ch)
		return wr
	}
	b.hub.add(s)
	s.ch <- server.EventBatch{CurrentRev: min(wr.CurrentRevision, max(s.next-1, 0))}
	s.behind <- struct{}{}
	go b.serveWatch(ctx, s)
	return wr
}

// enter counts a goroutine that Close is to wait for; false when it is too late for one.
func (b *Backend) enter() bool {
	b.hub.mu.Lock()
	defer b.hub.mu.Unlock()
	if b.hub.closed {
		return false
	}
	b.wg.Add(1)
	return true
}

func (h *hub) add(s *subscriber) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.subs == nil {
		h.subs = map[*subscriber]struct{}{}
	}
	h.subs[s] = struct{}{}
}

func (h *hub) remove(s *subscriber) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.subs, s)
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
}

// serveWatch sleeps while s keeps up, and brings it up to date when it is behind.
func (b *Backend) serveWatch(ctx context.Context, s *subscriber) {
	defer b.wg.Done()
	defer close(s.ch)
	defer b.hub.remove(s)
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.stop:
			return
		case <-b.failed:
			s.errc <- b.failure
			return
		case <-s.behind:
			if err := b.catchUp(ctx, s); err != nil {
				if ctx.Err() == nil {
					s.errc <- err
				}
				return
			}
		}
	}
}

// catchUp sends s its history until nothing newer was published, and then lets publish go on.
func (b *Backend) catchUp(ctx context.Context, s *subscriber) error {
	for {
		b.hub.mu.Lock()
		sent := b.hub.sent
		if s.next > sent {
			s.live = true
			b.hub.mu.Unlock()
			return nil
		}
		b.hub.mu.Unlock()
		batch, err := b.history(ctx, s.next, min(sent, s.next+historyChunk-1))
		if err != nil {
			return err
		}
		select {
		case s.ch <- batch:
		case <-ctx.Done():
			return ctx.Err()
		case <-b.stop:
			return errClosed
		}
		s.next = batch.CurrentRev + 1
	}
}

// history reads the events of a range of revisions, or of its beginning: CurrentRev tells. It returns ErrCompacted when
// the first is no longer there.
func (b *Backend) history(ctx context.Context, from, to int64) (server.EventBatch, error) {
	var out server.EventBatch
	err := b.readers.with(ctx, func(rd *reader) error {
		var rows []row
		var derr error
		size := 0
		err := rd.after.each(func(vals []driver.Value) bool {
			var r row
			if r, derr = fullRow(b.path, vals); derr != nil || r.rev > to {
				return false
			}
			rows = append(rows, r)
			if size += len(r.value); size > historyBytes {
				to = r.rev
			}
			return r.rev < to
		}, from-1, to-from+1)
		if err = errors.Join(err, derr); err != nil {
			return err
		}
		for i := range rows {
			e := &server.Event{KV: rows[i].keyValue(), Delete: rows[i].tombstone(), Create: rows[i].version == 1}
			if e.PrevKV, err = b.previous(rd, &rows[i]); err != nil {
				return err
			}
			out.Events = append(out.Events, e)
		}
		return nil
	})
	if err != nil {
		return out, b.readError(err)
	}
	// Only now is it known that no compaction removed rows while they were read.
	if from < b.CompactRevision() {
		return out, server.ErrCompacted
	}
	out.CurrentRev = to
	if int64(len(out.Events)) != to-from+1 {
		return out, &DamageError{b.path, fmt.Sprintf("revisions between %d and %d are missing", from, to)}
	}
	return out, nil
}

// previous reads what a row replaced; nil if that was nothing, or is compacted, as etcd has it.
func (b *Backend) previous(rd *reader, r *row) (*server.KeyValue, error) {
	if r.prev == 0 || r.prev < b.CompactRevision() || r.version == 1 {
		return nil, nil
	}
	p, err := readRow(rd.row, b.path, r.prev)
	if errors.Is(err, errNoRow) && r.prev < b.CompactRevision() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return p.keyValue(), nil
}
