// Package atomicfile writes files that are, after kill -9 or a power cut at any
// moment, either as they were before or as they were meant to be, and stay so
// once a function has returned.
//
// It is not a lock: of two writers of one path the last wins, whole. It starts
// nothing, so there is nothing to stop; what a killed process left behind is
// found by its name and removed by [RemoveTemps], or by the next [Scratch].
package atomicfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Write makes path a file with exactly data and perm, which no umask narrows.
// The directory must exist. A symbolic link at path is replaced, not followed.
//
// If it fails, path is as it was and nothing is left beside it; only if the
// last step fails, the sync of the directory, is the new file already there.
func Write(path string, data []byte, perm fs.FileMode) error {
	return WriteReader(path, bytes.NewReader(data), perm)
}

// WriteReader is Write with what r yields until io.EOF.
func WriteReader(path string, r io.Reader, perm fs.FileMode) error {
	if err := replace(path, r, perm); err != nil {
		return advise(fmt.Errorf("write %s: %w", path, err), path)
	}
	return nil
}

// WriteIfChanged is Write if path is not yet a regular file with this data and
// these permissions, and reports whether it wrote.
func WriteIfChanged(path string, data []byte, perm fs.FileMode) (changed bool, err error) {
	same, err := holds(path, data, perm)
	if err != nil {
		return false, fmt.Errorf("compare %s with its new content: %w", path, err)
	}
	if same {
		return false, nil
	}
	return true, Write(path, data, perm)
}

func holds(path string, data []byte, perm fs.FileMode) (bool, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case info.Mode() != perm, info.Size() != int64(len(data)):
		return false, nil
	}
	old, err := os.ReadFile(path)
	return bytes.Equal(old, data), err
}

func replace(path string, r io.Reader, perm fs.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := createTemp(dir)
	if err != nil {
		return err
	}
	// Closed only after the rename: until then its lock keeps RemoveTemps away.
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := fill(f, r, perm, path); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncPath(dir)
}

// fill does everything up to the rename, after which there is no temporary file.
func fill(f *os.File, r io.Reader, perm fs.FileMode, path string) error {
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if err := f.Sync(); err != nil { // the data before the name that promises it
		return err
	}
	return os.Rename(f.Name(), path)
}
