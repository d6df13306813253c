package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Scratch makes a directory in dir for what is thrown away when the work is
// done, which remove does. Its name begins with prefix. Directories of that
// prefix that killed processes left are removed before; those of processes that
// live are locked and stay.
func Scratch(dir, prefix string) (path string, remove func() error, err error) {
	if err := removeScratches(dir, prefix); err != nil {
		return "", nil, err
	}
	d, err := createScratch(dir, prefix)
	if err != nil {
		return "", nil, advise(fmt.Errorf("make a directory for unfinished work in %s: %w", dir, err), filepath.Join(dir, prefix))
	}
	return d.Name(), func() error { return errors.Join(os.RemoveAll(d.Name()), d.Close()) }, nil
}

// createScratch returns a new directory, locked for as long as it is open.
func createScratch(dir, prefix string) (*os.File, error) {
	for {
		path, err := os.MkdirTemp(dir, prefix)
		if err != nil {
			return nil, err
		}
		d, err := lockDir(path, syscall.LOCK_EX)
		if errors.Is(err, fs.ErrNotExist) {
			continue // another Scratch took it for a left one
		}
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(path))
		}
		switch _, err := os.Lstat(path); {
		case err == nil:
			return d, nil
		case !errors.Is(err, fs.ErrNotExist):
			return nil, errors.Join(err, d.Close())
		}
		if err := d.Close(); err != nil {
			return nil, err
		}
	}
}

func removeScratches(dir, prefix string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look for unfinished work in %s: %w", dir, err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) || !e.IsDir() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if err := removeScratch(path); err != nil {
			return advise(fmt.Errorf("remove unfinished work: %w", err), path)
		}
	}
	return nil
}

func removeScratch(path string) (err error) {
	d, err := lockDir(path, syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return os.RemoveAll(path)
}

func lockDir(path string, how int) (*os.File, error) {
	d, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := flock(d, how); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}
