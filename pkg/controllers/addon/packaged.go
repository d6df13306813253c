package addon

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/knarr-io/knarr/pkg/atomicfile"
)

// Packaged is a manifest that knarr brings along.
type Packaged struct {
	// Path is where it is below the directory, slash-separated, with the ending .yaml.
	Path string
	// Component is the name that disables it, as the name of its Addon does.
	Component string
	// Read returns what is in it, for this cluster.
	Read func() ([]byte, error)
}

// mark begins the line that tells a packaged file from a user's. The path is in it, so that a copy under another name is
// a user's, and a checksum of what follows, so that an edit is noticed.
const mark = "# knarr-packaged "

// header is what a packaged file begins with.
func header(file, component string, body []byte) []byte {
	stem := path.Base(strings.TrimSuffix(file, ".yaml"))
	sum := sha256.Sum256(body)
	return fmt.Appendf(nil, `# knarr brings this file along and puts it back when it is edited or removed.
# To change what it says, write %[1]s.patch.yaml beside it. To keep it as it is, write %[1]s.yaml.skip.
# To be without it, start knarr server with --disable %[2]s.
%[3]s%[4]s sha256:%[5]s
`, stem, component, mark, file, hex.EncodeToString(sum[:]))
}

// inspect tells whether data is a file that knarr has written at this path, and whether it still is as it was written.
func inspect(file string, data []byte) (packaged, intact bool) {
	_, rest, found := bytes.Cut(data, []byte("\n"+mark+file+" sha256:"))
	if !found {
		return false, false
	}
	sum, body, _ := bytes.Cut(rest, []byte("\n"))
	want := sha256.Sum256(body)
	return true, string(sum) == hex.EncodeToString(want[:])
}

// disabled tells whether the user does not want a packaged manifest.
func (c Config) disabled(p Packaged) bool {
	return slices.Contains(c.Disabled, p.Component) || slices.Contains(c.Disabled, addonName(p.Path))
}

// editedSuffix is the ending of the copy of what a user has written into a packaged file.
const editedSuffix = ".edited"

// restore makes the packaged files those of this version, where it may: a file with a .skip beside it is left alone, and
// one that is not wanted is removed, unless it is a user's own. It returns which were edited. known are the files that
// need not be read, since they are as they were written.
func (c Config) restore(files, known map[string]stamp) (edited []string, err error) {
	var errs []error
	for _, p := range c.Packaged {
		if _, skip := files[p.Path+skipSuffix]; skip {
			continue
		}
		if now, ok := files[p.Path]; ok && now == known[p.Path] {
			continue
		}
		was, err := c.restoreOne(p)
		if err != nil {
			errs = append(errs, err)
		}
		if was {
			edited = append(edited, p.Path)
		}
		if now, statErr := stampOf(filepath.Join(c.Dir, filepath.FromSlash(p.Path))); statErr == nil && err == nil {
			known[p.Path] = now
		}
	}
	return edited, errors.Join(errs...)
}

func (c Config) restoreOne(p Packaged) (edited bool, err error) {
	name := filepath.Join(c.Dir, filepath.FromSlash(p.Path))
	old, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read packaged manifest: %w", err)
	}
	there := err == nil
	ours, intact := inspect(p.Path, old)
	if c.disabled(p) {
		if !there || !ours {
			return false, nil
		}
		return !intact, errors.Join(c.keepEdit(name, old, !intact), os.Remove(name))
	}
	body, err := p.Read()
	if err != nil {
		return false, err
	}
	data := append(header(p.Path, p.Component, body), body...)
	if there && bytes.Equal(old, data) {
		return false, nil
	}
	if err := atomicfile.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return false, err
	}
	edited = there && !intact
	if err := c.keepEdit(name, old, edited); err != nil {
		return false, err
	}
	return edited, atomicfile.Write(name, data, 0o600)
}

// keepEdit saves what a user has written.
func (Config) keepEdit(name string, data []byte, edited bool) error {
	if !edited {
		return nil
	}
	return atomicfile.Write(name+editedSuffix, data, 0o600)
}

// removeStale removes files that an earlier version brought along and this one does not.
func (c Config) removeStale(files map[string]stamp) error {
	var errs []error
	for file := range files {
		if slices.ContainsFunc(c.Packaged, func(p Packaged) bool { return p.Path == file }) {
			continue
		}
		name := filepath.Join(c.Dir, filepath.FromSlash(file))
		data, err := os.ReadFile(name)
		if err != nil {
			continue // it is reported when it is to be applied
		}
		if ours, intact := inspect(file, data); ours {
			errs = append(errs, c.keepEdit(name, data, !intact), os.Remove(name))
		}
	}
	return errors.Join(errs...)
}

// brings tells whether an Addon is that of a packaged file which is wanted.
func (c Config) brings(name string) bool {
	return slices.ContainsFunc(c.Packaged, func(p Packaged) bool { return addonName(p.Path) == name && !c.disabled(p) })
}

// isPackaged tells whether the path is one of knarr's, disabled or not.
func (c Config) isPackaged(file string) bool {
	return slices.ContainsFunc(c.Packaged, func(p Packaged) bool { return p.Path == file })
}
