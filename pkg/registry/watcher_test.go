package registry

import (
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/knarr-io/knarr/tests/bed"
)

// running is a Watcher that runs.
type running struct {
	t         *testing.T
	file, dir string
	journal   *bed.Journal
}

func start(t *testing.T, file string) running {
	t.Helper()
	b := running{t, file, filepath.Join(t.TempDir(), "certs.d"), &bed.Journal{}}
	w := NewWatcher(Options{File: b.file, Dir: b.dir}, slog.New(slog.NewTextHandler(b.journal, nil)))
	if err := w.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	bed.Run(t, w)
	return b
}

func put(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// hosts are the registries that containerd finds something about.
func (b running) hosts() string {
	found, err := filepath.Glob(filepath.Join(b.dir, "*"))
	if err != nil {
		b.t.Fatal(err)
	}
	for i, f := range found {
		found[i] = filepath.Base(f)
	}
	return strings.Join(found, " ")
}

func (b running) await(hosts string) {
	b.t.Helper()
	bed.Until(b.t, "there are files for: "+hosts, func() bool { return b.hosts() == hosts })
}

func TestTheWatcherFollows(t *testing.T) {
	b := start(t, filepath.Join(t.TempDir(), "etc", "registries.yaml")) // no directory yet
	b.await("")
	put(t, b.file, "mirrors: {a.example.com: {endpoint: [b.example.com]}}")
	b.await("a.example.com")
	put(t, b.file+".new", "mirrors: {c.example.com: {endpoint: [d.example.com]}}")
	if err := os.Rename(b.file+".new", b.file); err != nil {
		t.Fatal(err)
	}
	b.await("c.example.com")

	put(t, b.file, "mirrors: {c.example.com: {endpoints: [d.example.com]}}")
	bed.Until(t, "the mistake is reported", func() bool { return b.journal.Has("unknown key") && b.journal.Has("stays as it was") })
	b.await("c.example.com")

	put(t, b.file, "configs: {e.example.com: {auth: {token: secret}}}")
	bed.Until(t, "the log names the limit", func() bool { return b.journal.Has("after a restart of knarr") })
	if b.journal.Has("secret") {
		t.Error("the log holds a secret")
	}
	b.await("")
	put(t, b.file, "mirrors: {f.example.com: {endpoint: [b.example.com]}}")
	b.await("f.example.com")
	if err := os.Remove(b.file); err != nil {
		t.Fatal(err)
	}
	b.await("")
}

func TestTheWatcherFollowsALink(t *testing.T) {
	b := start(t, filepath.Join(t.TempDir(), "registries.yaml"))
	targets := t.TempDir()
	one, two := filepath.Join(targets, "one"), filepath.Join(t.TempDir(), "two")
	put(t, one, "mirrors: {a: {endpoint: [z]}}")
	put(t, two, "mirrors: {c: {endpoint: [z]}}")
	if err := os.Symlink(one, b.file); err != nil {
		t.Fatal(err)
	}
	b.await("a")
	put(t, one, "mirrors: {b: {endpoint: [z]}}")
	b.await("b")
	if err := os.Symlink(two, b.file+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(b.file+".new", b.file); err != nil {
		t.Fatal(err)
	}
	b.await("c")
	put(t, two, "mirrors: {d: {endpoint: [z]}}")
	b.await("d")
}

func TestPrepareRefusesABadFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "registries.yaml")
	put(t, file, "mirror: {}")
	err := NewWatcher(Options{File: file, Dir: filepath.Join(dir, "certs.d")}, slog.New(slog.DiscardHandler)).Prepare(t.Context())
	if err == nil || !strings.Contains(err.Error(), file+":1: unknown key") {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "certs.d")); err == nil {
		t.Error("something was written")
	}
}

func TestWriteLeavesWhatOthersWrote(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data string) {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		put(t, filepath.Join(dir, name), data)
	}
	write("users.example.com/hosts.toml", "# mine")
	write("old.example.com/hosts.toml", Marker)
	write("old.example.com/.knarr-tmp-1", "half")
	write("mixed.example.com/hosts.toml", Marker)
	write("mixed.example.com/ca.crt", "mine")
	write("taken.example.com/hosts.toml", "# mine")
	write("certs.example.com/ca.crt", "mine")
	for i, want := range []bool{true, false} {
		changed, err := Write(dir, map[string][]byte{"taken.example.com/hosts.toml": []byte(Marker)})
		if err != nil || changed != want {
			t.Errorf("call %d: changed %t, error %v", i, changed, err)
		}
	}
	got := make(map[string]string)
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			data, readErr := os.ReadFile(filepath.Join(dir, path))
			got[path], err = string(data), readErr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"users.example.com/hosts.toml": "# mine", "mixed.example.com/ca.crt": "mine",
		"taken.example.com/hosts.toml": Marker, "certs.example.com/ca.crt": "mine"}
	if !maps.Equal(got, want) {
		t.Errorf("left are %v, want %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
	info, err := os.Stat(filepath.Join(dir, "taken.example.com/hosts.toml"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, error %v", info.Mode(), err)
	}
}
