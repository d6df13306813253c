package sqlite

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Whoever looks whether a server runs holds the lock for a moment, which must not keep a server from starting.
func TestServersWaitForWhoLooks(t *testing.T) {
	path := filepath.Join(t.TempDir(), lockName)
	looking, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer looking.Close()
	if err := flock(looking, syscall.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	locked := make(chan error, 1)
	go func() {
		f, err := lockDir(path)
		if err == nil {
			err = f.Close()
		}
		locked <- err
	}()
	select {
	case err := <-locked:
		t.Fatalf("the lock was not waited for: %v", err)
	case <-time.After(lockPatience / 10):
	}
	if err := syscall.Flock(int(looking.Fd()), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if err := <-locked; err != nil {
		t.Error(err)
	}
	server, err := lockDir(path)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if _, err := lockDir(path); !errors.Is(err, ErrInUse) {
		t.Errorf("a second server: %v, want ErrInUse", err)
	}
	if busy, err := inUse(filepath.Dir(path)); err != nil || !busy {
		t.Errorf("while a server runs: %t, %v", busy, err)
	}
}
