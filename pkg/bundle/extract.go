package bundle

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"unsafe"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/knarr-io/knarr/pkg/atomicfile"
	"github.com/knarr-io/knarr/pkg/bundle/manifest"
)

// Names in the data directory that are not bundles. Staging and old directories
// belong to whoever holds the lock; found later, they are leftovers of a crash.
const (
	currentName   = "current"
	lockName      = ".lock"
	stagingPrefix = ".new-"
	oldPrefix     = ".old-"
)

const (
	// maxWindow bounds the memory that decompression takes, in bytes. It is the
	// window that scripts/build-helpers compresses with.
	maxWindow = 16 << 20
	// syncs is how many files are being synced while the next are written.
	syncs = 4
)

// Extract extracts the embedded bundle; see Bundle.Extract.
func Extract(ctx context.Context, dir string) (Layout, error) {
	b, err := Embedded()
	if err != nil {
		return Layout{}, err
	}
	return b.Extract(ctx, dir)
}

// Extract makes sure that dir, created if need be, holds the bundle's files
// unharmed, and that its `current` is a link to them. Several processes may call
// it at a time; they wait for one another.
//
// An error leaves what was there: it says if dir is on a file system mounted
// noexec or full.
func (b *Bundle) Extract(ctx context.Context, dir string) (Layout, error) {
	l, err := b.extract(ctx, dir)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = fmt.Errorf("%w: free at least %d MiB on the file system of %s", err, b.size()>>20+1, dir)
	}
	if err != nil {
		return Layout{}, fmt.Errorf("extract bundle: %w", err)
	}
	return l, nil
}

func (b *Bundle) extract(ctx context.Context, dir string) (Layout, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Layout{}, err
	}
	if err := atomicfile.MkdirAll(dir, 0o755); err != nil {
		return Layout{}, err
	}
	if err := checkExec(dir); err != nil {
		return Layout{}, err
	}
	unlock, err := lock(ctx, dir)
	if err != nil {
		return Layout{}, err
	}
	defer unlock()
	root := filepath.Join(dir, b.id)
	if err := removeLeftovers(dir, root); err != nil {
		return Layout{}, err
	}
	old := readStamp(root)
	seen, bad, err := b.verify(ctx, root, old)
	if err != nil {
		return Layout{}, err
	}
	if len(bad) > 0 {
		if err := b.restore(ctx, dir, root, bad); err != nil {
			return Layout{}, err
		}
		// Renaming changes a file's change time: look again.
		if seen, err = b.record(root); err != nil {
			return Layout{}, err
		}
	}
	if !seen.equal(old) {
		if err := b.writeStamp(root, seen); err != nil {
			return Layout{}, err
		}
	}
	return layout(root), b.makeCurrent(dir)
}

// size is the space the extracted files take, in bytes.
func (b *Bundle) size() int64 {
	var n int64
	for _, f := range b.files.Files {
		n += f.Size
	}
	return n
}

// restore puts the files in bad, by path, to root: all at once by renaming the
// directory where root does not exist, else one by one.
func (b *Bundle) restore(ctx context.Context, dir, root string, bad map[string]bool) (err error) {
	b.step("make staging directory")
	staging, err := os.MkdirTemp(dir, stagingPrefix)
	if err != nil {
		return err
	}
	defer func() {
		if e := os.RemoveAll(staging); err == nil {
			err = e
		}
	}()
	if err := os.Chmod(staging, 0o755); err != nil {
		return err
	}
	if err := b.unpack(ctx, staging, bad); err != nil {
		return err
	}
	if info, e := os.Lstat(root); e == nil && info.IsDir() {
		return b.replace(staging, root, bad)
	}
	b.step("rename staging directory")
	if err := os.RemoveAll(root); err != nil {
		return err
	}
	if err := os.Rename(staging, root); err != nil {
		return err
	}
	return atomicfile.Sync(dir)
}

// replace renames the files in bad from staging to root.
func (b *Bundle) replace(staging, root string, bad map[string]bool) error {
	dirs := map[string]bool{}
	for _, f := range b.files.Files {
		if !bad[f.Path] {
			continue
		}
		b.step("replace " + f.Path)
		target := filepath.Join(root, filepath.FromSlash(f.Path))
		if err := ensureDir(root, filepath.Dir(target), dirs); err != nil {
			return err
		}
		if info, err := os.Lstat(target); err == nil && info.IsDir() {
			if err := os.RemoveAll(target); err != nil {
				return err
			}
		}
		if err := os.Rename(filepath.Join(staging, filepath.FromSlash(f.Path)), target); err != nil {
			return err
		}
	}
	return syncDirs(dirs)
}

