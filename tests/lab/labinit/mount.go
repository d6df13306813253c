package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/tests/lab/labinit/spec"
)

// point is one mount of the host.
type point struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

// kernel file systems every host has, in order; targets are below the root.
var kernel = []point{
	{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"/dev", "/dev", "", unix.MS_BIND | unix.MS_REC, ""},
	{"shm", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, ""},
	{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
	{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
}

// mountAll makes the host's root, moves into it and forgets the machine's.
func mountAll(s spec.Spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	points := []point{{s.Root, "", "", unix.MS_BIND, ""}}
	for _, o := range s.Overlays {
		data := "lowerdir=" + o.Lower + ",upperdir=" + o.Upper + ",workdir=" + o.Work
		points = append(points, point{"overlay", o.Target, "overlay", 0, data})
	}
	points = append(points, kernel...)
	for _, b := range s.Binds {
		points = append(points, point{b.Source, b.Target, "", unix.MS_BIND | unix.MS_REC, ""})
		if !b.Writable {
			points = append(points, point{"", b.Target, "", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY, ""})
		}
	}
	for _, p := range points {
		if err := p.mount(s.Root); err != nil {
			return err
		}
	}
	if err := mountCgroups(s); err != nil {
		return err
	}
	return enterRoot(s.Root)
}

func (p point) mount(root string) error {
	target := filepath.Join(root, p.target)
	if err := makeTarget(p, target); err != nil {
		return fmt.Errorf("make mount point %s: %w", target, err)
	}
	if err := unix.Mount(p.source, target, p.kind, p.flags, p.data); err != nil {
		return fmt.Errorf("mount %s %s on %s (%s): %w", p.kind, p.source, target, p.data, err)
	}
	return nil
}

// makeTarget makes what is mounted over: a file for a bound file, else a directory.
func makeTarget(p point, target string) error {
	if st, err := os.Stat(p.source); p.flags&unix.MS_BIND != 0 && err == nil && !st.IsDir() {
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		f, err := os.OpenFile(target, os.O_CREATE, 0o755)
		return errors.Join(err, f.Close())
	}
	if p.flags&unix.MS_REMOUNT != 0 {
		return nil
	}
	return os.MkdirAll(target, 0o755)
}

// mountCgroups gives the host a cgroup namespace rooted at its own slice, and a
// view of each tree from there.
func mountCgroups(s spec.Spec) error {
	for _, c := range s.Cgroups {
		if c.Type != "cgroup2" {
			continue
		}
		// The namespace's root is where this process is: the slice, not its leaf.
		if err := os.WriteFile(filepath.Join(c.Slice, "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return fmt.Errorf("step up to the host's slice: %w", err)
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("unshare cgroup: %w", err)
	}
	for i, c := range s.Cgroups {
		if i == 0 && c.Target != "/sys/fs/cgroup" {
			if err := (point{"tmpfs", "/sys/fs/cgroup", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "mode=755"}).mount(s.Root); err != nil {
				return err
			}
		}
		if err := (point{"cgroup", c.Target, c.Type, unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, c.Options}).mount(s.Root); err != nil {
			return err
		}
		if c.Type != "cgroup2" {
			continue
		}
		leaf := filepath.Join(s.Root, c.Target, "init", "cgroup.procs")
		if err := os.WriteFile(leaf, []byte("0"), 0o644); err != nil {
			return fmt.Errorf("step down to the leaf: %w", err)
		}
	}
	return nil
}

// enterRoot makes root the root of the mount namespace.
func enterRoot(root string) error {
	old := filepath.Join(root, ".machine")
	if err := os.MkdirAll(old, 0o700); err != nil {
		return fmt.Errorf("make a place for the machine's root: %w", err)
	}
	if err := unix.PivotRoot(root, old); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	if err := unix.Unmount("/.machine", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let the machine's root go: %w", err)
	}
	if err := os.Remove("/.machine"); err != nil {
		return fmt.Errorf("remove mount point: %w", err)
	}
	// As systemd does: what the kubelet mounts must reach the pods.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	return nil
}
