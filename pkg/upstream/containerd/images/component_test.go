package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/knarr-io/knarr/tests/bed"
)

// fakeStore takes "archives" that are lists of image names; one with "bad" in it is refused.
type fakeStore struct {
	mu     sync.Mutex
	images digests
	log    []string
	during func() // called in Import
}

func (s *fakeStore) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf(format, args...))
}

func (s *fakeStore) Has(_ context.Context, want digests) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, d := range want {
		if s.images[name] != d {
			return false, nil
		}
	}
	return true, nil
}

func (s *fakeStore) Import(_ context.Context, archive io.Reader) (digests, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, err := io.ReadAll(archive)
	if err != nil {
		return nil, err
	}
	if s.during != nil {
		s.during()
		s.during = nil
	}
	s.note("import %s", text)
	if strings.Contains(string(text), "bad") {
		return nil, errors.New("bad archive")
	}
	found := make(digests)
	for _, name := range strings.Fields(string(text)) {
		found[name] = digest.FromString(name)
	}
	maps.Copy(s.images, found)
	return found, nil
}

func (s *fakeStore) Pull(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.note("pull %s", name)
	if name == "bad" {
		return errors.New("no such image")
	}
	return nil
}

// did is what the store was asked for since the last call.
func (s *fakeStore) did() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	log := s.log
	s.log = nil
	return log
}

func (s *fakeStore) holds(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.images[name] != ""
}

// folder is a directory with a component and a fake containerd.
type folder struct {
	t       *testing.T
	config  Config
	store   *fakeStore
	journal *bed.Journal
}

func newBed(t *testing.T) folder {
	dir := t.TempDir()
	return folder{t, Config{Dir: filepath.Join(dir, "images"), Record: filepath.Join(dir, "images.json"), Settle: 30 * time.Millisecond},
		&fakeStore{images: make(digests)}, &bed.Journal{}}
}

// run starts the component, waits until it is ready, and returns what stops it.
func (b folder) run() (stop func()) {
	b.t.Helper()
	c := New(b.config, slog.New(slog.NewTextHandler(b.journal, nil)))
	c.open = func() (store, func() error, error) { return b.store, func() error { return nil }, nil }
	return bed.Run(b.t, c)
}

