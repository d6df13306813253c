package logging

import (
	"errors"
	"fmt"
	"os"
)

// maxFile is where a log file is put aside. With its predecessor a log takes
// twice that at most, which even a small flash card can spare.
const maxFile = 16 << 20

// logFile is appended to; when full, it becomes path.1 and a new one is begun.
// It is not for several goroutines: output has the lock.
type logFile struct {
	path string
	max  int64
	f    *os.File
	size int64 // what f holds, as far as we wrote it
}

func openFile(path string) (*logFile, error) {
	l := &logFile{path: path, max: maxFile}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("open log file: %w; make its directory, or choose another file with --log", err)
	}
	return l, nil
}

// open takes over path as it is. O_APPEND lets other programs truncate the file.
func (l *logFile) open() error {
	f, err := os.OpenFile(l.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.f, l.size = f, info.Size()
	if !info.Mode().IsRegular() {
		l.max = 0 // a pipe or a device has no size to bound
	}
	return nil
}

// Write implements [io.Writer]. A file that cannot be put aside is written on:
// a log that is too long beats one that ends.
func (l *logFile) Write(line []byte) (int, error) {
	var aside error
	if l.max > 0 && l.size+int64(len(line)) > l.max {
		aside = l.rotate()
	}
	n, err := l.f.Write(line)
	l.size += int64(n)
	return n, errors.Join(err, aside)
}

// rotate begins a new file. It looks before it moves anything: someone else may
// have truncated the file or put it aside already.
func (l *logFile) rotate() error {
	ours, err := l.f.Stat()
	if err != nil {
		return fmt.Errorf("look at log file %s: %w", l.path, err)
	}
	l.size = 0 // whatever happens now, do not try again with the next line
	there, err := os.Stat(l.path)
	switch {
	case err == nil && os.SameFile(ours, there) && ours.Size() < l.max/2:
		l.size = ours.Size()
		return nil
	case err == nil && os.SameFile(ours, there):
		if err := os.Rename(l.path, l.path+".1"); err != nil {
			return fmt.Errorf("put log file aside: %w", err)
		}
	}
	old := l.f
	if err := l.open(); err != nil {
		return fmt.Errorf("begin a new log file: %w", err)
	}
	return old.Close()
}

// Close implements [io.Closer].
func (l *logFile) Close() error { return l.f.Close() }
