package backup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Series is what the names of backups begin with that belong together: retention counts the backups of one series, so
// that several servers can share a bucket.
type Series string

const (
	fileSuffix = ".knarr-backup"
	timeLayout = "20060102T150405Z"
)

// Name returns the name for a backup made at a time.
func (s Series) Name(t time.Time) string {
	return string(s) + "-" + t.UTC().Format(timeLayout) + fileSuffix
}

// parseName takes the name of a backup apart; ok is false when it is not one.
func parseName(name string) (s Series, created time.Time, ok bool) {
	stem, ok := strings.CutSuffix(name, fileSuffix)
	cut := len(stem) - len(timeLayout) - 1
	if !ok || cut < 1 || stem[cut] != '-' || filepath.Base(name) != name {
		return "", time.Time{}, false
	}
	created, err := time.Parse(timeLayout, stem[cut+1:])
	return Series(stem[:cut]), created, err == nil
}

// newestFirst compares the names of backups: the later one comes first, of two made in the same second that of the
// series that sorts first.
func newestFirst(a, b string) int {
	_, createdA, _ := parseName(a)
	_, createdB, _ := parseName(b)
	if c := createdB.Compare(createdA); c != 0 {
		return c
	}
	return strings.Compare(a, b)
}

// File is a backup in a directory of backups.
type File struct {
	Path    string    `json:"path"`
	Created time.Time `json:"created"` // from its name
	Bytes   int64     `json:"bytes"`
}

// List returns the backups in a directory, of all series, the newest first. A directory that is not there has none.
func List(dir string) ([]File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list backups: %w", err)
	}
	var out []File
	for _, e := range entries {
		_, created, ok := parseName(e.Name())
		if !ok || !e.Type().IsRegular() {
			continue
		}
		fi, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("list backups: %w", err)
		}
		out = append(out, File{Path: filepath.Join(dir, e.Name()), Created: created, Bytes: fi.Size()})
	}
	slices.SortFunc(out, func(a, b File) int { return newestFirst(filepath.Base(a.Path), filepath.Base(b.Path)) })
	return out, nil
}

// of leaves the files of one series.
func (s Series) of(files []File) []File {
	return slices.DeleteFunc(files, func(f File) bool { return !s.has(filepath.Base(f.Path)) })
}

// has tells whether a name is of the series.
func (s Series) has(name string) bool {
	of, _, ok := parseName(name)
	return ok && of == s
}

// Prune removes all but the newest backups of a series in a directory and returns what it removed. keep must be at least
// one.
func Prune(dir string, s Series, keep int) ([]File, error) {
	if keep < 1 {
		return nil, fmt.Errorf("prune backups: keep %d: at least one has to stay", keep)
	}
	files, err := List(dir)
	if files = s.of(files); err != nil || len(files) <= keep {
		return nil, err
	}
	for i, f := range files[keep:] {
		if err := os.Remove(f.Path); err != nil {
			return files[keep : keep+i], fmt.Errorf("prune backups: %w", err)
		}
	}
	return files[keep:], nil
}
