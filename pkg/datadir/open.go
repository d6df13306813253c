package datadir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/knarr-io/knarr/pkg/atomicfile"
)

const (
	dirMode   = 0o700 // keys and the database are below it
	stampMode = 0o600
	// minFree is the space, in bytes, below which a server is not started: its
	// first minute writes about that much, and a datastore that runs full on the
	// way up is harder to repair than one that was not opened.
	minFree = 32 << 20
	// deadHolder is how long a lock may outlive the process that took it.
	deadHolder = 5 * time.Second
)

// LockedError says that another process uses the data-dir.
type LockedError struct {
	Root string
	// PID is the other process, 0 if it cannot be told.
	PID int
}

// Error names the data-dir, the process and the ways out.
func (e *LockedError) Error() string {
	who := "another process"
	if e.PID != 0 {
		who = fmt.Sprintf("process %d", e.PID)
	}
	return fmt.Sprintf("data-dir %s is in use by %s: stop that (knarr stop) or choose another with --data-dir", e.Root, who)
}

// NewerError says that a newer knarr wrote the data-dir.
type NewerError struct{ Root, Stamp, Running string }

// Error names both versions and the ways out.
func (e *NewerError) Error() string {
	return fmt.Sprintf("data-dir %s was written by knarr %s, which is newer than this knarr %s: run %s or newer, "+
		"or restore a backup made before the upgrade", e.Root, e.Stamp, e.Running, e.Stamp)
}

// Lock is a data-dir in use by this process.
type Lock struct {
	Dir
	// Previous is the version that used the data-dir last; "" for a new one.
	Previous string

	file *os.File
}

// Close gives up the data-dir. The lock file stays: to remove it would let two
// processes lock two files of one name.
func (l *Lock) Close() error { return l.file.Close() }

// Check reports, without changing anything, whether a knarr of the given
// version may use the data-dir: nil for one that does not exist yet. It does
// not see whether it is in use; only Open can know.
func (d Dir) Check(version string) error {
	if _, err := d.previous(version); err != nil {
		return err
	}
	return d.checkSpace()
}

// Open makes the data-dir if need be, locks it for this process and stamps it
// with the version. What a newer knarr wrote is refused and left as it was
// ([*NewerError]), as is a data-dir in use ([*LockedError]), one on a read-only
// file system and one on a full one.
//
// The stamp is raised here, before anything of this version writes: from then
// on the data may be of a form that an older knarr cannot read. Before that, and
// under the lock, upgrade is called with the old version when data of another
// version is there; its error ends Open with the stamp as it was.
func (d Dir) Open(version string, upgrade ...func(previous string) error) (_ *Lock, err error) {
	if err := d.checkSpace(); err != nil {
		return nil, err
	}
	if err := d.make(); err != nil {
		return nil, err
	}
	file, err := d.lock()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	previous, err := d.previous(version)
	if err != nil {
		return nil, err
	}
	if err := writePID(file); err != nil {
		return nil, err
	}
	if previous != version {
		for _, f := range upgrade {
			if previous == "" {
				break
			}
			if err := f(previous); err != nil {
				return nil, err
			}
		}
		if err := d.SetStamp(version); err != nil {
			return nil, err
		}
	}
	return &Lock{Dir: d, Previous: previous, file: file}, nil
}

