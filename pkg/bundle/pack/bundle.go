// Package pack makes, when knarr is built, what pkg/bundle extracts when it
// runs: the archive with its manifest, and the image of the pause container.
//
// The same files give the same bytes: no time, owner or order of a directory
// comes into the result. It compresses nothing; scripts/build-helpers does.
package pack

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/knarr-io/knarr/pkg/bundle/manifest"
)

// Bundle writes the files below dir to w as a tar archive, sorted by path, and
// returns their manifest, which lists them in that order.
func Bundle(dir, arch string, w io.Writer) (manifest.Manifest, error) {
	m := manifest.Manifest{Arch: arch}
	tw := tar.NewWriter(w)
	// WalkDir goes in lexical order.
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		f, err := add(tw, name, filepath.ToSlash(rel), d.Type())
		if err != nil {
			return fmt.Errorf("add %s: %w", name, err)
		}
		m.Files = append(m.Files, f)
		return nil
	})
	if err != nil {
		return manifest.Manifest{}, fmt.Errorf("pack %s: %w", dir, err)
	}
	if err := tw.Close(); err != nil {
		return manifest.Manifest{}, fmt.Errorf("pack %s: %w", dir, err)
	}
	return m, nil
}

func add(tw *tar.Writer, name, rel string, typ fs.FileMode) (manifest.File, error) {
	switch {
	case typ&fs.ModeSymlink != 0:
		target, err := os.Readlink(name)
		if err != nil {
			return manifest.File{}, err
		}
		h := &tar.Header{Typeflag: tar.TypeSymlink, Name: rel, Linkname: target, Mode: 0o777, Format: tar.FormatUSTAR}
		return manifest.File{Path: rel, Link: target}, tw.WriteHeader(h)
	case typ.IsRegular():
		return addRegular(tw, name, rel)
	}
	return manifest.File{}, fmt.Errorf("neither a regular file nor a symbolic link")
}

func addRegular(tw *tar.Writer, name, rel string) (manifest.File, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return manifest.File{}, err
	}
	info, err := os.Stat(name)
	if err != nil {
		return manifest.File{}, err
	}
	f := manifest.File{Path: rel, Mode: 0o644, Size: int64(len(data))}
	if info.Mode()&0o111 != 0 {
		f.Mode = 0o755
	}
	sum := sha256.Sum256(data)
	f.SHA256 = hex.EncodeToString(sum[:])
	h := &tar.Header{Typeflag: tar.TypeReg, Name: rel, Mode: int64(f.Mode), Size: f.Size, Format: tar.FormatUSTAR}
	if err := tw.WriteHeader(h); err != nil {
		return manifest.File{}, err
	}
	_, err = tw.Write(data)
	return f, err
}
