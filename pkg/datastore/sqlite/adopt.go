package sqlite

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/k3s-io/kine/pkg/server"
	"github.com/mattn/go-sqlite3"
)

// kineFile is the database of k3s, and of kine's own driver, in the store's directory.
const kineFile = "state.db"

// adopt makes a store of the one that k3s left in dir, if there is one and no store of ours yet. What k3s left is only
// read and stays as it is: it is the backup. A crash before the end leaves no store, and the next start begins anew.
func adopt(dir string, log *slog.Logger) error {
	if _, err := os.Stat(filepath.Join(dir, fileName)); !errors.Is(err, os.ErrNotExist) {
		return err // nil: there is one
	}
	old := filepath.Join(dir, kineFile)
	if _, err := os.Stat(old); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("look for a k3s database: %w", err)
	}
	began := time.Now()
	log.Info("converting the database of k3s", "file", old)
	n, revision, err := convert(old, dir)
	if err != nil {
		return fmt.Errorf("convert database of k3s %s: %w; it was not changed", old, err)
	}
	log.Info("converted the database of k3s; the old file is kept as it was and not used any more",
		"file", old, "keys", n, "revision", revision, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// convert imports kine's table (kine v0.17.5 pkg/drivers/sqlite/sqlite.go:27): the newest row of each name that is not
// a deletion. Left out are kine's own rows: fillers of gaps in the revisions, and its record of compaction.
func convert(old, dir string) (n int, revision int64, err error) {
	// Exclusive: as long as k3s has it open, this fails.
	c, err := openConn(old, "rw", "busy_timeout=1000", "locking_mode=EXCLUSIVE")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.exec("BEGIN IMMEDIATE"); err != nil {
		var se sqlite3.Error
		if errors.As(err, &se) && se.Code == sqlite3.ErrBusy {
			return 0, 0, errors.New("another process is using it: stop k3s first")
		}
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, c.exec("ROLLBACK")) }()
	ok, err := c.text("PRAGMA quick_check(1)")
	if err != nil {
		return 0, 0, err
	}
	if len(ok) != 1 || ok[0] != "ok" {
		return 0, 0, fmt.Errorf("it is damaged: %q", ok)
	}
	top, _, err := c.ints("SELECT coalesce(max(id), 0) FROM kine")
	if err != nil {
		return 0, 0, err
	}
	im, err := NewImporter(dir)
	if err != nil {
		return 0, 0, err
	}
	if err := importKine(c, im); err != nil {
		return 0, 0, errors.Join(err, im.Abort())
	}
	return im.n, top[0], im.Finish(top[0])
}

// importKine adds the live set.
func importKine(c *conn, im *Importer) error {
	rows, err := c.prepare(`SELECT id, name, created, create_revision, lease, value FROM kine
		WHERE id IN (SELECT max(id) FROM kine GROUP BY name) AND deleted = 0
		AND name != 'compact_rev_key' AND name NOT LIKE 'gap-%' ORDER BY id`, 6)
	if err != nil {
		return err
	}
	defer rows.close()
	var rowErr error
	err = rows.each(func(v []driver.Value) bool {
		kv := &server.KeyValue{Key: string(blob(v[1])), Value: blob(v[5])}
		id, _ := v[0].(int64)
		created, _ := v[2].(int64)
		create, _ := v[3].(int64)
		kv.Lease, _ = v[4].(int64) // NULL is none
		kv.ModRevision, kv.CreateRevision = id, create
		if created != 0 || create == 0 {
			kv.CreateRevision = id
		}
		if kv.Key == "" {
			rowErr = fmt.Errorf("row %d has no name", id)
			return false
		}
		rowErr = im.Add(kv)
		return rowErr == nil
	})
	return errors.Join(err, rowErr)
}

// blob takes a column that may have been written as text.
func blob(v driver.Value) []byte {
	switch v := v.(type) {
	case []byte:
		return v
	case string:
		return []byte(v)
	}
	return nil
}