// Hold makes the data-dir if need be and locks it for who changes what is in it
// and is no server, such as a restore: it may be of any version, and keeps its
// stamp. It is given up by Close.
func (d Dir) Hold() (io.Closer, error) {
	if err := d.make(); err != nil {
		return nil, err
	}
	file, err := d.lock()
	if err != nil {
		return nil, err
	}
	if err := writePID(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// make makes the data-dir, for its owner only. Directories above it that are
// missing are made for all to pass.
func (d Dir) make() error {
	if err := atomicfile.MkdirAll(filepath.Dir(d.root), 0o755); err != nil {
		return fmt.Errorf("make data-dir %s: %w", d.root, err)
	}
	if err := atomicfile.MkdirAll(d.root, dirMode); err != nil {
		return fmt.Errorf("make data-dir %s: %w", d.root, err)
	}
	return nil
}

// lock opens and locks the lock file. The lock ends with the process: it needs
// no cleaning up after kill -9, and the programs we start do not inherit it.
func (d Dir) lock() (*os.File, error) {
	file, err := os.OpenFile(d.LockFile(), os.O_RDWR|os.O_CREATE, stampMode)
	if err != nil {
		return nil, d.unusable("open its lock file", err)
	}
	err = flock(file)
	switch {
	case err == nil:
		return file, nil
	case errors.Is(err, syscall.EWOULDBLOCK):
		err = &LockedError{Root: d.root, PID: readPID(file)}
	default:
		err = d.unusable("lock it", err)
	}
	return nil, errors.Join(err, file.Close())
}

// flock locks file, and waits for it at most deadHolder when the process that
// holds it is dead: a child that it was just starting when it was killed has the
// lock until its exec, and on a busy host that is still to come.
func flock(file *os.File) error {
	end := time.Now().Add(deadHolder)
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) || alive(readPID(file)) || time.Now().After(end) {
			return err
		}
		<-time.After(deadHolder / 100)
	}
}

// alive tells whether there is such a process; one that has not said its pid
// yet is just starting.
func alive(pid int) bool {
	return pid == 0 || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// readPID is 0 when the holder has not written its pid yet, or the pid cannot be
// read: the message then does without.
func readPID(file *os.File) int {
	data, err := io.ReadAll(io.NewSectionReader(file, 0, 32))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0
	}
	return pid
}

func writePID(file *os.File) error {
	text := strconv.Itoa(os.Getpid()) + "\n"
	if err := file.Truncate(0); err != nil {
		return fmt.Errorf("write pid to %s: %w", file.Name(), err)
	}
	if _, err := file.WriteAt([]byte(text), 0); err != nil {
		return fmt.Errorf("write pid to %s: %w", file.Name(), err)
	}
	return nil
}

// checkSpace looks at the file system of the data-dir, or of the nearest
// directory above it that exists.
func (d Dir) checkSpace() error {
	var st syscall.Statfs_t
	dir := d.root
	err := syscall.Statfs(dir, &st)
	for errors.Is(err, fs.ErrNotExist) && dir != "/" {
		dir = filepath.Dir(dir)
		err = syscall.Statfs(dir, &st)
	}
	if err != nil {
		return d.unusable("look at its file system", err)
	}
	if st.Flags&syscall.MS_RDONLY != 0 {
		return d.unusable("write to it", syscall.EROFS)
	}
	// Bfree and not Bavail: the server runs as root, for whom the reserve is.
	if free := st.Bfree * uint64(st.Bsize); free < minFree {
		return fmt.Errorf("data-dir %s: %w: its file system has %d KiB left, a server needs %d MiB to start: free some (see df -h)",
			d.root, syscall.ENOSPC, free>>10, minFree>>20)
	}
	if st.Files > 0 && st.Ffree == 0 {
		return fmt.Errorf("data-dir %s: %w: its file system has no inode left: remove some files (see df -i)", d.root, syscall.ENOSPC)
	}
	return nil
}

// unusable says why a data-dir cannot be used and what to do.
func (d Dir) unusable(what string, err error) error {
	var hint string
	switch {
	case errors.Is(err, syscall.EROFS):
		hint = ": make the file system writable (see findmnt, dmesg) or choose another data-dir with --data-dir"
	case errors.Is(err, syscall.ENOSPC):
		hint = ": free some space or inodes (see df -h, df -i)"
	case errors.Is(err, fs.ErrPermission):
		hint = ": run knarr as root"
	case errors.Is(err, syscall.ENOTDIR):
		hint = ": it is not a directory, choose another with --data-dir"
	}
	return fmt.Errorf("use data-dir %s: %s: %w%s", d.root, what, err, hint)
}
