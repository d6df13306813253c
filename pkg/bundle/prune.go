package bundle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Prune removes from dir the directories of other bundles, and returns the IDs
// of those it removed. It keeps every one that a running process was started
// from: a pod's shim goes on needing its directory, since it starts runc from
// there. Call it when containerd is up: before, it may still want the shim of a
// pod whose own shim is gone, to clean up after it, and afterwards it does not.
//
// It removes nothing if it cannot look at every process.
func (b *Bundle) Prune(ctx context.Context, dir string) (removed []string, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("prune bundles: %w", err)
	}
	unlock, err := lock(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("prune bundles: %w", err)
	}
	defer unlock()
	others, err := b.others(dir)
	if err != nil || len(others) == 0 {
		return nil, err
	}
	used, err := executables()
	if err != nil {
		return nil, fmt.Errorf("prune bundles: %w", err)
	}
	for _, id := range others {
		root := filepath.Join(dir, id)
		inUse, err := used.below(root)
		if err != nil {
			return removed, fmt.Errorf("prune bundle %s: %w", root, err)
		}
		if inUse {
			continue
		}
		// Renamed first: never is half a bundle there under its name.
		b.step("rename " + id)
		old := filepath.Join(dir, oldPrefix+id)
		if err := os.Rename(root, old); err != nil {
			return removed, fmt.Errorf("prune bundle: %w", err)
		}
		b.step("remove " + id)
		if err := os.RemoveAll(old); err != nil {
			return removed, fmt.Errorf("prune bundle: %w", err)
		}
		removed = append(removed, id)
	}
	return removed, nil
}

// others returns the IDs of the bundles in dir that are neither b nor current.
func (b *Bundle) others(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("prune bundles: %w", err)
	}
	current, err := os.Readlink(filepath.Join(dir, currentName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("prune bundles: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && isID(e.Name()) && e.Name() != b.id && e.Name() != current {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// isID reports whether a directory's name is one that manifest.ID makes: what
// has another name is not ours to remove.
func isID(name string) bool {
	return len(name) == 32 && strings.Trim(name, "0123456789abcdef") == ""
}

// file identifies a file whatever path and mount namespace it is seen through.
type file struct{ dev, inode uint64 }

func fileOf(info fs.FileInfo) file {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return file{}
	}
	return file{uint64(st.Dev), uint64(st.Ino)}
}

// running is what the processes of this machine were started from.
type running struct {
	files map[file]bool
	// paths are needed beside files for an executable that was replaced since.
	paths []string
}

// executables looks at every process. One that ends meanwhile is none.
func executables() (running, error) {
	r := running{files: map[file]bool{}}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return r, err
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		if err := r.look(filepath.Join("/proc", e.Name())); err != nil {
			return r, fmt.Errorf("look at process %s: %w", e.Name(), err)
		}
	}
	return r, nil
}

// look adds the process of a directory in /proc.
func (r *running) look(proc string) error {
	link := filepath.Join(proc, "exe")
	target, err := os.Readlink(link)
	if errors.Is(err, fs.ErrPermission) {
		// It has capabilities that we lack. What it was called by is open to
		// all, and a shim is called by its full path.
		var args []byte
		args, err = os.ReadFile(filepath.Join(proc, "cmdline"))
		name, _, _ := strings.Cut(string(args), "\x00")
		target = name
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return nil // ended, or a thread of the kernel
	}
	if err != nil {
		return err
	}
	r.paths = append(r.paths, target)
	if info, err := os.Stat(link); err == nil {
		r.files[fileOf(info)] = true
	}
	return nil
}

// below reports whether a process was started from a file below root.
func (r running) below(root string) (bool, error) {
	resolved, err := filepath.EvalSymlinks(root)
	if err != nil {
		return false, err
	}
	for _, p := range r.paths {
		if strings.HasPrefix(p, resolved+"/") {
			return true, nil
		}
	}
	found := false
	err = filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if r.files[fileOf(info)] {
			found = true
			return fs.SkipAll
		}
		return nil
	})
	return found, err
}
