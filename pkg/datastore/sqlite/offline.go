package sqlite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// ErrInUse is returned by what needs the store for itself while a server uses it.
var ErrInUse = errors.New("a knarr server uses this datastore")

// Info is what can be told about a store without opening it.
type Info struct {
	Revision, CompactRevision int64
	// FileBytes is the database's size, of which FreeBytes are unused; LogBytes is its write-ahead log's.
	FileBytes, FreeBytes, LogBytes int64
	// InUse tells that a server has it open.
	InUse bool
}

// Inspect looks at the store in dir, which a server may be using.
func Inspect(dir string) (info Info, err error) {
	path := filepath.Join(dir, fileName)
	if _, err := os.Stat(path); err != nil {
		return info, fmt.Errorf("find database: %w", err)
	}
	info.InUse, err = inUse(dir)
	if err != nil {
		return info, err
	}
	c, err := openConn(path, "ro", "query_only=ON")
	if err != nil {
		return info, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if ok, err := ours(c, path); err != nil || !ok {
		return info, errors.Join(readError(path, err), fmt.Errorf("database %s is empty", path))
	}
	n, _, err := c.ints("SELECT coalesce((SELECT max(rev) FROM log), 0), (SELECT value FROM meta WHERE name = 'compact_rev'), " +
		"(SELECT page_count FROM pragma_page_count), (SELECT freelist_count FROM pragma_freelist_count)")
	if err != nil {
		return info, readError(path, err)
	}
	info.Revision, info.CompactRevision, info.FileBytes, info.FreeBytes = n[0], n[1], n[2]*pageSize, n[3]*pageSize
	if fi, err := os.Stat(path + "-wal"); err == nil {
		info.LogBytes = fi.Size()
	}
	return info, nil
}

// inUse tells whether a server has the store open.
func inUse(dir string) (bool, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open lock file: %w", err)
	}
	busy := flock(f, syscall.LOCK_SH) != nil
	return busy, f.Close()
}

// Shrink compacts the store in dir to its newest revision and gives all free space back. It returns [ErrInUse] while a
// server uses it.
func Shrink(ctx context.Context, dir string, log *slog.Logger) error {
	b, err := Open(dir, Options{Log: log})
	if err != nil {
		return err
	}
	if b.current > b.compacted {
		_, err = b.Compact(ctx, b.current)
	}
	for poll := time.NewTicker(10 * time.Millisecond); err == nil && !b.Settled(); {
		select {
		case <-poll.C:
		case <-ctx.Done():
			err = ctx.Err()
		case <-b.Failed():
			err = b.Err()
		}
	}
	b.halt()
	if err == nil {
		err = b.w.conn.exec("VACUUM")
	}
	if err == nil {
		err = b.w.conn.exec("PRAGMA wal_checkpoint(TRUNCATE)")
	}
	return errors.Join(err, b.closeFiles())
}
