package sqlite

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/server"
	"golang.org/x/sys/unix"
)

// maxBatchBytes bounds the values of one transaction, and so the memory and the time of it.
const maxBatchBytes = 4 << 20

type opKind int

const (
	opCreate opKind = iota
	opUpdate
	opDelete
	opCompact
)

// op is one write on its way.
type op struct {
	kind   opKind
	key    string
	value  []byte
	expect int64 // revision the key must have; 0 for a delete that takes any; for a compaction the target
	lease  int64
	done   chan result // of capacity one
}

// result tells how an op ended. With ok false and err nil the key was not at the expected revision.
type result struct {
	rev int64 // the op's revision if ok, else the newest
	ok  bool
	// kv is what an update wrote and what a delete removed.
	kv  *server.KeyValue
	err error
}

// queue hands ops to the writer.
type queue struct {
	mu     sync.Mutex
	ops    []*op
	spare  []*op
	closed bool
	signal chan struct{}
}

func (q *queue) init() { q.signal = make(chan struct{}, 1) }

func (q *queue) put(o *op) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	if q.ops = append(q.ops, o); len(q.ops) == 1 {
		select {
		case q.signal <- struct{}{}:
		default:
		}
	}
	return true
}

// take returns all queued ops. The slice is valid until the next call.
func (q *queue) take() []*op {
	q.mu.Lock()
	defer q.mu.Unlock()
	ops := q.ops
	clear(q.spare)
	q.ops, q.spare = q.spare[:0], ops
	return ops
}

func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.ops) == 0
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}

var errClosed = errors.New("datastore is closed")

// submit queues an op and waits for its end, or for ctx's: then the write may still happen.
func (b *Backend) submit(ctx context.Context, o *op) (result, error) {
	o.done = make(chan result, 1)
	if !b.queue.put(o) {
		return result{}, errClosed
	}
	select {
	case r := <-o.done:
		return r, r.err
	case <-ctx.Done():
		return result{}, ctx.Err()
	case <-b.failed:
		return result{}, b.failure
	}
}

// writer is what belongs to the writing goroutine.
type writer struct {
	conn         *conn
	log          *os.File // the write-ahead log, to sync
	checkpointer *conn    // of the checkpointing goroutine
	begin        *stmt
	commit       *stmt
	rollback     *stmt
	insert       *stmt
	delete       *stmt
	setMeta      *stmt
	read         *stmt
	vacuum       *stmt
	wal          walState
	sweepAt      time.Time // no housekeeping before this time
	batch        batch
}

func (w *writer) prepare(path string) (err error) {
	if w.log, err = os.OpenFile(path+"-wal", os.O_RDWR, 0); err != nil {
		return fmt.Errorf("open write-ahead log: %w", err)
	}
	for _, s := range []struct {
		dest    **stmt
		sql     string
		columns int
	}{
		{&w.begin, "BEGIN IMMEDIATE", 0},
		{&w.commit, "COMMIT", 0},
		{&w.rollback, "ROLLBACK", 0},
		{&w.insert, insertRow, 0},
		{&w.delete, "DELETE FROM log WHERE rev = ?", 0},
		{&w.setMeta, "UPDATE meta SET value = ? WHERE name = ?", 0},
		{&w.read, selectRow, rowColumns},
		{&w.vacuum, fmt.Sprintf("PRAGMA incremental_vacuum(%d)", vacuumPages), 0},
	} {
		if *s.dest, err = w.conn.prepare(s.sql, s.columns); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) close() error {
	var errs []error
	for _, s := range []*stmt{w.begin, w.commit, w.rollback, w.insert, w.delete, w.setMeta, w.read, w.vacuum} {
		if s != nil {
			errs = append(errs, s.close())
		}
	}
	for _, c := range []*conn{w.checkpointer, w.conn} {
		if c != nil {
			errs = append(errs, c.close())
		}
	}
	if w.log != nil {
		errs = append(errs, w.log.Close())
	}
	return errors.Join(errs...)
}

// sync brings all that was committed to the disk. With synchronous=FULL SQLite would do the same at each COMMIT, but
// with fsync unless it was compiled otherwise, and that also writes the file's time of change: another few blocks of the
// file system's journal for a small commit. The log is one file for as long as the database is open.
func (w *writer) sync() error {
	for {
		err := unix.Fdatasync(int(w.log.Fd()))
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("sync write-ahead log: %w", err)
		}
	}
}

