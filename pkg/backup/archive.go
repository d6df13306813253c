package backup

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/knarr-io/knarr/pkg/seal"
)

// archive writes a backup: tar in zstd, in age if encrypted, and the checksum of it all.
type archive struct {
	ctx   context.Context
	tar   *tar.Writer
	close []io.Closer // from the inside out
	sums  map[string]string
}

func newArchive(ctx context.Context, w io.Writer, o Options) (*archive, error) {
	whole := seal.NewWriter(w)
	a := &archive{ctx: ctx, sums: map[string]string{}, close: []io.Closer{whole}}
	w = whole
	if len(o.Passphrase) > 0 {
		recipient, err := age.NewScryptRecipient(string(o.Passphrase))
		if err != nil {
			return nil, fmt.Errorf("encrypt: %w", err)
		}
		sealed, err := age.Encrypt(w, recipient)
		if err != nil {
			return nil, fmt.Errorf("encrypt: %w", err)
		}
		a.close = append([]io.Closer{sealed}, a.close...)
		w = sealed
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(o.Compression.level()))
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	a.tar = tar.NewWriter(z)
	a.close = append([]io.Closer{a.tar, z}, a.close...)
	return a, nil
}

// add writes a file from memory.
func (a *archive) add(name string, content []byte) error {
	if err := a.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(content)), Format: tar.FormatPAX}); err != nil {
		return err
	}
	sum := sha256.Sum256(content)
	a.sums[name] = hex.EncodeToString(sum[:])
	_, err := a.tar.Write(content)
	return err
}

// addTree writes a directory under a name. One that is not there is left out, and so are what leaveOut names, other
// backups, and what goes away meanwhile.
func (a *archive) addTree(name, dir string, leaveOut ...string) error {
	if _, err := os.Lstat(dir); dir == "" || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case slices.Contains(leaveOut, p) && d.IsDir():
			return fs.SkipDir
		case slices.Contains(leaveOut, p), strings.HasSuffix(p, fileSuffix):
			return nil
		}
		if err := a.ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if name := path.Join(name, filepath.ToSlash(rel)); d.Type().IsRegular() {
			return a.addFile(name, p)
		} else if d.IsDir() || d.Type() == fs.ModeSymlink {
			return a.addHeader(name, p, d)
		}
		return nil // sockets are made anew
	})
}

// addHeader writes a directory or a link.
func (a *archive) addHeader(name, file string, d fs.DirEntry) error {
	h, err := headerOf(file, d)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	h.Name, h.Format = name, tar.FormatPAX
	return a.tar.WriteHeader(h)
}

// headerOf describes a file, a directory or a link.
func headerOf(file string, d fs.DirEntry) (*tar.Header, error) {
	fi, err := d.Info()
	if err != nil {
		return nil, err
	}
	link := ""
	if d.Type() == fs.ModeSymlink {
		if link, err = os.Readlink(file); err != nil {
			return nil, err
		}
	}
	return tar.FileInfoHeader(fi, link)
}

func (a *archive) addFile(name, file string) error {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	h, err := tar.FileInfoHeader(fi, "")
	if err != nil {
		return err
	}
	h.Name, h.Format = name, tar.FormatPAX
	if err := a.tar.WriteHeader(h); err != nil {
		return err
	}
	sum := sha256.New()
	// The header tells the size: a file that grows meanwhile is taken as it was, one that shrinks is an error.
	if _, err := io.CopyN(io.MultiWriter(a.tar, sum), f, fi.Size()); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	a.sums[name] = hex.EncodeToString(sum.Sum(nil))
	return nil
}

// finish writes the checksums, which make the archive complete.
func (a *archive) finish() error {
	sums, err := json.Marshal(a.sums)
	if err != nil {
		return err
	}
	if err := a.add(nameSums, sums); err != nil {
		return err
	}
	for _, c := range a.close {
		if err := c.Close(); err != nil {
			return err
		}
	}
	return nil
}

