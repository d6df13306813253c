package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/knarr-io/knarr/pkg/retry"
)

// flock does not wait.
func flock(f *os.File, how int) error {
	return syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
}

// lockName is the file that a server locks.
const lockName = "lock"

// lockPatience is how long a lock is waited for: whoever looks whether a server runs (inUse) has it for a moment.
const lockPatience = time.Second

// lockDir keeps a second server away from the directory: with two, each would miss the other's writes. The lock goes
// with the process.
func lockDir(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), lockPatience)
	defer cancel()
	err = retry.Until(ctx, "the lock", retry.Backoff{First: 5 * time.Millisecond, Max: 50 * time.Millisecond}, func(context.Context) (bool, error) {
		err := flock(f, syscall.LOCK_EX)
		return !errors.Is(err, syscall.EWOULDBLOCK), err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w: %w", path, err, ErrInUse), f.Close())
	}
	return f, nil
}
