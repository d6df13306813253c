package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/knarr-io/knarr/pkg/atomicfile"
)

// Write makes the directory dir, containerd's config_path, hold these files: each is replaced atomically, and only
// then are those removed that knarr wrote earlier and does not want any more. Files that somebody else put there stay,
// unless registries.yaml speaks of the same registry. It reports whether anything changed.
func Write(dir string, files map[string][]byte) (changed bool, err error) {
	for name, data := range files {
		file := filepath.Join(dir, name)
		if err := atomicfile.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return changed, fmt.Errorf("write registry configuration: %w", err)
		}
		wrote, err := atomicfile.WriteIfChanged(file, data, 0o600)
		changed = changed || wrote
		if err != nil {
			return changed, fmt.Errorf("write registry configuration: %w", err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return changed, fmt.Errorf("look for old registry configuration: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if _, wanted := files[path.Join(e.Name(), "hosts.toml")]; wanted || !e.IsDir() {
			continue
		}
		removed, err := remove(filepath.Join(dir, e.Name()))
		changed = changed || removed
		if err != nil {
			errs = append(errs, fmt.Errorf("remove old registry configuration: %w", err))
		}
	}
	return changed, errors.Join(errs...)
}

// remove removes the hosts.toml in dir if knarr wrote it, and dir if nothing else is in it.
func remove(dir string) (bool, error) {
	file := filepath.Join(dir, "hosts.toml")
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !bytes.HasPrefix(data, []byte(Marker)) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := errors.Join(os.Remove(file), atomicfile.RemoveTemps(dir)); err != nil {
		return false, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		return true, err
	}
	return true, os.Remove(dir)
}
