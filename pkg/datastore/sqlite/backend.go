// Package sqlite is knarr's own store for one server: the log of an etcd-like key space in a SQLite database, behind
// kine's server.Backend, which makes the etcd API of it.
//
// # How it works
//
// The database is a log, one row per revision (see schema). In memory there is an index of the newest revision of each
// key, in order of keys, and a window: for each revision since the last compaction, which key it wrote and which
// revision it replaced. So a write is checked in memory and costs one insert; a get or list reads the rows it returns,
// by their revisions, and none when their values are cached; a count reads nothing.
//
// One goroutine writes. It takes all writes that queued up while the last transaction was on its way to the disk and
// commits them in one: one sync for all, and no waiting for more when there is only one. Acknowledged means on disk:
// after COMMIT the write-ahead log is synced, and only then are the index changed, the watchers told and the writers
// answered. What fails to sync ends the store: it is never tried a second time. Compaction runs in the same goroutine in
// steps of a few milliseconds.
//
// # What it is not
//
// It is not for several servers: it locks its directory. It grants no leases beyond what kine's server needs, where a
// lease is a time to live; times start anew when the server starts, as etcd's do when its leader changes.
//
// # How it stops
//
// [Backend.Close] lets the queued writes finish, ends the watches and closes the database. Nothing depends on it:
// killed at any line, the next Open finds every acknowledged write. When the database cannot be trusted any more, an
// fsync that failed above all, the backend stops itself and [Backend.Failed] is closed; a new Open is then needed.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/k3s-io/kine/pkg/server"
)

// Options are what may be chosen. The zero value has sensible defaults.
type Options struct {
	// CacheBytes bounds the memory of cached values. Default 16 MiB.
	CacheBytes int
	Log        *slog.Logger // default: none
}

// Backend is an open store. All its methods may be called concurrently.
type Backend struct {
	path string
	log  *slog.Logger
	lock *os.File

	// mu guards the fields below. Only the writer changes them, so it reads them without the lock.
	mu        sync.RWMutex
	idx       *index
	win       window
	leases    map[*entry]int64
	live      uint64 // sum of the hashes of live rows
	current   int64  // newest revision
	compacted int64  // oldest revision that can be read
	swept     int64  // replaced rows were deleted up to here; at most compacted
	vacuuming bool   // there may be free pages to give back

	cache   cache
	readers readerPool
	hub     hub
	expiry  expiry
	queue   queue
	w       writer

	started  atomic.Bool
	closing  sync.Once
	closeErr error
	stop     chan struct{}
	failed   chan struct{}
	failure  error // set before failed is closed
	wg       sync.WaitGroup
}

var _ server.Backend = (*Backend)(nil)

// Open opens the store in dir, creating it when there is none, and reads its index. When there is a k3s database and no
// store yet, the store is made from that, which stays as it was. It returns a [*DamageError] when
// what it reads is not what was written. Close it when done.
func Open(dir string, o Options) (_ *Backend, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 16 << 20
	}
	b := &Backend{
		path: filepath.Join(dir, fileName), log: o.Log,
		idx: newIndex(), leases: map[*entry]int64{},
		cache: cache{limit: o.CacheBytes},
		stop:  make(chan struct{}), failed: make(chan struct{}),
	}
	b.queue.init()
	b.w.wal.init()
	b.expiry.init()
	b.hub.b = b
	if b.lock, err = lockDir(filepath.Join(dir, lockName)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.closeFiles())
		}
	}()
	if err = adopt(dir, o.Log); err != nil {
		return nil, err
	}
	if b.w.conn, err = openWriter(b.path); err != nil {
		return nil, b.readError(err)
	}
	if err = b.w.prepare(b.path); err != nil {
		return nil, b.readError(err)
	}
	b.readers.init(b.path)
	began := time.Now()
	if err = b.load(); err != nil {
		return nil, err
	}
	b.hub.sent = b.current
	b.log.Info("datastore open", "keys", b.idx.root.live, "revision", b.current, "took", time.Since(began).Round(time.Millisecond))
	if b.w.checkpointer, err = openConn(b.path, "rw", "synchronous=FULL", "cache_size=-128"); err != nil {
		return nil, err
	}
	b.wg.Add(2)
	go b.writeLoop()
	go b.checkpointLoop()
	return b, nil
}

