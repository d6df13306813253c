package datastore

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/knarr-io/knarr/pkg/datastore/sqlite"
	"github.com/knarr-io/knarr/tests/bed"
)

func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		name, _, _ := strings.Cut(e.Name(), "-") // the time
		names = append(names, name)
	}
	return names
}

// TestSQLiteMovesToEtcd begins a cluster on a server that has a SQLite database. A crash before the end has the next
// start begin again.
func TestSQLiteMovesToEtcd(t *testing.T) {
	dir := t.TempDir()
	old := Config{Dir: dir}
	log := slog.New(slog.DiscardHandler)
	fillStore(t, old)
	want, err := Check(t.Context(), old, log)
	if err != nil {
		t.Fatal(err)
	}
	for _, left := range []string{"etcd.new/member/snap", "etcd"} { // of a start that was killed
		if err := os.MkdirAll(filepath.Join(dir, left), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	config := Config{Dir: dir, Endpoint: EmbeddedEtcd, Etcd: Etcd{NodeName: "box"}}
	if err := os.Remove(filepath.Join(dir, "etcd")); err != nil {
		t.Fatal(err)
	}
	var rev int64
	t.Run("move", func(t *testing.T) {
		c := New(config, log)
		client := start(t, c)
		got, err := sumOf(t.Context(), client)
		if err != nil || got.Keys != want.Keys || got.Hash != want.Hash {
			t.Errorf("etcd has %+v, %v; SQLite had %+v", got, err, want)
		}
		if rev = got.Revision; rev <= want.Revision {
			t.Errorf("revisions went back from %d to %d", want.Revision, rev)
		}
		if _, err := client.Put(t.Context(), "/registry/later", "x"); err != nil {
			t.Error(err)
		}
		if st, err := c.Status(t.Context()); err != nil || len(st.Members) != 1 || st.Members[0].Node() != "box" {
			t.Errorf("status: %+v, %v", st, err)
		}
		for node, want := range map[string]string{"chest": `no member of the etcd cluster is on node "chest": there are box`, "box": "it is the last one"} {
			if gone, err := c.RemoveMember(t.Context(), node); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("removing %s: %v, %v; want %q", node, gone, err, want)
			}
		}
	})
	if got := entries(t, dir); !slices.Equal(got, []string{"etcd", "lock", "sqlite.migrated"}) {
		t.Errorf("left: %v", got)
	}
	aside, err := filepath.Glob(filepath.Join(dir, "sqlite.migrated-*", sqlite.FileName()))
	if err != nil || len(aside) != 1 {
		t.Fatalf("the old database: %v, %v", aside, err)
	}
	if got, err := Check(t.Context(), Config{Dir: filepath.Dir(aside[0])}, log); err != nil || got != want {
		t.Errorf("the old database has %+v, %v; want %+v", got, err, want)
	}
	// A crash after etcd was put in place and before SQLite was put aside.
	if err := os.Rename(aside[0], filepath.Join(dir, sqlite.FileName())); err != nil {
		t.Fatal(err)
	}
	t.Run("again", func(t *testing.T) {
		if r, err := start(t, New(config, log)).Get(t.Context(), "/registry/later"); err != nil || r.Count != 1 {
			t.Errorf("what was written since: %+v, %v", r, err)
		}
	})
	if _, err := os.Stat(filepath.Join(dir, sqlite.FileName())); err == nil {
		t.Error("SQLite's database is still there")
	}
}

// TestStoppedEtcdIsRead looks at a member that does not run, which must not change it, and moves it to SQLite.
func TestStoppedEtcdIsRead(t *testing.T) {
	config := Config{Dir: t.TempDir(), Endpoint: EmbeddedEtcd, Etcd: Etcd{NodeName: "box"}}
	log := slog.New(slog.DiscardHandler)
	for name, f := range map[string]func() error{
		"Inspect": func() error { _, err := Inspect(t.Context(), config, log); return err },
		"Check":   func() error { _, err := Check(t.Context(), config, log); return err },
	} {
		if err := f(); err == nil || !strings.Contains(err.Error(), "find database") {
			t.Errorf("%s without a store: %v", name, err)
		}
	}
	n := fillStore(t, config)
	st, err := Inspect(t.Context(), config, log)
	if err != nil || st.Engine != "etcd-embedded" || st.Running == nil || *st.Running || st.Revision < n {
		t.Errorf("status: %+v, %v", st, err)
	}
	want, err := Check(t.Context(), config, log)
	if err != nil || want.Keys != n {
		t.Errorf("check: %+v, %v", want, err)
	}
	if err := Compact(t.Context(), config, log); err == nil || !strings.Contains(err.Error(), "not running") {
		t.Errorf("compact: %v", err)
	}
	to := Config{Dir: t.TempDir()}
	got, err := Migrate(t.Context(), config, to, log)
	if err != nil || got.Keys != n || got.Revision < n {
		t.Fatalf("migrate: %+v, %v", got, err)
	}
	back := Config{Dir: t.TempDir(), Endpoint: EmbeddedEtcd, Etcd: Etcd{NodeName: "box"}}
	if again, err := Migrate(t.Context(), to, back, log); err != nil || again.Hash != got.Hash || again.Keys != n {
		t.Errorf("migrate back: %+v, %v", again, err)
	}
	if _, err := Migrate(t.Context(), to, back, log); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("migrate into a store that is not empty: %v", err)
	}
	if left := entries(t, config.Dir); !slices.Equal(left, []string{"etcd"}) {
		t.Errorf("left: %v", left)
	}
}

// TestEtcdCompacts has a running store compacted and its space given back.
func TestEtcdCompacts(t *testing.T) {
	c := New(Config{Dir: t.TempDir(), Endpoint: EmbeddedEtcd, Etcd: Etcd{NodeName: "box"}}, slog.New(slog.DiscardHandler))
	client := start(t, c)
	for range 100 {
		if _, err := client.Put(t.Context(), "/registry/a", strings.Repeat("x", 100_000)); err != nil {
			t.Fatal(err)
		}
	}
	var before Status
	bed.Until(t, "etcd to write to the file what it has in its log", func() bool {
		var err error
		if before, err = c.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
		return before.DiskBytes > 100*100_000
	})
	for range 2 { // the second finds nothing to compact
		if err := c.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	after, err := c.Status(t.Context())
	if err != nil || after.DiskBytes > before.DiskBytes/4 || after.CompactRevision < before.Revision {
		t.Errorf("compacted from %+v to %+v, %v", before, after, err)
	}
	if r, err := client.Get(t.Context(), "/registry/a"); err != nil || r.Count != 1 {
		t.Errorf("after that: %+v, %v", r, err)
	}
	if _, err := client.Get(t.Context(), "/registry/a", clientv3.WithRev(before.Revision-50)); err == nil {
		t.Error("history is still there")
	}
}

func TestJoiningWithADatabaseIsRefused(t *testing.T) {
	dir := t.TempDir()
	fillStore(t, Config{Dir: dir})
	config := Config{Dir: dir, Endpoint: EmbeddedEtcd, Etcd: Etcd{NodeName: "box", Join: []string{"https://192.0.2.1:2379"}}}
	err := New(config, slog.New(slog.DiscardHandler)).Run(context.Background(), func() { t.Error("ready was called") })
	if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, sqlite.FileName())) {
		t.Errorf("join: %v", err)
	}
}
