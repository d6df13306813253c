package uninstall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// ownCgroups are the control groups of pods, in cgroupfs and systemd spelling.
func ownCgroups() []string { return []string{"kubepods", "kubepods.slice"} }

// findCgroups looks in the unified hierarchy and in each controller of v1.
func (f *finder) findCgroups(context.Context) error {
	for _, name := range ownCgroups() {
		for _, pattern := range []string{name, filepath.Join("*", name)} {
			// The patterns are constant, so Glob cannot fail.
			paths, _ := filepath.Glob(f.path(f.CgroupDir, pattern))
			for _, path := range paths {
				// systemd and cpu,cpuacct are reached by two names in v1.
				if real, err := filepath.EvalSymlinks(path); err != nil || real != path {
					continue
				}
				f.shared(Item{Kind: KindCgroup, Name: f.shown(path), remove: func(ctx context.Context, _ Options) []Kept {
					return keptOn(f.shown(path), removeCgroup(ctx, path))
				}})
			}
		}
	}
	return nil
}

// cgroupWait is how long the kernel may take to forget killed processes.
const cgroupWait = 5 * time.Second

// removeCgroup removes a tree of control groups, which is done by removing the
// directories alone: the files in them belong to the kernel.
func removeCgroup(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, cgroupWait)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := removeDirectories(path)
		if err == nil || !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes are still in it: %w", err)
		case <-tick.C:
		}
	}
}

func removeDirectories(path string) error {
	var dirs []string
	err := filepath.WalkDir(path, func(dir string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if entry.IsDir() {
			dirs = append(dirs, dir)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list control groups: %w", err)
	}
	slices.Reverse(dirs) // WalkDir names parents before children
	for _, dir := range dirs {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove control group %s: %w", dir, err)
		}
	}
	return nil
}
