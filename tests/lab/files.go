package lab

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// ReadFile reads a file of the host.
func (h *Host) ReadFile(path string) ([]byte, error) {
	var b []byte
	err := h.Do(func() error {
		var err error
		b, err = os.ReadFile(path)
		return err
	})
	return b, err
}

// WriteFile writes a file of the host and makes the directories above it.
func (h *Host) WriteFile(path string, data []byte, mode fs.FileMode) error {
	return h.Do(func() error {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return os.WriteFile(path, data, mode)
	})
}

// CopyIn copies a file of the machine into the host.
func (h *Host) CopyIn(from, to string, mode fs.FileMode) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	return h.Do(func() error {
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
		if err != nil {
			return err
		}
		if _, err := io.Copy(dst, src); err != nil {
			dst.Close()
			return err
		}
		return dst.Close()
	})
}
