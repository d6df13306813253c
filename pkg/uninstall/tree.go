package uninstall

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// removeTree removes a file or a directory with all that is in it, but never
// through a mount: a mount point and everything behind it stay, and so do the
// directories that lead to it. Symbolic links are removed, not followed. What is
// gone already is no error. The names in the result begin with path.
//
// Other programs forget about bind mounts of the same file system, which have the
// same device number; here every directory is opened first, and the kernel is then
// asked by which mount it was reached. Whatever is mounted meanwhile is noticed.
func removeTree(path string) []Kept {
	parent, err := unix.Open(filepath.Dir(path), unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return keptOn(path, fmt.Errorf("open directory above: %w", err))
	}
	defer unix.Close(parent)
	mount, err := mountID(parent)
	if err != nil {
		return keptOn(path, err)
	}
	t := treeRemover{mount: mount}
	t.remove(parent, path)
	return t.kept
}

// removeContents empties a directory that is itself a mount point, such as a disk
// mounted on the data directory, and leaves the directory.
func removeContents(path string) []Kept {
	fd, err := unix.Open(path, unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return keptOn(path, fmt.Errorf("open: %w", err))
	}
	mount, err := mountID(fd)
	if err != nil {
		unix.Close(fd)
		return keptOn(path, err)
	}
	t := treeRemover{mount: mount}
	t.empty(fd, path)
	return t.kept
}

// treeRemover removes within one mount.
type treeRemover struct {
	mount string
	kept  []Kept
}

func (t *treeRemover) keep(path, reason string) {
	t.kept = append(t.kept, Kept{Name: path, Reason: reason})
}

// remove takes the entry path away; parent is its open directory.
func (t *treeRemover) remove(parent int, path string) {
	name := filepath.Base(path)
	err := unix.Unlinkat(parent, name, 0)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return
	case errors.Is(err, unix.EBUSY):
		t.keep(path, mountReason)
		return
	case !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM):
		t.keep(path, err.Error())
		return
	}
	unlinkErr := err
	fd, err := unix.Openat(parent, name, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return
	case errors.Is(err, unix.ENOTDIR):
		t.keep(path, unlinkErr.Error()) // a file after all, and it may not be removed
		return
	case err != nil:
		t.keep(path, err.Error())
		return
	}
	mount, err := mountID(fd)
	if err != nil || mount != t.mount {
		unix.Close(fd)
		if err == nil {
			t.keep(path, mountReason)
		} else {
			t.keep(path, err.Error())
		}
		return
	}
	before := len(t.kept)
	t.empty(fd, path)
	if len(t.kept) > before {
		return // what stays below says why
	}
	if err := unix.Unlinkat(parent, name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		if errors.Is(err, unix.EBUSY) {
			t.keep(path, mountReason)
		} else {
			t.keep(path, err.Error())
		}
	}
}

const mountReason = "something is mounted here; what it shows was not touched. Unmount it and run the command again"

// empty removes everything in the open directory fd and closes it.
func (t *treeRemover) empty(fd int, path string) {
	dir := os.NewFile(uintptr(fd), path)
	defer dir.Close()
	before := len(t.kept)
	for {
		names, err := dir.Readdirnames(1024)
		if err != nil && !errors.Is(err, io.EOF) {
			t.keep(path, err.Error())
			return
		}
		for _, name := range names {
			t.remove(fd, filepath.Join(path, name))
		}
		if len(names) == 0 {
			return
		}
		// Removing entries may move others behind the read position; only a directory
		// that reads as empty from its start is empty. One that cannot become empty
		// is read once.
		if len(t.kept) == before {
			if _, err := dir.Seek(0, io.SeekStart); err != nil {
				t.keep(path, err.Error())
				return
			}
		}
	}
}

// mountID names the mount through which fd was opened (proc(5), fdinfo; since
// Linux 3.15).
func mountID(fd int) (string, error) {
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return "", fmt.Errorf("find out on which mount it is: %w", err)
	}
	for _, line := range strings.Split(string(info), "\n") {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strings.TrimSpace(id), nil
		}
	}
	return "", errors.New("find out on which mount it is: the kernel does not say (before Linux 3.15)")
}

// isMountPoint reports whether a directory is the root of a mount.
func isMountPoint(path string) (bool, error) {
	ids := make([]string, 2)
	for i, p := range []string{path, filepath.Dir(path)} {
		fd, err := unix.Open(p, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("open %s: %w", p, err)
		}
		ids[i], err = mountID(fd)
		unix.Close(fd)
		if err != nil {
			return false, err
		}
	}
	return ids[0] != ids[1], nil
}

// present reports whether path exists, without following a link at its end.
func present(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
