// Package seal ends a file with the checksum of all that is before it, so that a file is known to be whole and unchanged
// before any of it is used. The end is a skippable frame of zstd (RFC 8878, 3.1.2): programs that read zstd pass over it.
//
// It is not a signature: whoever can write the file can seal it again. It starts nothing.
package seal

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
)

// header is the frame's magic number, the size of its content, 40, and who made it.
const header = "\x5e\x2a\x4d\x18" + "\x28\x00\x00\x00" + "KNARRSUM"

// Size is how many bytes a seal adds to a file.
const Size = len(header) + sha256.Size

// ErrBroken says that a file is not what was sealed: it was cut off or changed, or it was never sealed.
var ErrBroken = errors.New("it is damaged or cut off: its checksum does not match")

// Writer passes on what is written and sums it up.
type Writer struct {
	w   io.Writer
	sum hash.Hash
}

// NewWriter returns a Writer onto w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w, sum: sha256.New()} }

// Write implements io.Writer.
func (s *Writer) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.sum.Write(p[:n])
	return n, err
}

// Close writes the seal. It leaves what is below open.
func (s *Writer) Close() error {
	if _, err := s.w.Write(s.sum.Sum([]byte(header))); err != nil {
		return fmt.Errorf("write checksum: %w", err)
	}
	return nil
}

// Open reads all of a file and returns what was sealed in it, or [ErrBroken].
func Open(f *os.File) (*io.SectionReader, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read checksum: %w", err)
	}
	n := fi.Size() - int64(Size)
	if n < 0 {
		return nil, ErrBroken
	}
	end := make([]byte, Size)
	if _, err := f.ReadAt(end, n); err != nil {
		return nil, fmt.Errorf("read checksum: %w", err)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, n)); err != nil {
		return nil, fmt.Errorf("verify checksum: %w", err)
	}
	if !bytes.Equal(end, sum.Sum([]byte(header))) {
		return nil, ErrBroken
	}
	return io.NewSectionReader(f, 0, n), nil
}

// Check tells whether a file is what was sealed.
func Check(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("verify checksum: %w", err)
	}
	_, err = Open(f)
	return errors.Join(err, f.Close())
}
