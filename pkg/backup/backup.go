// Package backup puts all that a server cannot do without into one file, and gets it out again: the datastore, the
// certificate authorities and other credentials, the token, the manifests and the configuration.
//
// A backup is a tar archive, compressed with zstd and, when asked, encrypted with age for a passphrase. It begins with
// a description and ends with the checksums of everything in it. The file ends with its own checksum, which is verified
// before anything is unpacked. The datastore in it is a SQLite database, whatever engine it came from.
//
// It does not back up volumes of pods, images or containers: those are the nodes', not the server's.
//
// Nothing here runs by itself but [Scheduler], which stops between two backups or by giving up the one at work; an
// unfinished backup leaves no file.
package backup

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/knarr-io/knarr/pkg/atomicfile"
	"github.com/knarr-io/knarr/pkg/datadir"
	"github.com/knarr-io/knarr/pkg/datastore"
	"github.com/knarr-io/knarr/pkg/version"
)

// Source says what to back up.
type Source struct {
	// DataDir is knarr's data directory, of which everything below server but the database's own directory is taken.
	DataDir string
	// ConfigDir is /etc/knarr. It need not exist.
	ConfigDir string
	// Datastore is the store, which may be in use.
	Datastore datastore.Config
	Log       *slog.Logger
}

// format is the version of the archive's layout.
const format = 1

// Info describes a backup.
type Info struct {
	Format    int           `json:"format"`
	Created   time.Time     `json:"created"`
	Version   string        `json:"version"` // of the knarr that made the backup
	Data      string        `json:"data"`    // version of the knarr that used the data, which is older before an upgrade
	Engine    string        `json:"engine"`  // the datastore was kept in
	Datastore datastore.Sum `json:"datastore"`
}

// names in the archive
const (
	nameInfo  = "backup.json"
	nameSums  = "checksums.json" // last
	dirServer = "server"         // data-dir/server
	dirConfig = "config"         // /etc/knarr
	dirStore  = "server/db"      // the database
)

// Compression is how hard to try to make backups small; the zero value is [CompressionDefault].
type Compression string

// Each takes about twice the time of the one before.
const (
	CompressionFast    Compression = "fast"
	CompressionDefault Compression = "default"
	CompressionBetter  Compression = "better"
	CompressionBest    Compression = "best"
)

func (c Compression) level() zstd.EncoderLevel {
	switch c {
	case CompressionFast:
		return zstd.SpeedFastest
	case CompressionBetter:
		return zstd.SpeedBetterCompression
	case CompressionBest:
		return zstd.SpeedBestCompression
	default:
		return zstd.SpeedDefault
	}
}

// Options say how a backup is written; the zero value is not encrypted.
type Options struct {
	// Passphrase encrypts the backup when not empty.
	Passphrase  []byte
	Compression Compression
}

// Create writes a backup to a new file, whole or not at all.
func Create(ctx context.Context, s Source, file string, o Options) (info Info, err error) {
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return info, fmt.Errorf("create backup %s: the file exists (%v)", file, err)
	}
	// Beside the target: it has the space, and the last step is a rename.
	tmp, remove, err := atomicfile.Scratch(filepath.Dir(file), ".knarr-backup-")
	if err != nil {
		return info, fmt.Errorf("create backup: %w", err)
	}
	defer func() { err = errors.Join(err, remove()) }()
	info = Info{Format: format, Created: time.Now().UTC().Truncate(time.Second), Version: version.Version, Engine: datastore.Engine(s.Datastore)}
	if info.Data, err = dataVersion(s.DataDir); err != nil {
		return info, err
	}
	if info.Datastore, err = datastore.Export(ctx, s.Datastore, tmp, s.Log); err != nil {
		return info, err
	}
	unfinished := filepath.Join(tmp, "backup")
	f, err := os.OpenFile(unfinished, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return info, fmt.Errorf("create backup: %w", err)
	}
	err = errors.Join(writeArchive(ctx, f, s, info, tmp, o), f.Sync(), f.Close())
	if err != nil {
		return info, fmt.Errorf("write backup: %w", err)
	}
	if err := os.Rename(unfinished, file); err != nil {
		return info, fmt.Errorf("put backup in place: %w", err)
	}
	return info, atomicfile.Sync(filepath.Dir(file))
}

// dataVersion is whose data is in a data directory: this version's, where no server has run.
func dataVersion(dir string) (string, error) {
	stamp, err := datadir.New(dir).Stamp()
	if err != nil {
		return "", fmt.Errorf("create backup: %w", err)
	}
	return cmp.Or(stamp, version.Version), nil
}

func writeArchive(ctx context.Context, w io.Writer, s Source, info Info, store string, o Options) error {
	a, err := newArchive(ctx, w, o)
	if err != nil {
		return err
	}
	description, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return err
	}
	if err := a.add(nameInfo, description); err != nil {
		return err
	}
	server := filepath.Join(s.DataDir, "server")
	err = errors.Join(
		a.addTree(dirServer, server, filepath.Join(server, "db"), store),
		a.addTree(dirConfig, s.ConfigDir),
		a.addTree(dirStore, store, filepath.Join(store, "backup")),
	)
	if err != nil {
		return err
	}
	return a.finish()
}

// Verify reads a whole backup and checks it: every checksum, and the database in it as `knarr datastore check` does.
func Verify(ctx context.Context, file string, passphrase []byte) (Info, error) {
	tmp, remove, err := atomicfile.Scratch(os.TempDir(), "knarr-backup-verify-")
	if err != nil {
		return Info{}, fmt.Errorf("verify backup: %w", err)
	}
	info, err := extract(ctx, file, tmp, passphrase)
	return info, errors.Join(err, remove())
}

// extract unpacks a backup into a directory and checks everything.
func extract(ctx context.Context, file, dir string, passphrase []byte) (info Info, err error) {
	f, err := os.Open(file)
	if err != nil {
		return info, fmt.Errorf("open backup: %w", err)
	}
	defer f.Close()
	description, err := readArchive(ctx, f, dir, passphrase)
	if err != nil {
		return info, fmt.Errorf("read backup %s: %w", file, err)
	}
	if err := json.Unmarshal(description, &info); err != nil {
		return info, fmt.Errorf("read backup %s: its description: %w", file, err)
	}
	if info.Format != format {
		return info, fmt.Errorf("read backup %s: it has format %d, this program knows %d: use knarr %s", file, info.Format, format, info.Version)
	}
	sum, err := datastore.Check(ctx, datastore.Config{Dir: filepath.Join(dir, dirStore)}, slog.New(slog.DiscardHandler))
	if err != nil {
		return info, fmt.Errorf("check the datastore in backup %s: %w", file, err)
	}
	if sum != info.Datastore {
		return info, fmt.Errorf("check the datastore in backup %s: it has %+v, its description says %+v", file, sum, info.Datastore)
	}
	return info, nil
}
