package backup

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/knarr-io/knarr/pkg/datadir"
	"github.com/knarr-io/knarr/pkg/datastore"
	"github.com/knarr-io/knarr/pkg/datastore/sqlite"
	"github.com/knarr-io/knarr/pkg/version"
)

// series is what the names of the tests' backups begin with.
const series Series = "knarr"

// host is a server's files.
type host struct{ data, config string }

func newHost(t *testing.T) host {
	t.Helper()
	root := t.TempDir()
	return host{filepath.Join(root, "var"), filepath.Join(root, "etc")}
}

func (h host) source() Source {
	return Source{
		DataDir: h.data, ConfigDir: h.config, Log: slog.New(slog.DiscardHandler),
		Datastore: datastore.Config{Dir: filepath.Join(h.data, "server/db")},
	}
}

func (h host) write(t *testing.T, name, content string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// fill makes a server with a store that stays open until the test ends.
func (h host) fill(t *testing.T) *sqlite.Backend {
	t.Helper()
	h.write(t, filepath.Join(h.data, "server/tls/ca.key"), "secret", 0o600)
	h.write(t, filepath.Join(h.data, "server/tls/ca.crt"), "public", 0o644)
	h.write(t, filepath.Join(h.data, "server/manifests/app.yaml"), "kind: List", 0o600)
	h.write(t, filepath.Join(h.data, "server/token"), "K10...", 0o600)
	h.write(t, filepath.Join(h.config, "config.yaml"), "node-name: one\n", 0o600)
	if err := os.Symlink("token", filepath.Join(h.data, "server/node-token")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("config.yaml", filepath.Join(h.config, "registries.yaml")); err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(h.data, "server/db")
	if err := os.MkdirAll(db, 0o700); err != nil {
		t.Fatal(err)
	}
	b, err := sqlite.Open(db, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	for i := range 100 {
		if _, err := b.Create(t.Context(), fmt.Sprint("/registry/", i), []byte(strings.Repeat("v", i*100)), 0); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// check requires that the host has what fill made.
func (h host) check(t *testing.T) {
	t.Helper()
	for name, want := range map[string]string{
		"server/tls/ca.key": "secret", "server/manifests/app.yaml": "kind: List", "server/token": "K10...", "server/node-token": "K10...",
	} {
		if got, err := os.ReadFile(filepath.Join(h.data, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if fi, err := os.Stat(filepath.Join(h.data, "server/tls/ca.key")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode of the key: %v, %v", fi.Mode(), err)
	}
	sum, err := datastore.Check(t.Context(), h.source().Datastore, slog.New(slog.DiscardHandler))
	if err != nil || sum.Keys != 100 {
		t.Errorf("datastore: %+v, %v", sum, err)
	}
}

// checkConfig requires that a directory is the configuration that fill made.
func (host) checkConfig(t *testing.T, dir string) {
	t.Helper()
	file := filepath.Join(dir, "config.yaml")
	if got, err := os.ReadFile(file); err != nil || string(got) != "node-name: one\n" {
		t.Errorf("config: %q, %v", got, err)
	}
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the configuration, which has secrets: %v, %v; want mode 0600", fi, err)
	}
	if link, err := os.Readlink(filepath.Join(dir, "registries.yaml")); err != nil || link != "config.yaml" {
		t.Errorf("link in the configuration: %q, %v", link, err)
	}
}

func TestBackupOfARunningServerAndRestore(t *testing.T) {
	for _, passphrase := range []string{"", "correct horse"} {
		t.Run("passphrase="+passphrase, func(t *testing.T) {
			h := newHost(t)
			h.fill(t)
			file := filepath.Join(t.TempDir(), "b")
			info, err := Create(t.Context(), h.source(), file, Options{Passphrase: []byte(passphrase)})
			if err != nil {
				t.Fatal(err)
			}
			if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
				t.Errorf("backup: %v, %v; want mode 0600", fi, err)
			}
			if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 1 {
				t.Errorf("left beside the backup: %v, %v", left, err)
			}
			if got, err := Verify(t.Context(), file, []byte(passphrase)); err != nil || got != info || got.Datastore.Keys != 100 {
				t.Errorf("Verify: %+v, %v", got, err)
			}
			if passphrase != "" {
				for _, wrong := range []string{"", "wrong"} {
					if _, err := Verify(t.Context(), file, []byte(wrong)); !errors.Is(err, ErrPassphrase) {
						t.Errorf("Verify with passphrase %q: %v", wrong, err)
					}
				}
				if data, err := os.ReadFile(file); err != nil || strings.Contains(string(data), "K10") {
					t.Errorf("the token can be read in the backup (%v)", err)
				}
			}
			if _, err := Create(t.Context(), h.source(), file, Options{}); err == nil {
				t.Error("an existing backup was overwritten")
			}
			next := newHost(t)
			done, err := Restore(t.Context(), file, Target{DataDir: next.data, ConfigDir: next.config}, []byte(passphrase))
			if err != nil || done.Previous != "" || done.Config != next.config {
				t.Fatalf("Restore: %+v, %v", done, err)
			}
			next.check(t)
			next.checkConfig(t, next.config)
		})
	}
}

func TestRestoreKeepsWhatWasThere(t *testing.T) {
	h := newHost(t)
	b := h.fill(t)
	file := filepath.Join(t.TempDir(), "b")
	if _, err := Create(t.Context(), h.source(), file, Options{}); err != nil {
		t.Fatal(err)
	}
	target := Target{DataDir: h.data, ConfigDir: h.config}
	if _, err := Restore(t.Context(), file, target, nil); !errors.Is(err, sqlite.ErrInUse) {
		t.Errorf("Restore under a running server: %v", err)
	}
	if _, err := b.Create(t.Context(), "/registry/later", []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	h.write(t, filepath.Join(h.config, "config.yaml"), "node-name: two\n", 0o600)
	done, err := Restore(t.Context(), file, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.check(t)
	old, err := datastore.Check(t.Context(), datastore.Config{Dir: filepath.Join(done.Previous, "db")}, slog.New(slog.DiscardHandler))
	if err != nil || old.Keys != 101 {
		t.Errorf("what was there before: %+v, %v", old, err)
	}
	if got, err := os.ReadFile(filepath.Join(h.config, "config.yaml")); err != nil || string(got) != "node-name: two\n" {
		t.Errorf("config was changed: %q, %v", got, err)
	}
	h.checkConfig(t, done.Config)
	for _, name := range []string{filepath.Join(h.data, "restoring"), h.config + ".restoring"} {
		if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("left behind: %v", err)
		}
	}
	target.OverwriteConfig = true
	if done, err = Restore(t.Context(), file, target, nil); err != nil || done.Config != h.config {
		t.Fatalf("with the configuration: %+v, %v", done, err)
	}
	h.checkConfig(t, h.config)
	if old, err := filepath.Glob(h.config + ".before-restore-*/config.yaml"); err != nil || len(old) != 1 {
		t.Errorf("the configuration that was there: %v, %v", old, err)
	}
}

// TestRestoreGoesBackToAnOlderVersion has the data of an older version backed up before an upgrade: after the restore, the
// data directory is that version's again.
func TestRestoreGoesBackToAnOlderVersion(t *testing.T) {
	h := newHost(t)
	if err := h.fill(t).Close(); err != nil {
		t.Fatal(err)
	}
	d := datadir.New(h.data)
	for of, want := range map[string]string{"v1.30.0+knarr2": "v1.30.0+knarr2", "": version.Version, "v99.0.0+knarr1": "newer"} {
		if err := os.RemoveAll(d.VersionFile()); err != nil {
			t.Fatal(err)
		}
		if of != "" {
			h.write(t, d.VersionFile(), of+"\n", 0o600)
		}
		file := filepath.Join(t.TempDir(), "b")
		if _, err := Create(t.Context(), h.source(), file, Options{}); err != nil {
			t.Fatal(err)
		}
		const upgraded = "v98.0.0+knarr1"
		h.write(t, d.VersionFile(), upgraded+"\n", 0o600)
		_, err := Restore(t.Context(), file, Target{DataDir: h.data, ConfigDir: h.config}, nil)
		if want == "newer" {
			if want = upgraded; err == nil || !strings.Contains(err.Error(), "newer") {
				t.Errorf("a backup of %s: %v", of, err)
			}
		} else if err != nil {
			t.Error(err)
		}
		if got, err := d.Stamp(); err != nil || got != want {
			t.Errorf("after a restore of %q the data is that of %q, %v; want %q", of, got, err, want)
		}
	}
}

// TestNothingLeadsOutOfABackup has an archive with a link, and a file by way of it.
func TestNothingLeadsOutOfABackup(t *testing.T) {
	outside, inside := t.TempDir(), t.TempDir()
	root, err := os.OpenRoot(inside)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := put(root, &tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: outside}, nil); err != nil {
		t.Fatal(err)
	}
	if err := put(root, &tar.Header{Name: "link/file", Typeflag: tar.TypeReg, Mode: 0o600}, strings.NewReader("x")); err == nil {
		t.Error("a file was written by way of a link")
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("outside there is %v, %v", left, err)
	}
}

// TestDamagedBackupsAreRefused changes and cuts a backup at many places; nothing may be touched then.
func TestDamagedBackupsAreRefused(t *testing.T) {
	h := newHost(t)
	h.fill(t)
	file := filepath.Join(t.TempDir(), "b")
	if _, err := Create(t.Context(), h.source(), file, Options{}); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad")
	for i := range 40 {
		data := append([]byte(nil), good...)
		at := i * len(good) / 40
		if i%2 == 0 {
			data[at] ^= 0x5a
		} else {
			data = data[:at]
		}
		if err := os.WriteFile(bad, data, 0o600); err != nil {
			t.Fatal(err)
		}
		next := newHost(t)
		if _, err := Restore(t.Context(), bad, Target{DataDir: next.data, ConfigDir: next.config}, nil); err == nil {
			t.Errorf("a backup damaged at byte %d of %d was restored", at, len(good))
		}
		if left, err := os.ReadDir(next.data); err != nil || len(left) != 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

// TestRestoredRevisionsGoOn has a client that saw revisions after the backup: it must be told, and never see them go back.
func TestRestoredRevisionsGoOn(t *testing.T) {
	h := newHost(t)
	b := h.fill(t)
	file := filepath.Join(t.TempDir(), "b")
	if _, err := Create(t.Context(), h.source(), file, Options{}); err != nil {
		t.Fatal(err)
	}
	seen, err := b.Create(t.Context(), "/registry/later", []byte("x"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	done, err := Restore(t.Context(), file, Target{DataDir: h.data, ConfigDir: h.config}, nil)
	if err != nil || done.Revision <= seen {
		t.Fatalf("restored to revision %d after %d, %v", done.Revision, seen, err)
	}
	h.check(t)
	comp := datastore.New(h.source().Datastore, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	up, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- comp.Run(ctx, func() { close(up) }) }()
	<-up
	client, err := comp.Client()
	if err != nil {
		t.Fatal(err)
	}
	for r := range client.Watch(ctx, "/registry/", clientv3.WithPrefix(), clientv3.WithRev(seen+1)) {
		if !errors.Is(r.Err(), rpctypes.ErrCompacted) || r.CompactRevision != done.Revision {
			t.Errorf("a watch from %d on got %+v, %v", seen+1, r, r.Err())
		}
	}
	got, err := client.Get(ctx, "/registry/later")
	if err != nil || got.Count != 0 || got.Header.Revision < done.Revision {
		t.Errorf("a key that was not in the backup: %+v, %v", got, err)
	}
	if put, err := client.Put(ctx, "/registry/later", "y"); err != nil || put.Header.Revision <= done.Revision {
		t.Errorf("write: %+v, %v", put, err)
	}
	client.Close()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestPruneKeepsTheNewest(t *testing.T) {
	dir := t.TempDir()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range 5 {
		if err := os.WriteFile(filepath.Join(dir, series.Name(at.Add(time.Duration(i)*time.Hour))), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Prune(dir, series, 0); err == nil {
		t.Error("all backups could be removed")
	}
	removed, err := Prune(dir, series, 2)
	if err != nil || len(removed) != 3 {
		t.Errorf("removed %v, %v", removed, err)
	}
	left, err := List(dir)
	if err != nil || len(left) != 2 || !left[0].Created.Equal(at.Add(4*time.Hour)) {
		t.Errorf("left %v, %v", left, err)
	}
	if none, err := List(filepath.Join(dir, "missing")); err != nil || len(none) != 0 {
		t.Errorf("a missing directory lists %v, %v", none, err)
	}
}

// TestSeriesAreCountedApart has two series in one directory, of which one's name begins as the other's.
func TestSeriesAreCountedApart(t *testing.T) {
	dir := t.TempDir()
	const one, other Series = "a", "a-b"
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range 6 {
		s := one
		if i%2 == 0 {
			s = other
		}
		if err := os.WriteFile(filepath.Join(dir, s.Name(at.Add(time.Duration(i)*time.Hour))), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if removed, err := Prune(dir, one, 1); err != nil || len(removed) != 2 {
		t.Errorf("removed %v, %v", removed, err)
	}
	left, err := List(dir)
	if err != nil || len(left) != 4 || filepath.Base(left[0].Path) != one.Name(at.Add(5*time.Hour)) || filepath.Base(left[1].Path) != other.Name(at.Add(4*time.Hour)) {
		t.Errorf("left %v, %v", left, err)
	}
	x := NewScheduler(Schedule{Series: "c", Dir: dir, Keep: 1}, slog.New(slog.DiscardHandler))
	if wait := x.next(schedule(t, "@every 12h"), at); wait != 0 {
		t.Errorf("the first backup of a series is due in %v", wait)
	}
	for name, want := range map[string]bool{
		"a-20260102T030405Z.knarr-backup": true, "20260102T030405Z.knarr-backup": false, "-20260102T030405Z.knarr-backup": false,
		"a-20260102T030405Z": false, "a-2026.knarr-backup": false, "x/a-20260102T030405Z.knarr-backup": false, ".knarr-backup": false,
	} {
		if _, _, ok := parseName(name); ok != want {
			t.Errorf("%s is the name of a backup: %t", name, ok)
		}
	}
}