// transaction runs f between BEGIN and COMMIT. It is on the disk after sync. When it returns an error nothing was changed,
// as far as that can be known: see recoverable.
func (w *writer) transaction(f func() error) error {
	err := w.begin.exec()
	if err != nil {
		return err
	}
	if err = f(); err == nil {
		if err = w.commit.exec(); err == nil {
			return nil
		}
	}
	// SQLite may have rolled back by itself.
	if !w.conn.c.AutoCommit() {
		err = errors.Join(err, w.rollback.exec())
	}
	return err
}

// writeLoop is the one goroutine that changes the database and what is known of it.
func (b *Backend) writeLoop() {
	defer b.wg.Done()
	for b.Err() == nil {
		wait := b.housekeep()
		var timer <-chan time.Time
		if wait >= 0 {
			timer = time.After(wait)
		}
		select {
		case <-b.queue.signal:
		case <-timer:
		case r := <-b.w.wal.done:
			b.checkpointDone(r)
		case <-b.stop:
			for ops := b.queue.take(); len(ops) > 0 && b.Err() == nil; {
				ops = ops[b.writeBatch(ops):]
			}
			return
		}
		for ops := b.queue.take(); len(ops) > 0 && b.Err() == nil; {
			ops = ops[b.writeBatch(ops):]
		}
	}
}

// batch is the writes of one transaction.
type batch struct {
	rows   []row
	prevs  []prevRow
	ops    []*op
	latest map[string]int // position of the newest row of a key
	bytes  int
	// watched tells whether the values that rows replaced are in prevs, for watchers.
	watched bool
	// target of a compaction in this batch; 0 if there is none
	compact int64
	answers []result
}

// prevRow is what a row of the batch replaced. value is nil when nobody needs it.
type prevRow struct {
	mod, create, version, lease int64
	hash                        uint64
	value                       []byte
}

// writeBatch commits as many of ops as fit into one transaction and answers them; it returns how many.
func (b *Backend) writeBatch(ops []*op) int {
	t := &b.w.batch
	t.reset(b.hub.active())
	n := 0
	for n < len(ops) && t.bytes < maxBatchBytes {
		b.plan(t, ops[n])
		n++
	}
	var err error
	if len(t.rows) > 0 || t.compact > 0 {
		if err = b.w.transaction(func() error { return b.insert(t) }); err == nil {
			err = b.w.sync()
		}
	}
	if err != nil {
		b.refuse(t, err)
		return n
	}
	b.mu.Lock()
	for i := range t.rows {
		b.apply(&t.rows[i], t.rows[i].value)
	}
	if t.compact > 0 {
		b.compacted = t.compact
	}
	b.mu.Unlock()
	b.hub.publish(t)
	for i, o := range t.ops {
		o.done <- t.answers[i]
	}
	b.w.wal.wrote(len(t.rows), t.bytes)
	return n
}

func (t *batch) reset(watched bool) {
	clear(t.rows)
	clear(t.prevs)
	clear(t.ops)
	clear(t.answers)
	*t = batch{
		rows: t.rows[:0], prevs: t.prevs[:0], ops: t.ops[:0], answers: t.answers[:0], latest: t.latest,
		watched: watched,
	}
	if t.latest == nil {
		t.latest = map[string]int{}
	}
	clear(t.latest)
}

// refuse answers a batch that could not be committed, and stops the store unless it is known to be unharmed.
func (b *Backend) refuse(t *batch, err error) {
	err = fmt.Errorf("write to datastore: %w", err)
	if !recoverable(err) {
		b.fail(err)
	}
	for _, o := range t.ops {
		o.done <- result{err: err}
	}
}

