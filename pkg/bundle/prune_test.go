package bundle

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func mustPrune(t *testing.T, b *Bundle, dir string, want ...string) {
	t.Helper()
	got, err := b.Prune(context.Background(), dir)
	slices.Sort(got)
	slices.Sort(want)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("Prune() removed %v, error %v, want %v", got, err, want)
	}
}

func TestPrune(t *testing.T) {
	shim := ownExecutable(t)
	used := makeBundle(t, tree{"bin/containerd-shim-runc-v2": shim, "bin/runc": "1"})
	unused := makeBundle(t, tree{"bin/containerd-shim-runc-v2": shim, "bin/runc": "2"})
	now := makeBundle(t, tree{"bin/runc": "3"})
	dir := t.TempDir()
	inUse := mustExtract(t, used, dir)
	mustExtract(t, unused, dir)
	mustExtract(t, now, dir)
	stranger := filepath.Join(dir, "kept-by-the-user")
	if err := os.Mkdir(stranger, 0o755); err != nil {
		t.Fatal(err)
	}

	stop := startFrom(t, filepath.Join(inUse.Bin, "containerd-shim-runc-v2"))
	mustPrune(t, now, dir, unused.id)
	wantWhole(t, now, dir, used.id, "kept-by-the-user")

	// Even where the file it was started from is gone, its runc is not.
	if err := os.Remove(filepath.Join(inUse.Bin, "containerd-shim-runc-v2")); err != nil {
		t.Fatal(err)
	}
	mustPrune(t, now, dir)

	stop()
	mustPrune(t, now, dir, used.id)
	mustPrune(t, now, dir)
	wantWhole(t, now, dir, "kept-by-the-user")
}

// A process is recognised through another path to the same files, such as a
// data directory that is a link or was moved.
func TestPruneSeesOtherPaths(t *testing.T) {
	used := makeBundle(t, tree{"bin/shim": ownExecutable(t)})
	now := makeBundle(t, tree{"bin/runc": "3"})
	base := t.TempDir()
	dir := filepath.Join(base, "data")
	l := mustExtract(t, used, dir)
	startFrom(t, filepath.Join(l.Bin, "shim"))
	mustExtract(t, now, dir)

	link := filepath.Join(base, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	mustPrune(t, now, link)
	// A hard link stands for a bind mount: another path, the same file.
	started := filepath.Join(base, "shim")
	if err := os.Link(filepath.Join(l.Bin, "shim"), started); err != nil {
		t.Fatal(err)
	}
	startFrom(t, started)
	mustPrune(t, now, link)
}

// What is current for another process, and what Prune has not finished to
// remove, are told apart.
func TestPruneKeepsCurrentAndFinishesRemoval(t *testing.T) {
	older, newer := makeBundle(t, tree{"bin/runc": "1"}), makeBundle(t, tree{"bin/runc": "2"})
	dir := t.TempDir()
	mustExtract(t, older, dir)
	mustExtract(t, newer, dir)
	mustPrune(t, older, dir)
	wantWhole(t, newer, dir, older.id)
	if err := os.Rename(filepath.Join(dir, older.id), filepath.Join(dir, oldPrefix+older.id)); err != nil {
		t.Fatal(err)
	}
	mustExtract(t, newer, dir)
	wantWhole(t, newer, dir)
}

func TestPruneWithoutADirectory(t *testing.T) {
	if _, err := makeBundle(t, small).Prune(context.Background(), filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("Prune() of no directory succeeded")
	}
}