// put writes a file; old makes it one that was complete long ago.
func (b folder) put(name, text string, old bool) {
	b.t.Helper()
	if err := os.MkdirAll(b.config.Dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	path := filepath.Join(b.config.Dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
	if old {
		if err := os.Chtimes(path, time.Time{}, time.Unix(1e9, 0)); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b folder) await(image string) {
	b.t.Helper()
	bed.Until(b.t, image+" is imported", func() bool { return b.store.holds(image) })
}

// wantDid waits until containerd has been asked for so many things, and compares.
func (b folder) wantDid(want ...string) {
	b.t.Helper()
	var got []string
	bed.Until(b.t, fmt.Sprintf("containerd is asked for %q", want), func() bool {
		got = append(got, b.store.did()...)
		return len(got) >= len(want)
	})
	if !slices.Equal(got, want) {
		b.t.Errorf("containerd was asked for %q, want %q", got, want)
	}
}

func TestAtStart(t *testing.T) {
	b := newBed(t)
	b.put("b.tar.gz", "b", true)
	b.put("a.tar", "a1 a2", true)
	b.put("c.tar.zst", "c", true)
	b.put("d.tgz", "d", true)
	b.put("a.txt", "# these\n\nx # comment\n y \n", true)
	b.put("e.tar.xz", "bad", true)
	b.put(".f.tar", "bad", true)
	if err := os.Mkdir(filepath.Join(b.config.Dir, "g"), 0o755); err != nil {
		t.Fatal(err)
	}
	stop := b.run()
	b.wantDid("import a1 a2", "import b", "import c", "import d", "pull x", "pull y")
	stop()

	b.put("c.tar.zst", "changed", true)
	delete(b.store.images, "d") // somebody removed it
	stop = b.run()
	b.wantDid("import changed", "import d", "pull x", "pull y")
	stop()

	if err := os.WriteFile(b.config.Record, []byte("half a rec"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.run()
	b.wantDid("import a1 a2", "import b", "import changed", "import d", "pull x", "pull y")
	if !b.journal.Has("unusable") {
		t.Error("nobody says that the record is lost")
	}
}

func TestABadArchiveHoldsUpNoOther(t *testing.T) {
	b := newBed(t)
	b.put("a.tar", "bad", true)
	b.put("b.tar", "b", true)
	stop := b.run()
	b.wantDid("import bad", "import b")
	if !b.journal.Has("/a.tar") || b.journal.Has("images imported\" file="+b.config.Dir+"/a.tar") {
		t.Error("the bad archive is not reported by name")
	}
	b.put("a.tar", "good", false)
	b.await("good")
	stop()
	b.store.did()
	b.run()
	b.wantDid()
}

func TestWhileRunning(t *testing.T) {
	b := newBed(t)
	stop := b.run()
	b.put("a.tar", "a", false)
	b.await("a")
	b.put("new", "b", false)
	if err := os.Rename(filepath.Join(b.config.Dir, "new"), filepath.Join(b.config.Dir, "b.tar")); err != nil {
		t.Fatal(err)
	}
	b.await("b")
	for _, name := range []string{"a.tar", "b.tar"} {
		if err := os.Remove(filepath.Join(b.config.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	bed.Until(t, "the record forgets what is gone", func() bool {
		text, err := os.ReadFile(b.config.Record)
		return err == nil && !strings.Contains(string(text), ".tar")
	})
	if !b.store.holds("a") || !b.store.holds("b") {
		t.Error("an image went with its archive")
	}
	stop()
}

// TestAFileFromTheFuture has the host's clock be behind the one that the archive was written by, as on boards without a
// battery: it is imported before the component is ready, like any other.
func TestAFileFromTheFuture(t *testing.T) {
	b := newBed(t)
	b.put("a.tar", "a", true)
	future := time.Now().AddDate(1, 0, 0)
	if err := os.Chtimes(filepath.Join(b.config.Dir, "a.tar"), future, future); err != nil {
		t.Fatal(err)
	}
	b.run()
	if got, want := b.store.did(), []string{"import a"}; !slices.Equal(got, want) {
		t.Errorf("when it is ready, containerd was asked for %q, want %q", got, want)
	}
}

// TestAFileCopiedJustBefore has an archive be put there right before the start: pods that start when it is ready find its
// images.
func TestAFileCopiedJustBefore(t *testing.T) {
	b := newBed(t)
	b.config.Settle = 500 * time.Millisecond
	b.put("a.tar", "a", false)
	b.run()
	if got, want := b.store.did(), []string{"import a"}; !slices.Equal(got, want) {
		t.Errorf("when it is ready, containerd was asked for %q, want %q", got, want)
	}
}

// TestAFileBeingCopiedHoldsUpNothing has an archive be written to all the time while the component starts.
func TestAFileBeingCopiedHoldsUpNothing(t *testing.T) {
	b := newBed(t)
	b.put("a.tar", "a", false)
	ready, copied := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(copied)
		for {
			select {
			case <-ready:
				return
			case <-time.After(b.config.Settle / 10):
				if err := os.WriteFile(filepath.Join(b.config.Dir, "a.tar"), []byte("a"), 0o644); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	b.run()
	close(ready)
	<-copied
	b.await("a")
}

func TestAFileThatGrowsIsWaitedFor(t *testing.T) {
	b := newBed(t)
	b.put("a.tar", "bad half", true)
	b.store.during = func() { b.put("a.tar", "whole", false) } // the next write comes while it is being imported
	b.run()
	b.await("whole")
	if b.journal.Has("level=ERROR") {
		t.Errorf("half a file is an error:\n%s", b.journal.String())
	}
}

func TestAListIsTriedAgain(t *testing.T) {
	b := newBed(t)
	if err := os.MkdirAll(b.config.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	i := &importer{config: b.config, log: slog.New(slog.NewTextHandler(b.journal, nil)), store: b.store, pending: make(map[string]pending)}
	b.put("a.txt", "good\nbad\nother\n", false)
	for waited, want := range map[time.Duration]time.Duration{0: firstRetry, firstRetry: 2 * firstRetry, maxRetry: maxRetry} {
		i.pullList(t.Context(), "a.txt", waited)
		b.wantDid("pull good", "pull bad", "pull other")
		p := i.pending["a.txt"]
		if left := time.Until(p.due); p.retry != want || left > want || left < want-time.Minute {
			t.Errorf("after %v it is tried again in %v, want %v", waited, left, want)
		}
	}
	if !b.journal.Has("pull bad: no such image") {
		t.Error("the image is not named")
	}
	clear(i.pending)
	b.put("a.txt", "good", false)
	i.pullList(t.Context(), "a.txt", time.Hour)
	i.pullList(t.Context(), "gone.txt", time.Hour)
	if len(i.pending) != 0 {
		t.Errorf("still to be tried: %v", i.pending)
	}
}

func TestRunFails(t *testing.T) {
	b := newBed(t)
	c := New(b.config, slog.New(slog.DiscardHandler))
	c.open = func() (store, func() error, error) { return nil, nil, errors.New("no socket") }
	if err := c.Run(t.Context(), func() { t.Error("ready") }); err == nil || err.Error() != "no socket" {
		t.Errorf("error %v", err)
	}
	b.put("../images2", "", false) // a file where the directory should be
	b.config.Dir = filepath.Join(filepath.Dir(b.config.Dir), "images2")
	c = New(b.config, slog.New(slog.DiscardHandler))
	c.open = func() (store, func() error, error) { return b.store, func() error { return nil }, nil }
	if err := c.Run(t.Context(), func() { t.Error("ready") }); err == nil || !strings.Contains(err.Error(), b.config.Dir) {
		t.Errorf("error %v", err)
	}
}
