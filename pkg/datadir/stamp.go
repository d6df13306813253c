package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/knarr-io/knarr/pkg/atomicfile"
)

// Stamp is the version of the newest knarr that used the data-dir; "" when none
// did.
func (d Dir) Stamp() (string, error) {
	data, err := os.ReadFile(d.VersionFile())
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the version of data-dir %s: %w", d.root, err)
	}
	stamp := strings.TrimSpace(string(data))
	if _, err := parseRelease(stamp); err != nil {
		return "", fmt.Errorf("read the version of data-dir %s: %s is damaged: %w: write the version that used the data-dir last into it",
			d.root, d.VersionFile(), err)
	}
	return stamp, nil
}

// SetStamp says which version's data this is. Only a restore sets an older one:
// what a newer version wrote is then no longer there.
func (d Dir) SetStamp(version string) error {
	if err := atomicfile.Write(d.VersionFile(), []byte(version+"\n"), stampMode); err != nil {
		return fmt.Errorf("stamp data-dir %s with version %s: %w", d.root, version, err)
	}
	return nil
}

// Newer tells whether one version is newer than another.
func Newer(version, than string) (bool, error) {
	v, err := parseRelease(version)
	if err != nil {
		return false, err
	}
	t, err := parseRelease(than)
	return v.compare(t) > 0, err
}

// previous is the version on the stamp, "" when there is none, or an error when
// that is newer than version or cannot be read.
func (d Dir) previous(version string) (string, error) {
	if _, err := parseRelease(version); err != nil {
		return "", fmt.Errorf("read the version of this knarr: %w", err)
	}
	stamp, err := d.Stamp()
	if err != nil || stamp == "" {
		return "", err
	}
	if newer, err := Newer(stamp, version); err != nil {
		return "", err
	} else if newer {
		return "", &NewerError{Root: d.root, Stamp: stamp, Running: version}
	}
	return stamp, nil
}
