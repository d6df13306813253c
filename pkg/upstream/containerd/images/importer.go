package images

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// A list with an image that cannot be pulled is tried again after firstRetry, which doubles up to maxRetry: at boot
	// the network may come later.
	firstRetry = 10 * time.Second
	maxRetry   = 10 * time.Minute
)

// digests are the manifests or indexes that images point to, by full name.
type digests = map[string]digest.Digest

// store is the part of containerd that the import needs.
type store interface {
	// Has tells whether containerd holds all of the images, unpacked, and pins those that it holds.
	Has(ctx context.Context, want digests) (bool, error)
	// Import takes in all images of an archive that are for this host, or none, and pins them.
	Import(ctx context.Context, file io.Reader) (digests, error)
	// Pull pulls an image unless it is there, and pins it.
	Pull(ctx context.Context, name string) error
}

// importer is one run of the component. It is used by one goroutine.
type importer struct {
	config  Config
	log     *slog.Logger
	store   store
	record  record
	pending map[string]pending // by file name
}

// pending is a file that is to be looked at.
type pending struct {
	due   time.Time
	retry time.Duration // how long the last wait was, 0 if nothing has failed
}

// The kinds of files.
const (
	archive = "archive"
	list    = "list"
)

// kind tells what to do with a file; "" for nothing.
func kind(name string) string {
	if strings.HasPrefix(name, ".") { // of whoever is copying
		return ""
	}
	for suffix, kind := range map[string]string{".tar": archive, ".tar.gz": archive, ".tgz": archive, ".tar.zst": archive, ".txt": list} {
		if strings.HasSuffix(name, suffix) {
			return kind
		}
	}
	return ""
}

// expect has a file looked at when it is due.
func (i *importer) expect(name string, due time.Time) {
	if kind(name) != "" {
		i.pending[name] = pending{due: due}
	}
}

// next is when the next file is due.
func (i *importer) next() (at time.Time, ok bool) {
	for _, p := range i.pending {
		if !ok || p.due.Before(at) {
			at, ok = p.due, true
		}
	}
	return at, ok
}

// work deals with all files of these kinds that are due, kind by kind.
func (i *importer) work(ctx context.Context, kinds ...string) {
	now := time.Now()
	for _, k := range kinds {
		for _, name := range slices.Sorted(maps.Keys(i.pending)) {
			p := i.pending[name]
			if kind(name) != k || p.due.After(now) || ctx.Err() != nil {
				continue
			}
			delete(i.pending, name)
			if k == archive {
				i.importArchive(ctx, name)
			} else {
				i.pullList(ctx, name, p.retry)
			}
		}
	}
}

// importArchive imports one archive unless it has been imported as it is.
func (i *importer) importArchive(ctx context.Context, name string) {
	path := filepath.Join(i.config.Dir, name)
	before, err := stamp(path)
	if errors.Is(err, fs.ErrNotExist) {
		i.forget(name)
		return
	}
	known, found := i.record.Archives[name]
	if err == nil && found && known.File == before {
		complete, err := i.store.Has(ctx, known.Images)
		if err == nil && complete {
			return
		}
	}
	var images digests
	began := time.Now()
	if err == nil {
		images, err = importFile(ctx, i.store, path)
	}
	if ctx.Err() != nil {
		return
	}
	if after, err := stamp(path); err == nil && after != before { // it was still being written
		i.expect(name, time.Now().Add(i.config.Settle))
		return
	}
	if err != nil {
		i.log.Error("cannot import an image archive; copy it again", "file", path, "error", err)
		return
	}
	i.log.Info("images imported", "file", path, "images", slices.Sorted(maps.Keys(images)), "took", time.Since(began).Round(time.Millisecond))
	i.record.Archives[name] = imported{File: before, Images: images}
	i.save()
}

// forget drops what is remembered of an archive that is gone. Its images stay.
func (i *importer) forget(name string) {
	if _, ok := i.record.Archives[name]; ok {
		delete(i.record.Archives, name)
		i.save()
	}
}

func (i *importer) save() {
	if err := i.record.save(i.config.Record); err != nil {
		i.log.Warn("cannot remember which image archives were imported; they will be read again", "error", err)
	}
}

// pullList pulls the images of one list; again later if one fails.
func (i *importer) pullList(ctx context.Context, name string, waited time.Duration) {
	path := filepath.Join(i.config.Dir, name)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	names, lineErr := lines(text)
	err = errors.Join(err, lineErr)
	for _, image := range names {
		if pullErr := i.store.Pull(ctx, image); pullErr != nil {
			err = errors.Join(err, fmt.Errorf("pull %s: %w", image, pullErr))
		}
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	retry := min(max(firstRetry, 2*waited), maxRetry)
	i.log.Error("cannot pull all images of a list", "file", path, "error", err, "again in", retry)
	i.pending[name] = pending{due: time.Now().Add(retry), retry: retry}
}

// lines are the names in a list.
func lines(text []byte) (names []string, err error) {
	scanner := bufio.NewScanner(bytes.NewReader(text))
	for scanner.Scan() {
		name, _, _ := strings.Cut(scanner.Text(), "#")
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names, scanner.Err()
}

// importFile imports an archive, and if that fails for a damaged one says what is damaged.
func importFile(ctx context.Context, s store, path string) (images digests, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open image archive: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	images, err = s.Import(ctx, f)
	if err == nil || ctx.Err() != nil {
		return images, err
	}
	if damage := findDamage(f); damage != nil {
		return nil, damage
	}
	return nil, err
}