// ErrPassphrase is returned for an encrypted backup without the right passphrase.
var ErrPassphrase = errors.New("it is encrypted: the right passphrase is needed")

// readArchive unpacks a backup into dir, checks that all of it is there, and returns its description.
func readArchive(ctx context.Context, f *os.File, dir string, passphrase []byte) (description []byte, err error) {
	whole, err := seal.Open(f)
	if err != nil {
		return nil, err
	}
	r, err := open(whole, passphrase)
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	t := tar.NewReader(z)
	sums, want := map[string]string{}, map[string]string(nil)
	for want == nil {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, fmt.Errorf("it is damaged or cut off: %w", err)
		}
		switch h.Name {
		case nameSums:
			if err := json.NewDecoder(t).Decode(&want); err != nil {
				return nil, fmt.Errorf("it is damaged: %w", err)
			}
			continue
		case nameInfo:
			if description, err = io.ReadAll(io.LimitReader(t, 1<<20)); err != nil {
				return nil, err
			}
			sum := sha256.Sum256(description)
			sums[nameInfo] = hex.EncodeToString(sum[:])
			continue
		}
		sum, err := unpack(t, h, root)
		if err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeReg {
			sums[h.Name] = sum
		}
	}
	if !maps.Equal(sums, want) {
		return nil, errors.New("it is damaged: checksums do not match")
	}
	return description, nil
}

// open takes the encryption off, if there is any.
func open(f io.ReadSeeker, passphrase []byte) (io.Reader, error) {
	var magic [4]byte
	if _, err := io.ReadFull(f, magic[:]); err != nil {
		return nil, fmt.Errorf("it is damaged or cut off: %w", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if string(magic[:]) != "age-" {
		return f, nil
	}
	if len(passphrase) == 0 {
		return nil, ErrPassphrase
	}
	identity, err := age.NewScryptIdentity(string(passphrase))
	if err != nil {
		return nil, err
	}
	r, err := age.Decrypt(f, identity)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPassphrase, err)
	}
	return r, nil
}

// unpack writes one entry and returns its checksum.
func unpack(t *tar.Reader, h *tar.Header, root *os.Root) (string, error) {
	if !filepath.IsLocal(h.Name) || path.Clean(h.Name) != h.Name {
		return "", fmt.Errorf("entry %q leads out of the archive", h.Name)
	}
	sum := sha256.New()
	err := put(root, h, io.TeeReader(t, sum))
	return hex.EncodeToString(sum.Sum(nil)), err
}

// put makes what h describes, with its mode and, for root, its owner. No link that is there already leads out of root.
func put(root *os.Root, h *tar.Header, content io.Reader) (err error) {
	mode := h.FileInfo().Mode().Perm()
	switch h.Typeflag {
	case tar.TypeDir:
		err = root.MkdirAll(h.Name, mode|0o700)
	case tar.TypeSymlink:
		err = root.Symlink(h.Linkname, h.Name)
	case tar.TypeReg:
		if err := root.MkdirAll(path.Dir(h.Name), 0o700); err != nil {
			return err
		}
		err = writeFile(root, h.Name, content, mode)
	default:
		err = fmt.Errorf("entry %q has an unknown type", h.Name)
	}
	if err == nil && os.Geteuid() == 0 {
		err = root.Lchown(h.Name, h.Uid, h.Gid)
	}
	return err
}

func writeFile(root *os.Root, name string, r io.Reader, mode fs.FileMode) error {
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Sync(), f.Close())
}

// copyTree copies a directory into another, which must be empty, with modes and owners. os.CopyFS would let everybody
// read what only root should.
func copyTree(from, to string) (err error) {
	root, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	return filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == from {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		return copyOne(root, filepath.ToSlash(rel), name, d)
	})
}

func copyOne(root *os.Root, as, file string, d fs.DirEntry) (err error) {
	h, err := headerOf(file, d)
	if err != nil {
		return err
	}
	h.Name = as
	if h.Typeflag != tar.TypeReg {
		return put(root, h, nil)
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	return errors.Join(put(root, h, f), f.Close())
}
