package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/k3s-io/kine/pkg/server"
)

const (
	selectRow  = "SELECT rev, key, create_rev, prev_rev, version, lease, hash, live, value FROM log WHERE rev = ?"
	rowColumns = 9
	// listChunk is how many keys are looked at with the index locked before others get their turn.
	listChunk = 1000
	// maxReaders is the most connections for reading. SQLite's own work per row is short.
	maxReaders = 4
)

var errNoRow = errors.New("no such row")

// readRow reads one row and checks its hash. It returns errNoRow when there is none.
func readRow(s *stmt, path string, rev int64) (r row, err error) {
	found := false
	var derr error
	err = s.each(func(vals []driver.Value) bool {
		r, derr = fullRow(path, vals)
		found = true
		return false
	}, rev)
	switch {
	case err != nil:
		return r, err
	case derr != nil:
		return r, derr
	case !found:
		return r, errNoRow
	}
	return r, nil
}

// fullRow reads all columns of a row and checks its hash.
func fullRow(path string, vals []driver.Value) (row, error) {
	r, ok := metaRow(vals)
	if ok && vals[8] != nil {
		r.value, ok = vals[8].([]byte)
	}
	if !ok || r.sum() != r.hash {
		return r, &DamageError{path, fmt.Sprintf("the row of revision %d does not match its checksum", r.rev)}
	}
	return r, nil
}

// readerPool has the connections for reading, opened as they are needed.
type readerPool struct {
	path string
	free chan *reader // nil elements are connections not opened yet
}

type reader struct {
	conn  *conn
	row   *stmt
	after *stmt
}

func (p *readerPool) init(path string) {
	p.path, p.free = path, make(chan *reader, maxReaders)
	for range maxReaders {
		p.free <- nil
	}
}

