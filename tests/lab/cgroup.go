package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// cgroupPrefix begins the name of every cgroup a lab makes, in every hierarchy.
const cgroupPrefix = "knarr-lab-"

// hierarchy is one mounted cgroup tree of the machine: a v1 controller group, a
// named v1 tree, or the v2 tree.
type hierarchy struct {
	dir     string // where it is mounted, e.g. /sys/fs/cgroup/memory
	v2      bool
	options string // for mount(2) of a v1 tree, e.g. "cpu,cpuacct" or "none,name=systemd"
}

// hierarchies reads the cgroup mounts of this process.
func hierarchies() ([]hierarchy, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read cgroup mounts: %w", err)
	}
	defer f.Close()
	var hs []hierarchy
	seen := map[string]bool{}
	s := bufio.NewScanner(f)
	for s.Scan() {
		h, ok := parseHierarchy(s.Text())
		if !ok || seen[h.options] {
			continue
		}
		seen[h.options] = true
		hs = append(hs, h)
	}
	return hs, s.Err()
}

// parseHierarchy reads one line of mountinfo (proc(5)) and tells whether it is
// a cgroup mount below /sys/fs/cgroup.
func parseHierarchy(line string) (hierarchy, bool) {
	before, after, ok := strings.Cut(line, " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	if !ok || len(left) < 5 || len(right) < 3 || !strings.HasPrefix(left[4], "/sys/fs/cgroup") {
		return hierarchy{}, false
	}
	h := hierarchy{dir: left[4]}
	switch right[0] {
	case "cgroup2":
		h.v2 = true
		return h, true
	case "cgroup":
		h.options = v1Options(right[2])
		return h, true
	}
	return hierarchy{}, false
}

// v1Options keeps of a v1 tree's super block options what names the tree.
func v1Options(super string) string {
	var keep []string
	for o := range strings.SplitSeq(super, ",") {
		switch {
		case strings.HasPrefix(o, "name="):
			keep = append([]string{"none"}, o)
		case o == "rw", o == "ro", strings.HasPrefix(o, "xattr"), strings.HasPrefix(o, "release_agent="), strings.Contains(o, "clone_children"):
		default:
			keep = append(keep, o)
		}
	}
	return strings.Join(keep, ",")
}

// slice makes the cgroup of a host in this tree. In v2 processes live in a leaf
// below it, so that the host may hand controllers down from its root.
func (h hierarchy) slice(name string) error {
	dir := filepath.Join(h.dir, name)
	if h.v2 {
		dir = filepath.Join(dir, "init")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
		if h.v2 || !strings.Contains(h.options, "cpuset") {
			break
		}
		b, err := os.ReadFile(filepath.Join(h.dir, f))
		if err != nil {
			return fmt.Errorf("read the machine's cpuset: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, f), b, 0o644); err != nil {
			return fmt.Errorf("give the host its cpuset: %w", err)
		}
	}
	return nil
}

// join moves the calling thread into a host's cgroup, so that what it forks is
// born there. A v2 tree takes whole processes only: see v2FD.
func (h hierarchy) join(name string) error {
	if h.v2 {
		return nil
	}
	file := filepath.Join(h.dir, name, "tasks")
	if err := os.WriteFile(file, []byte(strconv.Itoa(unix.Gettid())), 0o644); err != nil {
		return fmt.Errorf("join cgroup: %w", err)
	}
	return nil
}

// v2FD opens the leaf that a host's processes are cloned into; -1 without v2.
func v2FD(hs []hierarchy, name string) (int, error) {
	for _, h := range hs {
		if !h.v2 {
			continue
		}
		dir := filepath.Join(h.dir, name, "init")
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, fmt.Errorf("open cgroup %s: %w", dir, err)
		}
		return fd, nil
	}
	return -1, nil
}

// removeCgroups removes the cgroups whose name begins with prefix, children
// first. It fails while one still has processes.
func removeCgroups(prefix string) error {
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range hs {
		roots, err := filepath.Glob(filepath.Join(h.dir, prefix+"*"))
		if err != nil {
			return err
		}
		for _, root := range roots {
			errs = append(errs, removeTree(root))
		}
	}
	return errors.Join(errs...)
}

func removeTree(root string) error {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	for i := len(dirs) - 1; i >= 0; i-- {
		if e := os.Remove(dirs[i]); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}
