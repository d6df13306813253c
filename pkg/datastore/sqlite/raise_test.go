package sqlite

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/k3s-io/kine/pkg/server"
)

// TestRaiseRevision raises a store with deleted and updated keys, partly compacted, twice, and then writes to it.
func TestRaiseRevision(t *testing.T) {
	for name, health := range map[string]bool{"a server's": true, "never started": false} {
		t.Run(name, func(t *testing.T) {
			dir := filled(t)
			if health {
				b := openTest(t, dir)
				if err := b.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := b.Close(); err != nil {
					t.Fatal(err)
				}
			}
			path := filepath.Join(dir, fileName)
			before, err := SumFile(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				then := before.Revision
				before.Revision, err = RaiseRevision(t.Context(), path)
				if err != nil || before.Revision != then+restoredGap {
					t.Fatalf("raised from %d to %d, %v", then, before.Revision, err)
				}
				if after, err := SumFile(t.Context(), path); err != nil || after != before {
					t.Fatalf("got %+v, %v; want %+v", after, err, before)
				}
			}
			b := openTest(t, dir)
			defer b.Close()
			if err := b.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, _, err := b.List(t.Context(), "/k/", "/k0", 0, before.Revision-1, false); !errors.Is(err, server.ErrCompacted) {
				t.Errorf("read at a revision before: %v, want %v", err, server.ErrCompacted)
			}
			if _, kvs, err := b.List(t.Context(), "/k/", "/k0", 0, 0, false); err != nil || len(kvs) != 200 {
				t.Errorf("%d keys, %v; want 200", len(kvs), err)
			}
			if rev := create(t, b, "/k/new", "x"); rev <= before.Revision {
				t.Errorf("wrote revision %d after %d", rev, before.Revision)
			}
			if rev, _, ok, err := b.Update(t.Context(), "/k/000", []byte("y"), revisionOf(t, b, "/k/000"), 0); err != nil || !ok || rev <= before.Revision {
				t.Errorf("update at %d: %t, %v", rev, ok, err)
			}
		})
	}
}

func revisionOf(t *testing.T, b *Backend, key string) int64 {
	t.Helper()
	_, kv, err := b.Get(t.Context(), key, 0, true)
	if err != nil || kv == nil {
		t.Fatalf("get %s: %v, %v", key, kv, err)
	}
	return kv.ModRevision
}

func TestRaiseRevisionOfNothing(t *testing.T) {
	dir := t.TempDir()
	if err := openTest(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	if rev, err := RaiseRevision(t.Context(), filepath.Join(dir, fileName)); err != nil || rev != 0 {
		t.Errorf("raised to %d, %v", rev, err)
	}
	b := openTest(t, dir)
	defer b.Close()
	create(t, b, "/k/new", "x")
}
