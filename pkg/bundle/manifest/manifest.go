// Package manifest is the list of the files in a bundle: what pkg/bundle/pack
// writes when knarr is built and pkg/bundle checks when it runs.
//
// It is data with its validation; it reads and writes no files.
package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// Manifest lists all files of a bundle, in the order of its archive.
type Manifest struct {
	// Arch is the architecture of the executables, by Go's name.
	Arch string `json:"arch"`
	// Files are the regular files and symbolic links. Directories follow from
	// their paths and have mode 0755.
	Files []File `json:"files"`
}

// File is one regular file or symbolic link.
type File struct {
	// Path is relative to the bundle, slash-separated and clean.
	Path string `json:"path"`
	// Mode is 0755 or 0644; 0 for a link.
	Mode fs.FileMode `json:"mode,omitempty"`
	// Size is in bytes; 0 for a link.
	Size int64 `json:"size,omitempty"`
	// SHA256 is the hash of the content in lower-case hexadecimal; "" for a link.
	SHA256 string `json:"sha256,omitempty"`
	// Link is the target of a symbolic link, relative to the link's directory
	// and inside the bundle; "" for a regular file.
	Link string `json:"link,omitempty"`
}

// Encode returns the manifest as JSON: the same bytes for the same files.
func (m Manifest) Encode() ([]byte, error) {
	if err := m.validate(); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return nil, fmt.Errorf("encode bundle manifest: %w", err)
	}
	return append(b, '\n'), nil
}

// Parse reads what Encode returned. It refuses unknown fields and any file that
// could be written outside the bundle.
func Parse(data []byte) (Manifest, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	var m Manifest
	if err := d.Decode(&m); err != nil {
		return Manifest{}, fmt.Errorf("parse bundle manifest: %w", err)
	}
	if err := m.validate(); err != nil {
		return Manifest{}, err
	}
	return m, nil
}

// ID names the content that the encoded manifest describes: equal for equal
// files only. It is the name of the directory that they are extracted to.
func ID(encoded []byte) string {
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:16])
}

func (m Manifest) validate() error {
	if m.Arch == "" {
		return fmt.Errorf("bundle manifest names no architecture")
	}
	if len(m.Files) == 0 {
		return fmt.Errorf("bundle manifest lists no files")
	}
	seen := make(map[string]bool, len(m.Files))
	for _, f := range m.Files {
		if err := f.validate(); err != nil {
			return fmt.Errorf("bundle manifest: file %q: %w", f.Path, err)
		}
		if seen[f.Path] {
			return fmt.Errorf("bundle manifest: file %q is listed twice", f.Path)
		}
		seen[f.Path] = true
	}
	return nil
}

func (f File) validate() error {
	if !fs.ValidPath(f.Path) || f.Path == "." || strings.HasPrefix(f.Path, ".") {
		return fmt.Errorf("not a path inside the bundle")
	}
	if f.Link != "" {
		target := path.Join(path.Dir(f.Path), f.Link)
		if path.IsAbs(f.Link) || !fs.ValidPath(target) || target == "." {
			return fmt.Errorf("link to %q leaves the bundle", f.Link)
		}
		if f.Mode != 0 || f.Size != 0 || f.SHA256 != "" {
			return fmt.Errorf("a link with mode, size or hash")
		}
		return nil
	}
	if f.Mode != 0o755 && f.Mode != 0o644 {
		return fmt.Errorf("mode %#o is neither 0755 nor 0644", f.Mode)
	}
	if f.Size < 0 {
		return fmt.Errorf("size %d", f.Size)
	}
	if b, err := hex.DecodeString(f.SHA256); err != nil || len(b) != sha256.Size {
		return fmt.Errorf("%q is not a SHA-256 hash", f.SHA256)
	}
	return nil
}
