package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
)

// Verify reads the whole database: SQLite's own check of its structure, then every row with its value and checksum,
// and the sum over the live set. It returns the newest revision of what it read, and a [*DamageError] when something
// is wrong. The store may be in use: it reads one consistent state, and delays nobody but the disk.
func (b *Backend) Verify(ctx context.Context) (int64, error) {
	return verify(ctx, b.path)
}

func verify(ctx context.Context, path string) (rev int64, err error) {
	c, err := openConn(path, "ro", "query_only=ON", "cache_size=-512")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.exec("BEGIN"); err != nil {
		return 0, err
	}
	problems, err := c.text("PRAGMA integrity_check(10)")
	if err != nil {
		return 0, readError(path, err)
	}
	if len(problems) != 1 || problems[0] != "ok" {
		return 0, &DamageError{path, fmt.Sprintf("SQLite finds %q", problems)}
	}
	swept, ok, err := c.ints("SELECT value FROM meta WHERE name=?", metaSwept)
	if err != nil || !ok {
		return 0, errors.Join(readError(path, err), &DamageError{path, "the swept revision is missing"})
	}
	v := verifier{ctx: ctx, path: path, swept: swept[0], hashes: map[string]uint64{}}
	scan, err := c.prepare("SELECT rev, key, create_rev, prev_rev, version, lease, hash, live, value FROM log ORDER BY rev", rowColumns)
	if err != nil {
		return 0, readError(path, err)
	}
	defer func() { err = errors.Join(err, scan.close()) }()
	if err := scan.each(v.add); err != nil {
		return 0, readError(path, err)
	}
	return v.rev, v.err
}

// verifier goes through the log with the values.
type verifier struct {
	ctx    context.Context
	path   string
	swept  int64
	rev    int64
	live   uint64
	hashes map[string]uint64 // of live keys
	err    error
}

func (v *verifier) add(vals []driver.Value) bool {
	r, err := fullRow(v.path, vals)
	if err != nil {
		v.err = err
		return false
	}
	v.live -= v.hashes[r.key]
	delete(v.hashes, r.key)
	if !r.tombstone() {
		v.hashes[r.key] = r.hash
		v.live += r.hash
	}
	switch {
	case v.rev >= v.swept && r.rev != v.rev+1:
		v.err = &DamageError{v.path, fmt.Sprintf("rows between revisions %d and %d are missing", v.rev, r.rev)}
	case r.rev >= v.swept && v.live != r.live:
		v.err = &DamageError{v.path, fmt.Sprintf("the checksum over all live keys does not match at revision %d", r.rev)}
	case v.ctx.Err() != nil:
		v.err = v.ctx.Err()
	}
	v.rev = r.rev
	return v.err == nil
}
