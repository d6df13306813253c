package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/knarr-io/knarr/pkg/datastore/sqlite"
	"golang.org/x/sys/unix"
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
// A server that used an external datastore gets a SQLite one, from which `knarr datastore migrate` leads on.
func Restore(ctx context.Context, file string, to Target, passphrase []byte) (done Restored, err error) {
	server := filepath.Join(to.DataDir, "server")
	if info, err := sqlite.Inspect(filepath.Join(server, "db")); err == nil && info.InUse {
		return done, fmt.Errorf("restore backup: %w: stop it first with `knarr stop`", sqlite.ErrInUse)
	}
	if err := os.MkdirAll(to.DataDir, 0o755); err != nil {
		return done, fmt.Errorf("make data directory: %w", err)
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
	done.Config, err = restoreConfig(filepath.Join(staging, dirConfig), to, stamp)
	return done, err
}

// replace puts next in the place of now, and what was there aside. At every moment there is one or the other.
func replace(next, now, aside string) (previous string, err error) {
	if _, err := os.Lstat(now); errors.Is(err, fs.ErrNotExist) {
		if err := os.Rename(next, now); err != nil {
			return "", fmt.Errorf("put restored %s in place: %w", now, err)
		}
		return "", syncDir(filepath.Dir(now))
	}
	if err := unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, now, unix.RENAME_EXCHANGE); err != nil {
		return "", fmt.Errorf("exchange %s for the restored one: %w", now, err)
	}
	if err := os.Rename(next, aside); err != nil {
		return "", fmt.Errorf("keep what was in %s: %w", now, err)
	}
	return aside, syncDir(filepath.Dir(now))
}

func restoreConfig(from string, to Target, stamp string) (string, error) {
	if _, err := os.Lstat(from); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	place := to.ConfigDir
	if _, err := os.Lstat(to.ConfigDir); err == nil && !to.OverwriteConfig {
		place = to.ConfigDir + ".restored-" + stamp
	} else if err == nil {
		if err := os.Rename(to.ConfigDir, to.ConfigDir+".before-restore-"+stamp); err != nil {
			return "", fmt.Errorf("keep configuration: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(place), 0o755); err != nil {
		return "", fmt.Errorf("make directory for configuration: %w", err)
	}
	// Perhaps on another file system than the data directory.
	if err := os.CopyFS(place, os.DirFS(from)); err != nil {
		return "", fmt.Errorf("restore configuration: %w", err)
	}
	return place, syncTree(place)
}

// syncTree makes sure that directories are on the disk; files were synced when they were written, or are now.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() && !d.Type().IsRegular() {
			return err
		}
		return syncDir(p)
	})
}
