package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/k3s-io/kine/pkg/server"

	"github.com/knarr-io/knarr/pkg/atomicfile"
)

// importSuffix marks a database that is being made. One that is found is from an import that did not finish; its
// source is still there, so it is thrown away.
const importSuffix = ".importing"

// Importer makes a store out of the live set of another one. Revisions stay what they were, so that clients that
// remember them are not confused; older revisions are as if compacted. The store appears, whole, in [Importer.Finish].
type Importer struct {
	dir  string
	path string
	conn *conn
	ins  *stmt
	live uint64
	max  int64
	n    int
	// health is the health key's row, which Finish writes anew.
	health *server.KeyValue
}

// NewImporter begins to make a store in dir, which must not have one.
func NewImporter(dir string) (_ *Importer, err error) {
	if _, err := os.Stat(filepath.Join(dir, fileName)); err == nil {
		return nil, fmt.Errorf("import into %s: the new store is not empty: there is a database already, move it away", dir)
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("import into %s: %w", dir, err)
	}
	im := &Importer{dir: dir, path: filepath.Join(dir, fileName+importSuffix)}
	if err := removeDatabase(im.path); err != nil {
		return nil, err
	}
	if im.conn, err = openWriter(im.path); err != nil {
		return nil, err
	}
	// Nothing is worth syncing before Finish does it for all.
	if err = execAll(im.conn, "PRAGMA journal_mode=DELETE", "PRAGMA synchronous=OFF", "BEGIN IMMEDIATE"); err == nil {
		im.ins, err = im.conn.prepare(insertRow, 0)
	}
	if err != nil {
		return nil, errors.Join(err, im.Abort())
	}
	return im, nil
}

// Add takes one key of the live set, in any order. A version of 0, from stores that do not keep it, counts as the
// least possible one.
func (im *Importer) Add(kv *server.KeyValue) error {
	im.n++
	im.max = max(im.max, kv.ModRevision)
	if kv.Key == server.HealthKey {
		im.health = kv
		return nil
	}
	r := row{rev: kv.ModRevision, key: kv.Key, create: kv.CreateRevision, version: kv.Version, lease: kv.Lease, value: kv.Value}
	return im.add(r)
}

func (im *Importer) add(r row) error {
	if r.value == nil {
		r.value = []byte{}
	}
	if r.version == 0 {
		if r.version = 1; r.create != r.rev {
			r.version = 2
		}
	}
	r.hash = r.sum()
	im.live += r.hash
	r.live = im.live
	if err := im.ins.insert(&r); err != nil {
		return fmt.Errorf("import key %q at revision %d: %w", r.key, r.rev, err)
	}
	return nil
}

// Finish completes the store, whose newest revision will be one more than the given one of the source, and puts it in
// its place. On an error the directory is as it was.
func (im *Importer) Finish(revision int64) error {
	err := im.finish(revision)
	if err != nil {
		err = errors.Join(err, im.Abort())
	}
	return err
}

func (im *Importer) finish(revision int64) error {
	if im.max > revision {
		return fmt.Errorf("import: a key has revision %d, past the newest, %d", im.max, revision)
	}
	// The row of the newest revision is the one that carries the checksum over all.
	h := row{rev: revision + 1, key: server.HealthKey, create: revision + 1, value: []byte(server.HealthVal)}
	if im.health != nil {
		h.create, h.version, h.prev = im.health.CreateRevision, im.health.Version+1, im.health.ModRevision
	}
	if err := im.add(h); err != nil {
		return err
	}
	if err := im.ins.close(); err != nil {
		return err
	}
	im.ins = nil
	if err := execAll(im.conn,
		fmt.Sprintf("UPDATE meta SET value=%d", revision+1), "COMMIT", "PRAGMA journal_mode=WAL"); err != nil {
		return err
	}
	if err := im.conn.close(); err != nil {
		return err
	}
	im.conn = nil
	return publish(im.path, filepath.Join(im.dir, fileName))
}

// publish checks a finished database and moves it to its place, so that after a crash there is all of it or none.
func publish(from, to string) error {
	if _, err := SumFile(context.Background(), from); err != nil {
		return err
	}
	if err := removeLogs(from); err != nil {
		return err
	}
	if err := atomicfile.Sync(from); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("move database to its place: %w", err)
	}
	return atomicfile.Sync(filepath.Dir(to))
}

// Abort throws the unfinished store away. It may be called after Finish.
func (im *Importer) Abort() error {
	var errs []error
	if im.ins != nil {
		errs = append(errs, im.ins.close())
		im.ins = nil
	}
	if im.conn != nil {
		errs = append(errs, im.conn.close())
		im.conn = nil
	}
	return errors.Join(append(errs, removeDatabase(im.path))...)
}

func removeDatabase(path string) error { return removeFiles(path, "", "-wal", "-shm", "-journal") }

// removeLogs removes what is beside a database that is whole without.
func removeLogs(path string) error { return removeFiles(path, "-wal", "-shm") }

func removeFiles(path string, suffixes ...string) error {
	for _, suffix := range suffixes {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove files of database: %w", err)
		}
	}
	return nil
}

// Copy writes a consistent copy of the store, compact and with a checksum that was verified, to a new file, while the
// store is in use. It can be opened as a store of its own when named as one.
func (b *Backend) Copy(ctx context.Context, to string) (revision int64, err error) {
	return CopyDatabase(ctx, b.path, to)
}

// CopyDatabase is [Backend.Copy] for a database that another process may be using.
func CopyDatabase(ctx context.Context, from, to string) (revision int64, err error) {
	if _, err := os.Stat(to); !errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("copy database to %s: the file exists (%v)", to, err)
	}
	c, err := openConn(from, "ro")
	if err != nil {
		return 0, err
	}
	// SQLite reads in one transaction: the copy is of one moment.
	_, err = c.c.ExecContext(ctx, "VACUUM INTO '"+strings.ReplaceAll(to, "'", "''")+"'", nil)
	if err = errors.Join(err, c.close()); err != nil {
		return 0, errors.Join(fmt.Errorf("copy database: %w", readError(from, err)), removeDatabase(to))
	}
	s, err := SumFile(ctx, to)
	if err = errors.Join(err, removeLogs(to)); err == nil {
		err = atomicfile.Sync(to)
	}
	if err != nil {
		return 0, errors.Join(fmt.Errorf("copy database: %w", err), removeDatabase(to))
	}
	return s.Revision, nil
}

// FileName is the name of the database in a store's directory.
func FileName() string { return fileName }
