package bundle

import (
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
	"path/filepath"
	"syscall"

	"github.com/knarr-io/knarr/pkg/atomicfile"
	"github.com/knarr-io/knarr/pkg/bundle/manifest"
)

// stampName is the file in a bundle's directory that holds its stamp.
const stampName = ".stamp"

// stamp is what the regular files of a bundle looked like, by path, when their
// hashes were last seen to be right. It is written only after they are on disk.
type stamp map[string]look

// look is what the kernel changes whenever a file's content or mode changes.
type look struct {
	Inode uint64 `json:"inode"`
	// Changed is the change time (ctime) in nanoseconds since 1970.
	Changed int64 `json:"changed"`
}

func (s stamp) equal(t stamp) bool { return maps.Equal(s, t) }

// readStamp returns the stamp of the bundle at root. Without a readable one it
// returns none: then every file is hashed, and a new one written.
func readStamp(root string) stamp {
	data, err := os.ReadFile(filepath.Join(root, stampName))
	if err != nil {
		return nil
	}
	var s stamp
	if json.Unmarshal(data, &s) != nil {
		return nil
	}
	return s
}

func (b *Bundle) writeStamp(root string, s stamp) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	b.step("write stamp")
	return atomicfile.Write(filepath.Join(root, stampName), data, 0o644)
}

// verify compares the files at root with the manifest. It returns how the good
// ones look, and the paths of those that are missing or wrong. Files that look
// as they do in old are good without being read.
func (b *Bundle) verify(ctx context.Context, root string, old stamp) (stamp, map[string]bool, error) {
	seen, bad := stamp{}, map[string]bool{}
	for _, f := range b.files.Files {
		if ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		ok, err := verifyFile(root, f, old, seen)
		if err != nil {
			return nil, nil, fmt.Errorf("verify %s: %w", f.Path, err)
		}
		if !ok {
			bad[f.Path] = true
		}
	}
	return seen, bad, nil
}

func verifyFile(root string, f manifest.File, old, seen stamp) (bool, error) {
	name := filepath.Join(root, filepath.FromSlash(f.Path))
	if f.Link != "" {
		target, err := os.Readlink(name)
		return err == nil && target == f.Link, nil
	}
	info, err := os.Lstat(name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return false, nil
		}
		return false, err
	}
	if info.Mode() != f.Mode || info.Size() != f.Size {
		return false, nil
	}
	now := lookOf(info)
	if now != old[f.Path] {
		if ok, err := hashIs(name, f.SHA256); !ok || err != nil {
			return false, err
		}
	}
	seen[f.Path] = now
	return true, nil
}

// hashIs reports whether the file has the hash, and if so syncs it: it may have
// been written, by whoever put it there, a moment ago.
func hashIs(name, want string) (bool, error) {
	file, err := os.Open(name)
	if err != nil {
		return false, err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		// What cannot be read is replaced, which also moves it off a bad block.
		return false, nil
	}
	if hex.EncodeToString(hash.Sum(nil)) != want {
		return false, nil
	}
	return true, file.Sync()
}

// record returns how the files at root look, which are known to be right.
func (b *Bundle) record(root string) (stamp, error) {
	s := stamp{}
	for _, f := range b.files.Files {
		if f.Link != "" {
			continue
		}
		info, err := os.Lstat(filepath.Join(root, filepath.FromSlash(f.Path)))
		if err != nil {
			return nil, err
		}
		s[f.Path] = lookOf(info)
	}
	return s, nil
}

func lookOf(info fs.FileInfo) look {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return look{}
	}
	sec, nsec := st.Ctim.Unix()
	return look{Inode: uint64(st.Ino), Changed: sec*1e9 + nsec}
}
