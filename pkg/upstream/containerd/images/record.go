package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/knarr-io/knarr/pkg/atomicfile"
)

// record remembers what was imported.
type record struct {
	// Archives are by file name.
	Archives map[string]imported `json:"archives"`
}

// imported is one archive as it was when it was imported.
type imported struct {
	File   file    `json:"file"`
	Images digests `json:"images"`
}

// file tells one version of a file from the next without reading it.
type file struct {
	Size  int64 `json:"size"`  // bytes
	MTime int64 `json:"mtime"` // nanoseconds since 1970
}

func stamp(path string) (file, error) {
	info, err := os.Stat(path)
	if err != nil {
		return file{}, err
	}
	if !info.Mode().IsRegular() {
		return file{}, errors.New("not a regular file")
	}
	return file{Size: info.Size(), MTime: info.ModTime().UnixNano()}, nil
}

// loadRecord reads the record; without a good one every archive is new.
func loadRecord(path string, log *slog.Logger) record {
	r := record{}
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("the record of imported image archives is unusable; they will be read again", "file", path, "error", err)
		r = record{}
	}
	if r.Archives == nil {
		r.Archives = make(map[string]imported)
	}
	return r
}

func (r record) save(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the record of imported image archives: %w", err)
	}
	if _, err := atomicfile.WriteIfChanged(path, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the record of imported image archives: %w", err)
	}
	return nil
}
