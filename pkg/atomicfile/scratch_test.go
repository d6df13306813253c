package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// A directory that a killed process left goes; one that is in use, and what has another name, stays.
func TestScratchRemovesWhatWasLeft(t *testing.T) {
	dir := t.TempDir()
	left, other := filepath.Join(dir, "work-left"), filepath.Join(dir, "mine")
	for _, d := range []string{left, other} {
		if err := os.MkdirAll(filepath.Join(d, "deep"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	used, removeUsed, err := Scratch(dir, "work-")
	if err != nil {
		t.Fatal(err)
	}
	again, remove, err := Scratch(dir, "work-")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was left is there still: %v", err)
	}
	for _, d := range []string{used, again, other} {
		if _, err := os.Stat(d); err != nil {
			t.Error(err)
		}
	}
	for _, f := range []func() error{remove, removeUsed} {
		if err := f(); err != nil {
			t.Error(err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left in the end: %v, %v", entries, err)
	}
}

// However many come at once, each has a directory that nobody takes away.
func TestScratchesAtOnce(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				path, remove, err := Scratch(dir, "work-")
				if err != nil {
					t.Error(err)
					return
				}
				if err := errors.Join(os.WriteFile(filepath.Join(path, "f"), []byte("x"), 0o600), remove()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}
