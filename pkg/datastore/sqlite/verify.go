package sqlite

import (
	"context"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/cespare/xxhash/v2"
	"github.com/k3s-io/kine/pkg/server"
)

// Verify reads the whole database: SQLite's own check of its structure, then every row with its value and checksum,
// and the sum over the live set. It returns the newest revision of what it read, and a [*DamageError] when something
// is wrong. The store may be in use: it reads one consistent state, and delays nobody but the disk.
func (b *Backend) Verify(ctx context.Context) (int64, error) {
	s, err := SumFile(ctx, b.path)
	return s.Revision, err
}

// Sum is what a store holds, in short. It does not depend on revisions, so stores of different kinds can be compared.
type Sum struct {
	Revision int64
	Keys     int64
	Bytes    int64  // of keys and values
	Content  uint64 // sum of the hashes of all keys with their values
}

// own tells that a key is the store's own, which every store makes anew: kine's two records of compactions, and the key
// for health checks.
func own(key string) bool {
	return key == "compact_rev_key" || key == "compact_rev_key_apiserver" || key == server.HealthKey
}

// Add takes one key in, in any order.
func (s *Sum) Add(key string, value []byte) {
	if own(key) {
		return
	}
	var d xxhash.Digest
	d.Reset()
	// Digest.Write and WriteString never fail.
	_, _ = d.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(key))))
	_, _ = d.WriteString(key)
	_, _ = d.Write(value)
	s.Keys++
	s.Bytes += int64(len(key) + len(value))
	s.Content += d.Sum64()
}

// SumFile verifies a database as [Backend.Verify] does and sums up what it holds. A server may be using it.
func SumFile(ctx context.Context, path string) (s Sum, err error) {
	if _, err := os.Stat(path); err != nil {
		return s, fmt.Errorf("find database: %w", err)
	}
	c, err := openConn(path, "ro", "query_only=ON", "cache_size=-512")
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if ok, err := ours(c, path); err != nil || !ok {
		return s, errors.Join(readError(path, err), &DamageError{path, "its tables are missing"})
	}
	if err := c.exec("BEGIN"); err != nil {
		return s, readError(path, err)
	}
	problems, err := c.text("PRAGMA integrity_check(10)")
	if err != nil {
		return s, readError(path, err)
	}
	if len(problems) != 1 || problems[0] != "ok" {
		return s, &DamageError{path, fmt.Sprintf("SQLite finds %q", problems)}
	}
	swept, ok, err := c.ints("SELECT value FROM meta WHERE name=?", metaSwept)
	if err != nil || !ok {
		return s, errors.Join(readError(path, err), &DamageError{path, "the swept revision is missing"})
	}
	v := verifier{ctx: ctx, path: path, swept: swept[0], live: map[string]liveRow{}}
	scan, err := c.prepare("SELECT rev, key, create_rev, prev_rev, version, lease, hash, live, value FROM log ORDER BY rev", rowColumns)
	if err != nil {
		return s, readError(path, err)
	}
	defer func() { err = errors.Join(err, scan.close()) }()
	if err := scan.each(v.add); err != nil {
		return s, readError(path, err)
	}
	for _, l := range v.live {
		v.total.Keys += l.sum.Keys
		v.total.Bytes += l.sum.Bytes
		v.total.Content += l.sum.Content
	}
	v.total.Revision = v.rev
	return v.total, v.err
}

// verifier goes through the log with the values.
type verifier struct {
	ctx   context.Context
	path  string
	swept int64
	rev   int64
	sum   uint64 // of the hashes of live rows
	live  map[string]liveRow
	total Sum
	err   error
}

// liveRow is a key that is not deleted.
type liveRow struct {
	hash uint64
	sum  Sum
}

func (v *verifier) add(vals []driver.Value) bool {
	r, err := fullRow(v.path, vals)
	if err != nil {
		v.err = err
		return false
	}
	v.sum -= v.live[r.key].hash
	delete(v.live, r.key)
	if !r.tombstone() {
		l := liveRow{hash: r.hash}
		l.sum.Add(r.key, r.value)
		v.live[r.key] = l
		v.sum += r.hash
	}
	switch {
	case v.rev >= v.swept && r.rev != v.rev+1:
		v.err = &DamageError{v.path, fmt.Sprintf("rows between revisions %d and %d are missing", v.rev, r.rev)}
	case r.rev >= v.swept && v.sum != r.live:
		v.err = &DamageError{v.path, fmt.Sprintf("the checksum over all live keys does not match at revision %d", r.rev)}
	case v.ctx.Err() != nil:
		v.err = v.ctx.Err()
	}
	v.rev = r.rev
	return v.err == nil
}
