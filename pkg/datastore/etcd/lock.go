package etcd

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// locked tells whether a file has bbolt's lock, which ends with its process (go.etcd.io/bbolt bolt_unix.go, flock).
func locked(file string) (bool, error) {
	f, err := os.Open(file)
	if err != nil {
		return false, fmt.Errorf("look at the lock of etcd's database: %w", err)
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at the lock of etcd's database: %w", err)
	}
	return false, nil // closing gives it up
}
