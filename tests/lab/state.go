package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ownerFile is locked by the process that made a lab for as long as it lives;
// the kernel drops the lock with the process, however that ends.
const ownerFile = "owner"

// claimDir makes a new state directory and marks it as this process's own. The
// lock's descriptor stays open until the process ends, on purpose.
func claimDir(base string) (string, error) {
	dir, err := os.MkdirTemp(base, strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return "", fmt.Errorf("make lab directory: %w", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", fmt.Errorf("open lab directory to all: %w", err)
	}
	fd, err := unix.Open(filepath.Join(dir, ownerFile), unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return "", fmt.Errorf("create lab owner file: %w", err)
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return "", errors.Join(fmt.Errorf("lock lab owner file: %w", err), unix.Close(fd))
	}
	return dir, nil
}

// sweep removes the directories and cgroups of labs whose maker is dead. Their
// processes, mounts and links went with the maker.
func sweep(base string) error {
	dirs, err := filepath.Glob(filepath.Join(base, "*", ownerFile))
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range dirs {
		dead, err := ownerDead(f)
		if err != nil {
			errs = append(errs, err)
		}
		if !dead {
			continue
		}
		dir := filepath.Dir(f)
		errs = append(errs, removeCgroups(cgroupPrefix+filepath.Base(dir)), os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

func ownerDead(file string) (bool, error) {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil // another process swept it first
	}
	if err != nil {
		return false, fmt.Errorf("open lab owner file: %w", err)
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("probe lab owner file %s: %w", file, err)
	}
	// The file is created a moment before it is locked: an unlocked one whose
	// maker still lives belongs to a lab that is just being made.
	maker, _, _ := strings.Cut(filepath.Base(filepath.Dir(file)), "-")
	if _, err := os.Stat("/proc/" + maker); err == nil && maker != strconv.Itoa(os.Getpid()) {
		return false, nil
	}
	return true, nil
}