// plan checks one op against the newest state, that of the batch included, and adds its row and its answer.
func (b *Backend) plan(t *batch, o *op) {
	t.ops = append(t.ops, o)
	newest := b.current + int64(len(t.rows))
	if o.kind == opCompact {
		t.answers = append(t.answers, b.planCompact(t, o, newest))
		return
	}
	prev, known := b.newest(t, o.key)
	switch {
	case o.kind == opCreate && prev.version != 0:
		t.answers = append(t.answers, result{rev: newest, err: server.ErrKeyExists})
		return
	case o.kind == opUpdate && (prev.version == 0 || prev.mod != o.expect),
		o.kind == opDelete && (prev.version == 0 || o.expect != 0 && prev.mod != o.expect):
		t.answers = append(t.answers, result{rev: newest})
		return
	case prev.version >= math.MaxUint32:
		t.answers = append(t.answers, result{err: fmt.Errorf("key %q was written too often", o.key)})
		return
	}
	r := row{rev: newest + 1, key: o.key, prev: prev.mod}
	if o.kind != opDelete {
		r.version, r.create, r.lease, r.value = prev.version+1, prev.create, o.lease, o.value
		if r.value == nil {
			r.value = []byte{}
		}
		if prev.version == 0 {
			r.create = r.rev
		}
	}
	if prev.version != 0 && prev.value == nil && (o.kind == opDelete || t.watched) {
		value, err := b.oldValue(prev.mod, known)
		if err != nil {
			t.answers = append(t.answers, result{err: err})
			return
		}
		prev.value = value
	}
	r.hash = r.sum()
	r.live = b.live
	if len(t.rows) > 0 {
		r.live = t.rows[len(t.rows)-1].live
	}
	r.live -= prev.hash
	if !r.tombstone() {
		r.live += r.hash
	}
	t.latest[o.key] = len(t.rows)
	t.rows, t.prevs = append(t.rows, r), append(t.prevs, prev)
	t.bytes += len(r.value) + len(r.key)
	answer := result{rev: r.rev, ok: true, kv: r.keyValue()}
	if o.kind == opDelete {
		answer.kv = prev.keyValue(o.key)
	}
	t.answers = append(t.answers, answer)
}

// newest returns what the next write of key replaces; hash is 0 when that is not live. e is nil when the key is not in
// the index or was written by the batch itself.
func (b *Backend) newest(t *batch, key string) (p prevRow, e *entry) {
	if i, ok := t.latest[key]; ok {
		r := &t.rows[i]
		p = prevRow{mod: r.rev, create: r.create, version: r.version, lease: r.lease, hash: r.hash, value: r.value}
	} else if e = b.idx.get(key); e != nil {
		p = prevRow{mod: e.mod, create: e.create, version: int64(e.version), lease: b.leases[e], hash: e.hash}
	}
	if p.version == 0 {
		p.hash = 0
	}
	return p, e
}

// oldValue reads the value that a write replaces.
func (b *Backend) oldValue(rev int64, e *entry) ([]byte, error) {
	if e != nil {
		if v := b.cache.get(e, rev); v != nil {
			return v.data, nil
		}
	}
	r, err := readRow(b.w.read, b.path, rev)
	if err != nil {
		return nil, b.readError(err)
	}
	return r.value, nil
}

func (r *row) keyValue() *server.KeyValue {
	return &server.KeyValue{
		Key: r.key, Value: r.value, Version: r.version, CreateRevision: r.create, ModRevision: r.rev, Lease: r.lease,
	}
}

func (p *prevRow) keyValue(key string) *server.KeyValue {
	return &server.KeyValue{
		Key: key, Value: p.value, Version: p.version, CreateRevision: p.create, ModRevision: p.mod, Lease: p.lease,
	}
}

// insert writes a batch, inside a transaction.
func (b *Backend) insert(t *batch) error {
	for i := range t.rows {
		if err := b.w.insert.insert(&t.rows[i]); err != nil {
			return err
		}
	}
	if t.compact > 0 {
		return b.w.setMeta.exec(t.compact, metaCompact)
	}
	return nil
}
