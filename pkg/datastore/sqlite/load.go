package sqlite

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mattn/go-sqlite3"

	"github.com/knarr-io/knarr/pkg/atomicfile"
)

// openWriter opens the database for writing, creating it when there is none. A file that is not ours, or newer than this
// program, is refused before anything in it is changed.
func openWriter(path string) (_ *conn, err error) {
	c, err := openConn(path, "rwc", "cache_size=-2048")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	made, err := ours(c, path)
	if err != nil {
		return nil, err
	}
	if !made {
		// auto_vacuum takes effect on an empty file only; VACUUM makes it empty in whatever state a crash left it.
		if err := execAll(c, fmt.Sprintf("PRAGMA page_size=%d", pageSize), "PRAGMA auto_vacuum=INCREMENTAL", "VACUUM"); err != nil {
			return nil, err
		}
	}
	// NORMAL: SQLite syncs what its own consistency needs; that an acknowledged write is on the disk is seen to by
	// writer.sync, which costs less and is left out where nothing is acknowledged.
	if err := execAll(c, "PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL", "PRAGMA wal_autocheckpoint=0",
		fmt.Sprintf("PRAGMA journal_size_limit=%d", walHardLimit)); err != nil {
		return nil, err
	}
	if !made {
		err = execAll(c, "BEGIN IMMEDIATE", schema, fmt.Sprintf("PRAGMA application_id=%d", applicationID),
			fmt.Sprintf("PRAGMA user_version=%d", schemaVersion), "COMMIT")
		if err != nil {
			return nil, err
		}
	}
	if err := c.c.SetFileControlInt("main", sqlite3.SQLITE_FCNTL_PERSIST_WAL, 1); err != nil {
		return nil, fmt.Errorf("keep write-ahead log of %s: %w", path, err)
	}
	return c, preallocate(path + "-wal")
}

// preallocate makes the write-ahead log as large as it gets before it starts over, so that a commit writes over blocks
// that are there: then fdatasync writes those and nothing of the file system's own journal, which is much of what a
// small commit costs otherwise. What follows the valid frames means nothing to SQLite. (It holds no locks on this file
// that closing it here could drop: those are on the other two.) It also syncs the names of new files.
func preallocate(wal string) error {
	f, err := os.OpenFile(wal, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("preallocate write-ahead log: %w", err)
	}
	fi, err := f.Stat()
	if err == nil && fi.Size() < walPreallocate {
		if _, err = f.WriteAt(make([]byte, walPreallocate-fi.Size()), fi.Size()); err == nil {
			err = f.Sync()
		}
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("preallocate write-ahead log: %w", err)
	}
	return atomicfile.Sync(filepath.Dir(wal))
}

func execAll(c *conn, sqls ...string) error {
	for _, sql := range sqls {
		if err := c.exec(sql); err != nil {
			return err
		}
	}
	return nil
}

// ours tells whether the file has our tables; if not it must be empty.
func ours(c *conn, path string) (bool, error) {
	ids, _, err := c.ints("SELECT (SELECT application_id FROM pragma_application_id), " +
		"(SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_schema)")
	if err != nil {
		return false, err
	}
	switch {
	case ids[0] == applicationID && ids[1] == schemaVersion:
		return true, nil
	case ids[0] == applicationID:
		return false, fmt.Errorf("database %s has schema version %d, this program knows %d: use the version of knarr "+
			"that wrote it, or a newer one", path, ids[1], schemaVersion)
	case ids[2] != 0:
		return false, fmt.Errorf("database %s was not made by knarr (application id %#x): move it away", path, ids[0])
	}
	return false, nil
}

// load reads the log without values into the index and the window, and checks on the way that it is whole: revisions
// dense from the swept revision on, each row's live sum the one its predecessors give.
func (b *Backend) load() error {
	for name, dest := range map[string]*int64{metaCompact: &b.compacted, metaSwept: &b.swept} {
		v, ok, err := b.w.conn.ints("SELECT value FROM meta WHERE name=?", name)
		if err != nil {
			return b.readError(err)
		}
		if !ok {
			return &DamageError{b.path, "row " + name + " of table meta is missing"}
		}
		*dest = v[0]
	}
	if b.swept > b.compacted {
		return &DamageError{b.path, fmt.Sprintf("swept revision %d is past the compacted one, %d", b.swept, b.compacted)}
	}
	scan, err := b.w.conn.prepare("SELECT rev, key, create_rev, prev_rev, version, lease, hash, live FROM log ORDER BY rev", 8)
	if err != nil {
		return err
	}
	defer scan.close()
	l := loader{b: b}
	if err := scan.each(l.add); err != nil {
		return b.readError(err)
	}
	if l.err != nil {
		return l.err
	}
	if b.current < b.swept {
		return &DamageError{b.path, fmt.Sprintf("the newest row is %d, rows up to %d were there", b.current, b.swept)}
	}
	return nil
}

// readError makes a DamageError of what SQLite says about a malformed file.
func readError(path string, err error) error {
	var se sqlite3.Error
	if errors.As(err, &se) && (se.Code == sqlite3.ErrCorrupt || se.Code == sqlite3.ErrNotADB) {
		return &DamageError{path, err.Error()}
	}
	return err
}

func (b *Backend) readError(err error) error { return readError(b.path, err) }

type loader struct {
	b   *Backend
	err error
}

func (l *loader) damaged(format string, args ...any) bool {
	l.err = &DamageError{l.b.path, fmt.Sprintf(format, args...)}
	return false
}

// add takes one row, in the order of revisions.
func (l *loader) add(vals []driver.Value) bool {
	b := l.b
	r, ok := metaRow(vals)
	if !ok {
		return l.damaged("a row after revision %d has columns of wrong types", b.current)
	}
	switch {
	case b.current < b.swept && r.rev > b.swept:
		return l.damaged("the row of revision %d is missing", b.swept)
	case b.current >= b.swept && r.rev != b.current+1:
		return l.damaged("rows between revisions %d and %d are missing", b.current, r.rev)
	}
	b.apply(&r, nil)
	if r.rev >= b.swept && b.live != r.live {
		return l.damaged("the checksum over all live keys does not match at revision %d", r.rev)
	}
	return true
}

// metaRow reads the first eight columns of a row.
func metaRow(vals []driver.Value) (r row, ok bool) {
	var hash, live int64
	for i, dest := range []*int64{0: &r.rev, 2: &r.create, 3: &r.prev, 4: &r.version, 5: &r.lease, 6: &hash, 7: &live} {
		if dest != nil {
			if *dest, ok = vals[i].(int64); !ok {
				return r, false
			}
		}
	}
	key, ok := vals[1].([]byte)
	r.key, r.hash, r.live = string(key), uint64(hash), uint64(live)
	return r, ok
}
