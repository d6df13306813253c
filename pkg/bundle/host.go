package bundle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// stNoexec is ST_NOEXEC of statvfs(3), as statfs(2) returns it in f_flags.
const stNoexec = 8

// lockPoll is how often a lock that another process holds is tried.
const lockPoll = 10 * time.Millisecond

// checkExec says if nothing in dir can be executed.
func checkExec(dir string) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return fmt.Errorf("statfs %s: %w", dir, err)
	}
	if st.Flags&stNoexec != 0 {
		return fmt.Errorf("%s is on a file system mounted noexec, and runc and the CNI plugins must be executed there: remount it with exec, or choose another place with --data-dir", dir)
	}
	return nil
}

// lock takes the lock on dir; the kernel frees it when the process dies.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for another process that extracts to %s: %w", dir, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}