// unpack writes the files in want, by path, to root and syncs all. It reads the
// archive only up to the last of them.
func (b *Bundle) unpack(ctx context.Context, root string, want map[string]bool) error {
	defer b.release()
	z, err := zstd.NewReader(strings.NewReader(b.archive), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return fmt.Errorf("read the bundle in this executable: %w", err)
	}
	defer z.Close()
	var syncing errgroup.Group
	syncing.SetLimit(syncs)
	dirs := map[string]bool{}
	err = b.unpackTo(ctx, tar.NewReader(z), root, want, dirs, &syncing)
	// The group's errors are of the sync; wait for it whatever happened.
	if e := syncing.Wait(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	b.step("sync staging directory")
	return syncDirs(dirs)
}

func (b *Bundle) unpackTo(ctx context.Context, archive *tar.Reader, root string, want, dirs map[string]bool, syncing *errgroup.Group) error {
	left := len(want)
	for _, f := range b.files.Files {
		if left == 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		h, err := archive.Next()
		if err != nil {
			return fmt.Errorf("read %s from the bundle in this executable: %w", f.Path, err)
		}
		if h.Name != f.Path {
			return fmt.Errorf("the bundle in this executable is damaged: %q where its manifest has %q", h.Name, f.Path)
		}
		if !want[f.Path] {
			continue
		}
		left--
		b.step("write " + f.Path)
		target := filepath.Join(root, filepath.FromSlash(f.Path))
		if err := ensureDir(root, filepath.Dir(target), dirs); err != nil {
			return err
		}
		if f.Link != "" {
			if err := os.Symlink(f.Link, target); err != nil {
				return err
			}
			continue
		}
		if err := unpackFile(archive, target, f, syncing); err != nil {
			return err
		}
	}
	return nil
}

// unpackFile writes one file and hands it to syncing, which syncs and closes it.
func unpackFile(archive io.Reader, target string, f manifest.File, syncing *errgroup.Group) error {
	out, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.Mode)
	if err != nil {
		return err
	}
	hash := sha256.New()
	if _, err = io.Copy(io.MultiWriter(out, hash), archive); err == nil {
		err = out.Chmod(f.Mode) // whatever the umask is
	}
	if err == nil && hex.EncodeToString(hash.Sum(nil)) != f.SHA256 {
		err = fmt.Errorf("the bundle in this executable is damaged: %s has another hash than its manifest says: install knarr again", f.Path)
	}
	if err != nil {
		out.Close()
		return fmt.Errorf("write %s: %w", target, err)
	}
	syncing.Go(func() error {
		if err := out.Sync(); err != nil {
			out.Close()
			return err
		}
		return out.Close()
	})
	return nil
}

// release gives back the memory that unpacking took, at once: the decoder's,
// and the pages of the archive, which would count as ours until the kernel runs
// short of memory.
func (b *Bundle) release() {
	debug.FreeOSMemory()
	page := uintptr(os.Getpagesize())
	first := uintptr(unsafe.Pointer(unsafe.StringData(b.archive)))
	skip := (page - first%page) % page
	if uintptr(len(b.archive)) < skip+page || embeddedArchive == "" {
		return
	}
	whole := unsafe.Slice(unsafe.StringData(b.archive), len(b.archive))[skip : uintptr(len(b.archive))-(uintptr(len(b.archive))-skip)%page]
	// Advice: the pages are read-only and of the file, so nothing can be lost,
	// and a refusal costs only memory.
	_ = syscall.Madvise(whole, syscall.MADV_DONTNEED)
}

// makeCurrent points dir/current to this bundle.
func (b *Bundle) makeCurrent(dir string) error {
	link := filepath.Join(dir, currentName)
	if target, err := os.Readlink(link); err == nil && target == b.id {
		return nil
	}
	b.step("link current")
	staging := filepath.Join(dir, stagingPrefix+currentName)
	if err := os.Symlink(b.id, staging); err != nil {
		return err
	}
	if info, err := os.Lstat(link); err == nil && info.IsDir() {
		return fmt.Errorf("%s is a directory, which knarr did not make: move it away", link)
	}
	b.step("rename current")
	if err := os.Rename(staging, link); err != nil {
		return err
	}
	return atomicfile.Sync(dir)
}

// removeLeftovers removes what a crash left behind in dir and in the bundle at
// root. The caller holds the lock.
func removeLeftovers(dir, root string) error {
	if info, err := os.Lstat(root); err == nil && info.IsDir() {
		if err := atomicfile.RemoveTemps(root); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), stagingPrefix) || strings.HasPrefix(e.Name(), oldPrefix) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("remove leftover: %w", err)
			}
		}
	}
	return nil
}

// ensureDir makes the directory dir below root, replacing anything else that
// has its name, and adds it and its parents up to root to dirs.
func ensureDir(root, dir string, dirs map[string]bool) error {
	if dirs[dir] {
		return nil
	}
	if dir != root {
		if err := ensureDir(root, filepath.Dir(dir), dirs); err != nil {
			return err
		}
		info, err := os.Lstat(dir)
		if err == nil && !info.IsDir() {
			err = os.Remove(dir)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	dirs[dir] = true
	return nil
}

func syncDirs(dirs map[string]bool) error {
	for dir := range dirs {
		if err := atomicfile.Sync(dir); err != nil {
			return err
		}
	}
	return nil
}