// with lends f a connection.
func (p *readerPool) with(ctx context.Context, f func(*reader) error) error {
	var r *reader
	select {
	case r = <-p.free:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { p.free <- r }()
	if r == nil {
		opened, err := openReader(p.path)
		if err != nil {
			return err
		}
		r = opened
	}
	return f(r)
}

func openReader(path string) (_ *reader, err error) {
	r := &reader{}
	if r.conn, err = openConn(path, "ro", "query_only=ON", "cache_size=-512"); err != nil {
		return nil, err
	}
	r.row, err = r.conn.prepare(selectRow, rowColumns)
	if err == nil {
		r.after, err = r.conn.prepare("SELECT rev, key, create_rev, prev_rev, version, lease, hash, live, value FROM log "+
			"WHERE rev > ? ORDER BY rev LIMIT ?", rowColumns)
	}
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *reader) close() error {
	var errs []error
	for _, s := range []*stmt{r.row, r.after} {
		if s != nil {
			errs = append(errs, s.close())
		}
	}
	return errors.Join(append(errs, r.conn.close())...)
}

func (p *readerPool) close() error {
	if p.free == nil {
		return nil
	}
	var errs []error
	for range maxReaders {
		if r := <-p.free; r != nil {
			errs = append(errs, r.close())
		}
	}
	return errors.Join(errs...)
}

// found is a key at the revision asked for, its value perhaps still to be read.
type found struct {
	e    *entry
	kv   server.KeyValue
	have bool // kv is complete; else only Key and ModRevision are set, or all but the value
	old  bool // not the key's newest revision
}

// lookup returns what key e had at revision rev. The caller holds mu.
func (b *Backend) lookup(e *entry, rev int64, keysOnly bool) (f found, ok bool) {
	if e.mod <= rev {
		if e.deleted() {
			return f, false
		}
		f = found{e: e, kv: server.KeyValue{
			Key: e.key, ModRevision: e.mod, CreateRevision: e.create, Version: int64(e.version),
		}}
		if keysOnly {
			f.kv.Lease, f.have = b.leases[e], true
		} else if v := b.cache.get(e, e.mod); v != nil {
			f.kv.Lease, f.kv.Value, f.have = v.lease, v.data, true
		}
		return f, true
	}
	at := e.mod
	for at > rev {
		rec := b.win.at(at)
		if at = rec.prev(); at <= rev && rec.create() {
			return f, false // what it replaced, if anything, is a tombstone
		}
	}
	return found{e: e, kv: server.KeyValue{Key: e.key, ModRevision: at}, old: true}, true
}

// fill reads the values that lookup did not have. It returns errNoRow when a row was compacted meanwhile.
func (b *Backend) fill(ctx context.Context, fs []found, keysOnly bool) error {
	first := 0
	for first < len(fs) && fs[first].have {
		first++
	}
	if first == len(fs) {
		return nil
	}
	return b.readers.with(ctx, func(rd *reader) error {
		for i := first; i < len(fs); i++ {
			f := &fs[i]
			if f.have {
				continue
			}
			r, err := readRow(rd.row, b.path, f.kv.ModRevision)
			if err != nil {
				return b.readError(err)
			}
			if r.key != f.kv.Key {
				return &DamageError{b.path, fmt.Sprintf("the row of revision %d has another key than the index", r.rev)}
			}
			f.kv.CreateRevision, f.kv.Version, f.kv.Lease, f.have = r.create, r.version, r.lease, true
			if !keysOnly {
				f.kv.Value = r.value
				b.admit(f, r.value)
			}
			if i%listChunk == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
		}
		return nil
	})
}

// admit caches a value that was read from disk for the second time.
func (b *Backend) admit(f *found, data []byte) {
	if f.old || !b.cache.again(f.kv.ModRevision) {
		return
	}
	b.mu.RLock()
	defer b.mu.RUnlock() // keeps the writer from replacing the revision meanwhile
	if f.e.mod == f.kv.ModRevision && f.e.key == f.kv.Key {
		b.cache.put(f.e, f.kv.ModRevision, f.kv.Lease, data)
	}
}

// readable checks a revision asked for and returns the one to read at. The caller holds mu.
func (b *Backend) readable(revision int64) (int64, error) {
	switch {
	case revision == 0:
		return b.current, nil
	case revision > b.current:
		return 0, server.ErrFutureRev
	case revision < b.compacted:
		return 0, server.ErrCompacted
	}
	return revision, nil
}

// Get returns the newest revision, and the key as it was at the given one (0: the newest), nil if it did not exist.
func (b *Backend) Get(ctx context.Context, key string, revision int64, keysOnly bool) (int64, *server.KeyValue, error) {
	current, kvs, err := b.list(ctx, spanOf(key, ""), 1, revision, keysOnly)
	if err != nil || len(kvs) == 0 {
		return current, nil, err
	}
	return current, kvs[0], nil
}

// List returns the newest revision, and the keys of a range as they were at the given one (0: the newest), in order,
// at most limit (0: all).
func (b *Backend) List(ctx context.Context, key, end string, limit, revision int64, keysOnly bool) (int64, []*server.KeyValue, error) {
	return b.list(ctx, spanOf(key, end), limit, revision, keysOnly)
}

func (b *Backend) list(ctx context.Context, s span, limit, revision int64, keysOnly bool) (int64, []*server.KeyValue, error) {
	if err := b.Err(); err != nil {
		return 0, nil, err
	}
	for {
		current, fs, err := b.find(s, limit, revision, keysOnly)
		if err == nil {
			err = b.fill(ctx, fs, keysOnly)
		}
		if errors.Is(err, errNoRow) || errors.Is(err, server.ErrCompacted) {
			if err = b.overtaken(revision, current); err == nil {
				continue
			}
		}
		if err != nil {
			return current, nil, err
		}
		kvs := make([]*server.KeyValue, len(fs))
		for i := range fs {
			kvs[i] = &fs[i].kv
		}
		return current, kvs, nil
	}
}

// overtaken decides what it means that a row was not there: nil means that a compaction passed the newest revision
// while a list without a revision was under way, so that it can be made again.
func (b *Backend) overtaken(revision, at int64) error {
	compacted := b.CompactRevision()
	switch {
	case revision != 0 && revision < compacted:
		return server.ErrCompacted
	case revision == 0 && at < compacted:
		return nil
	}
	return &DamageError{b.path, "a row that the index refers to is missing"}
}

// find collects the keys of a span. It returns ErrCompacted when a compaction passed the revision while the index was
// unlocked between chunks.
func (b *Backend) find(s span, limit, revision int64, keysOnly bool) (current int64, fs []found, err error) {
	rev := revision
	for more := true; more; {
		b.mu.RLock()
		at, err := b.readable(rev)
		if rev = at; current == 0 {
			current = b.current
		}
		if err != nil {
			b.mu.RUnlock()
			return current, nil, err
		}
		if limit == 1 && s.end == s.start+"\x00" {
			if e := b.idx.get(s.start); e != nil {
				if f, ok := b.lookup(e, rev, keysOnly); ok {
					fs = append(fs, f)
				}
			}
			b.mu.RUnlock()
			return current, fs, nil
		}
		if fs == nil {
			fs = make([]found, 0, b.expected(s, limit))
		}
		seen := 0
		more = false
		b.idx.ascend(s, func(e *entry) bool {
			if seen++; seen > listChunk {
				s.start, more = e.key, true
				return false
			}
			if f, ok := b.lookup(e, rev, keysOnly); ok {
				fs = append(fs, f)
			}
			return limit == 0 || int64(len(fs)) < limit
		})
		b.mu.RUnlock()
	}
	return current, fs, nil
}

// expected is the number of results to make room for.
func (b *Backend) expected(s span, limit int64) int {
	n := b.idx.count(s)
	if limit > 0 {
		n = min(n, int(limit))
	}
	return n
}

// ListStream is List with the keys one by one, for ranges too large to be held.
func (b *Backend) ListStream(ctx context.Context, key, end string, limit, revision int64, keysOnly bool) server.ListResult {
	kvc, errc := make(chan *server.KeyValue, 64), make(chan error, 1)
	s := spanOf(key, end)
	chunk := func(n int64) (int64, []*server.KeyValue, error) { return b.list(ctx, s, n, revision, keysOnly) }
	size := func() int64 {
		if limit > 0 {
			return min(limit, listChunk)
		}
		return listChunk
	}
	current, kvs, err := chunk(size())
	if revision == 0 {
		revision = current
	}
	if !b.enter() {
		errc <- errClosed
		close(errc)
		close(kvc)
		return server.ListResult{CurrentRevision: current, KVc: kvc, Errorc: errc}
	}
	go func() {
		defer b.wg.Done()
		defer close(errc)
		defer close(kvc)
		for err == nil && len(kvs) > 0 {
			for _, kv := range kvs {
				select {
				case kvc <- kv:
				case <-ctx.Done():
					errc <- ctx.Err()
					return
				case <-b.stop:
					errc <- errClosed
					return
				}
			}
			if limit > 0 {
				if limit -= int64(len(kvs)); limit == 0 {
					return
				}
			}
			s.start = kvs[len(kvs)-1].Key + "\x00"
			_, kvs, err = chunk(size())
		}
		if err != nil {
			errc <- err
		}
	}()
	return server.ListResult{CurrentRevision: current, KVc: kvc, Errorc: errc}
}

// Count returns the newest revision, and how many keys a range had at the given one (0: the newest).
func (b *Backend) Count(_ context.Context, key, end string, revision int64) (int64, int64, error) {
	if err := b.Err(); err != nil {
		return 0, 0, err
	}
	s := spanOf(key, end)
	b.mu.RLock()
	defer b.mu.RUnlock()
	rev, err := b.readable(revision)
	if err != nil {
		return b.current, 0, err
	}
	n := b.idx.count(s)
	// Undo what happened since.
	for r := rev + 1; r <= b.current; r++ {
		rec := b.win.at(r)
		switch {
		case !s.has(rec.e.key):
		case rec.tombstone():
			n++
		case rec.create():
			n--
		}
	}
	return b.current, int64(n), nil
}
