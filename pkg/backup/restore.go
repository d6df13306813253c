package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/pkg/atomicfile"
	"github.com/knarr-io/knarr/pkg/datadir"
	"github.com/knarr-io/knarr/pkg/datastore/sqlite"
	"github.com/knarr-io/knarr/pkg/version"
)

// Target says where to restore to.
type Target struct {
	DataDir, ConfigDir string
	// OverwriteConfig replaces an existing configuration; else it stays, and that of the backup is put beside it.
	OverwriteConfig bool
}

// Restored tells what a restore did.
type Restored struct {
	Info Info
	// Revision is where the datastore goes on, well past any that a client has seen.
	Revision int64
	// Previous is where what was there before is now; empty if there was nothing.
	Previous string
	// Config is where the configuration of the backup is.
	Config string
}

// Restore puts a server back to what it was. Nothing is touched before the whole backup was unpacked and verified beside
// it; then it takes the place of what is there in one step, and that is kept. The server must be stopped
// ([sqlite.ErrInUse]).
//
// The datastore's contents are those of the backup, its revisions go on: what clients remember of the time since then is
// compacted, so that they read anew.
//
// From then on the data directory is that of the version which the backup is of: that version may use it, also when a
// newer one did. A backup of a newer version than this one is refused.
//
// A server that used an external datastore gets a SQLite one, from which `knarr datastore migrate` leads on.
func Restore(ctx context.Context, file string, to Target, passphrase []byte) (done Restored, err error) {
	server := filepath.Join(to.DataDir, "server")
	if info, err := sqlite.Inspect(filepath.Join(server, "db")); err == nil && info.InUse {
		return done, fmt.Errorf("restore backup: %w: stop it first with `knarr stop`", sqlite.ErrInUse)
	}
	if err := atomicfile.MkdirAll(to.DataDir, 0o700); err != nil {
		return done, fmt.Errorf("restore backup: %w", err)
	}
	// In the data directory, so that taking its place is a rename.
	staging := filepath.Join(to.DataDir, "restoring")
	if err := os.RemoveAll(staging); err != nil {
		return done, fmt.Errorf("remove unfinished restore: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(staging)) }()
	if err := os.Mkdir(staging, 0o700); err != nil {
		return done, fmt.Errorf("make directory to restore in: %w", err)
	}
	if done.Info, err = extract(ctx, file, staging, passphrase); err != nil {
		return done, err
	}
	if newer, err := datadir.Newer(done.Info.Data, version.Version); err != nil {
		return done, fmt.Errorf("read the version of backup %s: %w", file, err)
	} else if newer {
		return done, fmt.Errorf("restore backup %s: it is of knarr %s, which is newer than this knarr %s: use that version", file, done.Info.Data, version.Version)
	}
	if done.Revision, err = sqlite.RaiseRevision(ctx, filepath.Join(staging, dirStore, sqlite.FileName())); err != nil {
		return done, fmt.Errorf("restore backup: %w", err)
	}
	if err := syncTree(staging); err != nil {
		return done, err
	}
	stamp := time.Now().UTC().Format("20060102T150405Z")
	if done.Previous, err = replace(filepath.Join(staging, dirServer), server, server+".before-restore-"+stamp); err != nil {
		return done, err
	}
	if err := datadir.New(to.DataDir).SetStamp(done.Info.Data); err != nil {
		return done, err
	}
	done.Config, err = restoreConfig(filepath.Join(staging, dirConfig), to, stamp)
	return done, err
}

// replace puts next in the place of now, and what was there aside. At every moment there is one or the other.
func replace(next, now, aside string) (previous string, err error) {
	if aside, err = unused(aside); err != nil {
		return "", err
	}
	if _, err := os.Lstat(now); errors.Is(err, fs.ErrNotExist) {
		if err := os.Rename(next, now); err != nil {
			return "", fmt.Errorf("put restored %s in place: %w", now, err)
		}
		return "", atomicfile.Sync(filepath.Dir(now))
	}
	// It waits under the name that what is there gets, lest that is lost when the process ends between two steps.
	if err := os.Rename(next, aside); err != nil {
		return "", fmt.Errorf("put restored %s in place: %w", now, err)
	}
	if err := unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, now, unix.RENAME_EXCHANGE); err != nil {
		return "", errors.Join(fmt.Errorf("exchange %s for the restored one: %w", now, err), os.RemoveAll(aside))
	}
	return aside, atomicfile.Sync(filepath.Dir(now))
}

// unused is a name that nothing has yet, as of a restore in the same second.
func unused(name string) (string, error) {
	for i, try := 2, name; ; i++ {
		if _, err := os.Lstat(try); errors.Is(err, fs.ErrNotExist) {
			return try, nil
		} else if err != nil {
			return "", fmt.Errorf("find a name for what is replaced: %w", err)
		}
		try = fmt.Sprintf("%s-%d", name, i)
	}
}

// restoreConfig puts the configuration in its place, or beside that which is there.
func restoreConfig(from string, to Target, stamp string) (place string, err error) {
	if _, err := os.Lstat(from); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	place = to.ConfigDir
	if _, err := os.Lstat(place); err == nil && !to.OverwriteConfig {
		if place, err = unused(place + ".restored-" + stamp); err != nil {
			return "", err
		}
	}
	// Beside its place, which may be on another file system than the data directory.
	next := to.ConfigDir + ".restoring"
	if err := os.RemoveAll(next); err != nil {
		return "", fmt.Errorf("remove unfinished restore: %w", err)
	}
	if err := atomicfile.MkdirAll(next, 0o755); err != nil {
		return "", fmt.Errorf("restore configuration: %w", err)
	}
	if err := errors.Join(copyTree(from, next), syncTree(next)); err != nil {
		return "", errors.Join(fmt.Errorf("restore configuration: %w", err), os.RemoveAll(next))
	}
	_, err = replace(next, place, to.ConfigDir+".before-restore-"+stamp)
	return place, err
}

// syncTree makes sure that directories are on the disk; files were synced when they were written, or are now.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() && !d.Type().IsRegular() {
			return err
		}
		return atomicfile.Sync(p)
	})
}
