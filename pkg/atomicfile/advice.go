package atomicfile

import (
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
)

// advice says what to do about an error that only the user can mend.
var advice = []struct {
	errno syscall.Errno
	what  string // %s is the directory
}{
	{syscall.ENOSPC, "free space or inodes on the file system of %s (see df -h, df -i)"},
	{syscall.EDQUOT, "raise the disk quota of the file system of %s or free space on it"},
	{syscall.EROFS, "make the file system of %s writable (see findmnt, dmesg), or use another directory"},
	{syscall.EIO, "the disk under %s is failing (see dmesg): replace it"},
}

// advise adds to err what to do about it, if that is known.
func advise(err error, path string) error {
	for _, a := range advice {
		if errors.Is(err, a.errno) {
			return fmt.Errorf("%w: "+a.what, err, filepath.Dir(path))
		}
	}
	return err
}
