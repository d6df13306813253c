package sqlite

import (
	"context"
	"errors"
	"fmt"

	"github.com/k3s-io/kine/pkg/server"

	"github.com/knarr-io/knarr/pkg/atomicfile"
)

// restoredGap is how far a store goes on from where a copy of it was made: more than what a cluster writes from one
// backup to the next, a thousand revisions a second for eleven days. It is what etcd's documentation tells to give to
// etcdutl's --bump-revision.
const restoredGap = 1_000_000_000

// RaiseRevision makes the database at path, which nobody uses and which is a copy of an older state, go on from a revision
// that no client can have seen, with everything before it as if compacted: then clients that knew later revisions than
// the copy has are told so and read anew, in place of waiting for revisions that they believe to have seen. It is what
// etcdutl's --bump-revision and --mark-compacted do.
//
// After a crash the database is as it was or as it will be.
func RaiseRevision(ctx context.Context, path string) (revision int64, err error) {
	c, err := openWriter(path)
	if err != nil {
		return 0, fmt.Errorf("raise revision: %w", readError(path, err))
	}
	// For a file without a log beside it, whatever comes next.
	if err = c.exec("PRAGMA journal_mode=DELETE"); err == nil {
		revision, err = raise(c)
	}
	if err == nil {
		err = c.exec("PRAGMA journal_mode=WAL")
	}
	if err = errors.Join(err, c.close()); err != nil {
		return 0, fmt.Errorf("raise revision of %s: %w", path, readError(path, err))
	}
	if err := removeLogs(path); err != nil {
		return 0, err
	}
	if _, err := SumFile(ctx, path); err != nil {
		return 0, fmt.Errorf("raise revision: %w", err)
	}
	return revision, errors.Join(removeLogs(path), atomicfile.Sync(path))
}

// raise leaves the live set and writes the row of the new revision, which carries the checksum over it.
func raise(c *conn) (int64, error) {
	newest, ok, err := c.ints("SELECT rev, live FROM log ORDER BY rev DESC LIMIT 1")
	if err != nil {
		return 0, err
	}
	if !ok {
		return 0, nil // nothing was ever written
	}
	h := row{rev: newest[0] + restoredGap, key: server.HealthKey, version: 1, value: []byte(server.HealthVal)}
	h.create = h.rev
	old, ok, err := c.ints("SELECT rev, create_rev, version, hash FROM log WHERE key = CAST(? AS BLOB) ORDER BY rev DESC LIMIT 1", server.HealthKey)
	if err != nil {
		return 0, err
	}
	live := uint64(newest[1])
	if ok && old[2] != 0 {
		h.prev, h.create, h.version = old[0], old[1], old[2]+1
		live -= uint64(old[3])
	}
	h.hash = h.sum()
	h.live = live + h.hash
	if err := execAll(c, "BEGIN IMMEDIATE",
		"DELETE FROM log WHERE version = 0 OR rev NOT IN (SELECT max(rev) FROM log GROUP BY key)"); err != nil {
		return 0, err
	}
	ins, err := c.prepare(insertRow, 0)
	if err != nil {
		return 0, err
	}
	if err := errors.Join(ins.insert(&h), ins.close()); err != nil {
		return 0, err
	}
	return h.rev, execAll(c, fmt.Sprintf("DELETE FROM log WHERE rev = %d", h.prev), fmt.Sprintf("UPDATE meta SET value = %d", h.rev), "COMMIT")
}
