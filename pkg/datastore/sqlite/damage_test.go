package sqlite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/knarr-io/knarr/tests/bed"
)

// filled makes a store with some history, compacted in part, and returns its directory.
func filled(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	b := openTest(t, dir)
	for i := range 300 {
		key := fmt.Sprintf("/k/%03d", i)
		rev := create(t, b, key, strings.Repeat("v", 100+i*20))
		switch i % 3 {
		case 0:
			if _, _, _, err := b.Update(t.Context(), key, []byte(strings.Repeat("w", 300)), rev, 0); err != nil {
				t.Fatal(err)
			}
		case 1:
			if _, _, _, err := b.Delete(t.Context(), key, rev); err != nil {
				t.Fatal(err)
			}
		}
		if i == 200 {
			if _, err := b.Compact(t.Context(), rev); err != nil {
				t.Fatal(err)
			}
		}
	}
	bed.Until(t, "the sweep", func() bool { return b.Settled() })
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestDamageIsFound damages the log in ways that SQLite itself does not notice.
func TestDamageIsFound(t *testing.T) {
	for _, tc := range []struct{ name, sql string }{
		{"a live row is gone", "DELETE FROM log WHERE rev = (SELECT max(rev) - 7 FROM log)"},
		{"an old live row is gone", "DELETE FROM log WHERE rev = (SELECT min(rev) FROM log)"},
		{"the newest row of meta is gone", "DELETE FROM meta WHERE name = 'swept_rev'"},
		{"swept past compacted", "UPDATE meta SET value = value + 1 WHERE name = 'swept_rev'"},
		{"all rows are gone", "DELETE FROM log"},
		{"a row came back", "INSERT INTO log SELECT 1, x'2f6b2f67', 1, 0, 1, 0, hash, live, value FROM log WHERE rev = (SELECT min(rev) FROM log)"},
		{"a live key turned into another", "UPDATE log SET key = x'2f6b2f7a' WHERE rev = (SELECT max(rev) FROM log)"},
		{"a hash was changed", "UPDATE log SET hash = hash + 1 WHERE rev = (SELECT max(rev) FROM log)"},
		{"a tombstone turned live", "UPDATE log SET version = 1 WHERE version = 0 AND rev = (SELECT max(rev) FROM log WHERE version = 0)"},
		{"a value was changed", "UPDATE log SET value = x'00' WHERE rev = (SELECT max(rev) FROM log WHERE version > 0)"},
		{"a lease was changed", "UPDATE log SET lease = 5 WHERE rev = (SELECT min(rev) FROM log)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := filled(t)
			if err := rawExec(filepath.Join(dir, fileName), tc.sql); err != nil {
				t.Fatal(err)
			}
			expectDamage(t, dir)
		})
	}
}

// expectDamage requires that opening the store, or else reading everything in it, fails with a DamageError.
func expectDamage(t *testing.T, dir string) {
	t.Helper()
	var damage *DamageError
	b, err := Open(dir, Options{})
	if err == nil {
		_, _, err = b.List(t.Context(), "", "", 0, 0, false)
		if _, verr := b.Verify(t.Context()); !errors.As(verr, &damage) {
			t.Errorf("Verify: %v", verr)
		}
		if cerr := b.Close(); cerr != nil {
			t.Error(cerr)
		}
	}
	if !errors.As(err, &damage) || !strings.Contains(err.Error(), "knarr restore") {
		t.Errorf("damage was served: %v", err)
	}
	t.Log(err)
}

// TestDamagedPagesAreFound overwrites parts of the file, as a failing disk or a bad copy does.
func TestDamagedPagesAreFound(t *testing.T) {
	for _, what := range []string{"zeroed", "garbage", "truncated"} {
		t.Run(what, func(t *testing.T) {
			dir := filled(t)
			path := filepath.Join(dir, fileName)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			pages := len(data) / pageSize
			at := pages / 2 * pageSize
			switch what {
			case "zeroed":
				clear(data[at : at+3*pageSize])
			case "garbage":
				for i := at; i < at+3*pageSize; i++ {
					data[i] = byte(i * 7)
				}
			case "truncated":
				data = data[:at]
			}
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			expectDamage(t, dir)
		})
	}
}