// Start begins expiring leases and makes the key that the apiserver's health check reads (kine v0.17.5
// pkg/logstructured/logstructured.go:38); it also makes the first revision of a new store one, as clients expect.
func (b *Backend) Start(ctx context.Context) error {
	if b.started.Swap(true) {
		return errors.New("datastore was already started")
	}
	_, err := b.Create(ctx, server.HealthKey, []byte(server.HealthVal), 0)
	if err != nil && !errors.Is(err, server.ErrKeyExists) {
		return fmt.Errorf("create health key: %w", err)
	}
	b.wg.Add(1)
	go b.expireLoop()
	return nil
}

// Failed is closed when the store stopped itself; Err then says why.
func (b *Backend) Failed() <-chan struct{} { return b.failed }

// Err is nil until Failed is closed.
func (b *Backend) Err() error {
	select {
	case <-b.failed:
		return b.failure
	default:
		return nil
	}
}

// fail is called by the writer's goroutine only.
func (b *Backend) fail(err error) {
	b.failure = fmt.Errorf("datastore stopped: %w", err)
	b.log.Error("datastore stopped itself; restart it to go on from what is on disk", "err", err)
	close(b.failed)
}

// Close ends the store. Calls made after it fail; a second Close does nothing more.
func (b *Backend) Close() error {
	b.closing.Do(func() {
		b.halt()
		b.closeErr = b.closeFiles()
	})
	return b.closeErr
}

// halt ends everything but the files.
func (b *Backend) halt() {
	b.queue.close()
	b.hub.close()
	close(b.stop)
	b.wg.Wait()
}

func (b *Backend) closeFiles() error {
	errs := []error{b.readers.close()}
	errs = append(errs, b.w.close())
	if b.lock != nil {
		errs = append(errs, b.lock.Close())
	}
	return errors.Join(errs...)
}

// apply makes a row part of what is known in memory: the one way in which the index, the window, the checksum and the
// leases change, at start and after each commit. value is nil when it is not at hand. The caller holds mu.
func (b *Backend) apply(r *row, value []byte) {
	e := b.idx.get(r.key)
	if e == nil {
		e = b.idx.insert(r.key)
	}
	was := !e.deleted()
	if was {
		b.live -= e.hash
	}
	e.mod, e.create, e.version, e.hash = r.rev, r.create, uint32(r.version), r.hash
	now := !e.deleted()
	if now {
		b.live += r.hash
	}
	if was != now {
		delta := 1
		if was {
			delta = -1
		}
		b.idx.addLive(r.key, delta)
	}
	if r.lease > 0 {
		b.leases[e] = r.lease
		b.expiry.add(e.key, r.rev, r.lease)
	} else if len(b.leases) > 0 {
		delete(b.leases, e)
	}
	if now && value != nil {
		b.cache.put(e, r.rev, r.lease, value)
	} else {
		b.cache.drop(e)
	}
	if r.rev >= b.swept {
		b.win.append(r.rev, e, r.prev, r.tombstone(), r.version == 1)
	}
	b.current = r.rev
}

// CurrentRevision returns the newest revision.
func (b *Backend) CurrentRevision(context.Context) (int64, error) {
	if err := b.Err(); err != nil {
		return 0, err
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.current, nil
}

// CompactRevision returns the oldest revision that can be read; 0 if never compacted.
func (b *Backend) CompactRevision() int64 {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.compacted
}

// DbSize returns the bytes the database has on disk, its write-ahead log included.
func (b *Backend) DbSize(context.Context) (int64, error) {
	var n int64
	for _, suffix := range []string{"", "-wal"} {
		fi, err := os.Stat(b.path + suffix)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("find size of database: %w", err)
		}
		n += fi.Size()
	}
	return n, nil
}
