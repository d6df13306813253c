package sqlite

import (
	"database/sql/driver"
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// fileName is the database in the store's directory.
const fileName = "knarr.db"

const (
	applicationID = 0x6b6e6172 // "knar": what `file` and sqlite3 show
	schemaVersion = 1
	// pageSize is small for the sake of the disk: a commit alone writes whole pages, and of 4 KiB pages it wrote half as
	// much again. Throughput is the same.
	pageSize = 1024
)

// The log has one row per revision, values once. Appending to a table in the order of its integer key is what SQLite
// does best, and no index beside it has to be kept: the order of keys is in memory. Columns that are read without the
// value come first, so that a value that overflows its page is not read for them.
//
// hash is of the row itself. live is the sum of the hashes of all rows that were the newest of a key not deleted, with
// this row in place: a checksum over the live set that costs no write of its own.
const schema = `
CREATE TABLE log (
	rev INTEGER PRIMARY KEY,
	key BLOB NOT NULL,
	create_rev INTEGER NOT NULL,
	prev_rev INTEGER NOT NULL,
	version INTEGER NOT NULL,
	lease INTEGER NOT NULL,
	hash INTEGER NOT NULL,
	live INTEGER NOT NULL,
	value BLOB
) STRICT;
CREATE TABLE meta (
	name TEXT PRIMARY KEY,
	value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO meta VALUES ('compact_rev', 0), ('swept_rev', 0);
`

// names of meta rows
const (
	// metaCompact is the oldest revision that can be read.
	metaCompact = "compact_rev"
	// metaSwept is the revision up to which replaced rows have been deleted; it follows metaCompact in small steps.
	metaSwept = "swept_rev"
)

// row is one row of the log. A tombstone has version 0, create_rev 0 and no value.
type row struct {
	rev     int64
	key     string
	create  int64
	prev    int64
	version int64
	lease   int64
	hash    uint64
	live    uint64
	value   []byte
}

// insertRow is for [stmt.insert].
const insertRow = "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"

// insert writes a row with the statement insertRow.
func (s *stmt) insert(r *row) error {
	var value driver.Value // NULL
	if !r.tombstone() {
		value = r.value
	}
	return s.exec(r.rev, []byte(r.key), r.create, r.prev, r.version, r.lease, int64(r.hash), int64(r.live), value)
}

func (r *row) tombstone() bool { return r.version == 0 }

// sum is the row's hash: over everything but hash and live. It is never 0, so that a row whose columns were zeroed does
// not pass.
func (r *row) sum() uint64 {
	var head [48]byte
	for i, n := range []int64{r.rev, r.create, r.prev, r.version, r.lease, int64(len(r.key))} {
		binary.LittleEndian.PutUint64(head[8*i:], uint64(n))
	}
	var d xxhash.Digest
	d.Reset()
	// Digest.Write and WriteString never fail.
	_, _ = d.Write(head[:])
	_, _ = d.WriteString(r.key)
	_, _ = d.Write(r.value)
	if s := d.Sum64(); s != 0 {
		return s
	}
	return 1
}

// DamageError says that what is on disk is not what was written. It is never served.
type DamageError struct {
	Path string
	What string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("database %s is damaged: %s; stop the server, keep a copy of the file, and restore the newest "+
		"backup with `knarr restore` (`knarr backup verify` tells which are good)", e.Path, e.What)
}
