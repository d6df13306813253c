package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// MkdirAll makes the directory path and every missing one above it with perm,
// which no umask narrows, and syncs each to disk. Directories that exist are
// left as they are.
func MkdirAll(path string, perm fs.FileMode) error {
	if err := mkdirAll(filepath.Clean(path), perm); err != nil {
		return advise(fmt.Errorf("make directory %s: %w", path, err), path)
	}
	return nil
}

func mkdirAll(path string, perm fs.FileMode) error {
	if err := dirExists(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(path) // ends at "/" or ".", which exist
	if err := mkdirAll(parent, perm); err != nil {
		return err
	}
	err := os.Mkdir(path, perm)
	if errors.Is(err, fs.ErrExist) { // made by someone else meanwhile, or a dangling link
		return dirExists(path)
	}
	if err != nil {
		return err
	}
	if err := os.Chmod(path, perm); err != nil {
		return err
	}
	return syncPath(parent)
}

func dirExists(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return &fs.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
	}
	return nil
}

// Sync makes what is at path durable: the content of a file, the names in a
// directory.
func Sync(path string) error {
	if err := syncPath(path); err != nil {
		return advise(fmt.Errorf("sync %s: %w", path, err), path)
	}
	return nil
}

func syncPath(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	err = d.Sync()
	// Some file systems cannot sync a directory and say EINVAL: then there is
	// nothing to wait for.
	if errors.Is(err, syscall.EINVAL) {
		err = nil
	}
	return errors.Join(err, d.Close())
}
