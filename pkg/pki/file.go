package pki

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/knarr-io/knarr/pkg/atomicfile"
)

const (
	keyMode  fs.FileMode = 0o600
	certMode fs.FileMode = 0o644
	dirMode  fs.FileMode = 0o700
)

// durability says what must survive a power cut.
type durability bool

const (
	// durable: on disk before the next step, because it cannot be made again.
	durable durability = true
	// replaceable: whole or old for every reader, but after a power cut perhaps
	// torn, which the next Ensure finds and repairs. Saving two fsyncs for each
	// of the thirty such files is what keeps a first start fast on flash.
	replaceable durability = false
)

// writeFunc replaces a file in one step.
type writeFunc func(path string, data []byte, mode fs.FileMode, d durability) error

// writeFile is the writeFunc of every real run.
func writeFile(path string, data []byte, mode fs.FileMode, d durability) error {
	if d == durable {
		return atomicfile.Write(path, data, mode)
	}
	// The fixed name, which the lock on the directory makes safe, lets a file
	// left by a killed process be written over.
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
	err := writeTemp(tmp, data, mode)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), remove(tmp))
	}
	return nil
}

func writeTemp(tmp string, data []byte, mode fs.FileMode) error {
	if err := remove(tmp); err != nil {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Chmod(mode), f.Close()) // Chmod: no umask narrows it
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// readFile returns nil data, and no error, for a file that is not there.
func readFile(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	if data == nil {
		data = []byte{} // empty is damaged, not missing
	}
	return data, nil
}

// readPair reads a certificate and its key, and makes sure that the key is
// private.
func readPair(p Pair) (certPEM, keyPEM []byte, err error) {
	certPEM, keyPEM, err = readPairOnly(p)
	if err != nil || keyPEM == nil {
		return certPEM, keyPEM, err
	}
	return certPEM, keyPEM, keepPrivate(p.Key)
}

func readPairOnly(p Pair) (certPEM, keyPEM []byte, err error) {
	if certPEM, err = readFile(p.Cert); err != nil {
		return nil, nil, err
	}
	keyPEM, err = readFile(p.Key)
	return certPEM, keyPEM, err
}

// keepPrivate closes a private key that others could read, as one copied into
// place by hand often can be.
func keepPrivate(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("cannot be checked: %w", err)
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	if err := os.Chmod(path, keyMode); err != nil {
		return fmt.Errorf("private key is readable by others: %w", err)
	}
	return nil
}

// lockDirectories makes the directories and keeps other knarr processes, such
// as `knarr certificate rotate`, out until unlock is called. The kernel drops
// the lock of a process that dies.
func lockDirectories(c Config) (unlock func(), err error) {
	agentDir := filepath.Dir(c.LeafPair(KubeletClient).Cert)
	etcdDir := filepath.Dir(c.CAPair(EtcdServerCA).Cert)
	dirs := []string{filepath.Dir(c.ServiceKey()), filepath.Dir(c.KubeconfigPath(AdminKubeconfigFile)), etcdDir}
	switch {
	case c.Joined:
		dirs = []string{agentDir}
	case c.Agent:
		dirs = append(dirs, agentDir)
	}
	for _, dir := range dirs {
		if err := atomicfile.MkdirAll(dir, dirMode); err != nil {
			return nil, err
		}
	}
	if c.Admin.Path != "" {
		if err := atomicfile.MkdirAll(filepath.Dir(c.Admin.Path), 0o755); err != nil {
			return nil, err
		}
	}
	dir, err := os.Open(dirs[0])
	if err != nil {
		return nil, fmt.Errorf("open certificate directory: %w", err)
	}
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock certificate directory %s: %w", dirs[0], err), dir.Close())
	}
	for _, d := range []string{dirs[0], etcdDir} {
		if err := atomicfile.RemoveTemps(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(err, dir.Close())
		}
	}
	// Closing the directory drops the lock; a close of a directory opened for
	// reading has nothing to report.
	return func() { _ = dir.Close() }, nil
}
