package addon

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// How long a file must have been left alone to count. Who writes in steps, as editors and cp do, is to be seen only when
// done; who replaces a file may remove it first.
const (
	settleWritten = 200 * time.Millisecond
	settleRemoved = time.Second
	// settlePrune is longer: half a file may be a valid one, and then what is in the other half must not be lost.
	settlePrune = 2 * time.Second
)

// stamp changes when a file does. Its zero value is that of no file.
type stamp struct {
	inode    uint64
	size     int64
	modified time.Time
	changed  syscall.Timespec
}

// errNoDir is returned when there is no directory to look into.
var errNoDir = errors.New("look for manifests: the directory is gone")

// seen is what the tree knows of a file.
type seen struct {
	now   stamp     // zero when it is gone
	since time.Time // when it became so
	valid stamp     // what counts: the last that had settled
}

// tree is the directory as far as it has settled. It is used by one goroutine.
type tree struct {
	dir   string
	files map[string]*seen // by slash-separated path below dir
	dirs  []string         // absolute, without links, dir itself first
	begun bool
}

func newTree(dir string) *tree { return &tree{dir: dir, files: make(map[string]*seen)} }

// scan looks at the directory and returns when to look again; zero when all has settled. What is there at the first scan
// counts at once.
func (t *tree) scan(now time.Time) (again time.Time, err error) {
	found, err := t.walk()
	if err != nil {
		return time.Time{}, err
	}
	for path := range found {
		if t.files[path] == nil {
			t.files[path] = &seen{since: now}
		}
	}
	for path, f := range t.files {
		if s := found[path]; s != f.now {
			f.now, f.since = s, now
		}
		if f.now == f.valid {
			if f.valid == (stamp{}) {
				delete(t.files, path)
			}
			continue
		}
		settle := settleWritten
		if f.now == (stamp{}) {
			settle = settleRemoved
		}
		if due := f.since.Add(settle); t.begun && now.Before(due) {
			if again.IsZero() || due.Before(again) {
				again = due
			}
			continue
		}
		f.valid = f.now
		if f.valid == (stamp{}) {
			delete(t.files, path)
		}
	}
	t.begun = true
	return again, nil
}

// settled are the files that count.
func (t *tree) settled() map[string]stamp {
	files := make(map[string]stamp)
	for path, f := range t.files {
		if f.valid != (stamp{}) {
			files[path] = f.valid
		}
	}
	return files
}

// since is when the file last changed in any way, as far as the tree has seen.
func (t *tree) since(paths ...string) (at time.Time) {
	for _, p := range paths {
		if f := t.files[p]; f != nil && f.since.After(at) {
			at = f.since
		}
	}
	return at
}

// walk lists all files below the directory that concern the controller, and all directories. Links to files are
// followed, links to directories are not, and what is hidden is left out.
func (t *tree) walk() (map[string]stamp, error) {
	found := make(map[string]stamp)
	t.dirs = t.dirs[:0]
	root, err := filepath.EvalSymlinks(t.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", errNoDir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("look for manifests: %w", err)
	}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != root {
			return nil // gone since its name was read
		}
		if err != nil {
			return err
		}
		if path != root && strings.HasPrefix(d.Name(), ".") {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if d.IsDir() {
			t.dirs = append(t.dirs, path)
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if _, ok := base(strings.TrimSuffix(rel, skipSuffix)); !ok {
			return nil
		}
		s, err := stampOf(path)
		if err == nil && s != (stamp{}) {
			found[filepath.ToSlash(rel)] = s
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", errNoDir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("look for manifests: %w", err)
	}
	return found, nil
}

// stampOf is the zero stamp for what is not there or not a file.
func stampOf(path string) (stamp, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return stamp{}, nil
	}
	if err != nil {
		return stamp{}, err
	}
	sys, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return stamp{}, nil
	}
	return stamp{sys.Ino, info.Size(), info.ModTime(), sys.Ctim}, nil
}

// differ names the sources that are not the same in both.
func differ(before, after map[string]source) []string {
	names := make(map[string]bool)
	for name, s := range after {
		if before[name] != s {
			names[name] = true
		}
	}
	for name := range before {
		if _, ok := after[name]; !ok {
			names[name] = true
		}
	}
	all := make([]string, 0, len(names))
	for name := range maps.Keys(names) {
		all = append(all, name)
	}
	return all
}
