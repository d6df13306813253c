package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/knarr-io/knarr/pkg/atomicfile"
)

// Place tells where in an S3 service backups are kept besides a directory: at Fixed, else where Read says, which is asked
// each time. The zero Place is nowhere.
type Place struct {
	Fixed *S3
	Read  func(context.Context) (S3, error)
}

func (p Place) none() bool { return p.Fixed == nil && p.Read == nil }

// check finds what is wrong without asking anybody.
func (p Place) check() error {
	if p.Fixed == nil {
		return nil
	}
	_, err := NewRemote(*p.Fixed)
	return err
}

// Remote is the place as it is now; nil for nowhere. The service is not asked anything yet.
func (p Place) Remote(ctx context.Context) (*Remote, error) {
	if p.none() {
		return nil, nil
	}
	if p.Fixed != nil {
		return NewRemote(*p.Fixed)
	}
	s, err := p.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("find out where in S3 backups are: %w", err)
	}
	return NewRemote(s)
}

// Delete removes a backup, by its name, from a directory and from S3, and returns where it was. One that is in neither is
// an error.
func Delete(ctx context.Context, dir string, p Place, name string) (where []string, err error) {
	if _, _, ok := parseName(name); !ok {
		return nil, fmt.Errorf("delete backup: %q is not the name of a backup", name)
	}
	file := filepath.Join(dir, name)
	switch err := os.Remove(file); {
	case err == nil:
		where = append(where, file)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("delete backup: %w", err)
	}
	r, err := p.Remote(ctx)
	if err != nil {
		return where, err
	}
	if r != nil {
		names, err := r.List(ctx)
		if err != nil {
			return where, err
		}
		if slices.Contains(names, name) {
			if err := r.remove(ctx, name); err != nil {
				return where, err
			}
			where = append(where, r.URL(name))
		}
	}
	if len(where) == 0 {
		return nil, fmt.Errorf("delete backup: there is no %s", name)
	}
	return where, nil
}

// Send uploads a backup, if there is a place for it, and then keeps only the newest of its series there; keep 0 keeps
// all, and one below 0 as many as the place says.
func (p Place) Send(ctx context.Context, file string, s Series, keep int) error {
	r, err := p.Remote(ctx)
	if err != nil || r == nil {
		return err
	}
	if keep < 0 {
		keep = r.s.Keep
	}
	if err := r.Upload(ctx, file); err != nil || keep == 0 {
		return err
	}
	_, err = r.Prune(ctx, s, keep)
	return err
}

// Fetch finds a backup: a file here, else one of that name in S3, which is fetched into a directory. done removes what
// was fetched.
func (p Place) Fetch(ctx context.Context, name, into string) (file string, done func() error, err error) {
	if _, err := os.Stat(name); err == nil || p.none() {
		return name, func() error { return nil }, nil
	}
	remote, err := p.Remote(ctx)
	if err != nil {
		return "", nil, err
	}
	if err := atomicfile.MkdirAll(into, 0o700); err != nil {
		return "", nil, fmt.Errorf("fetch backup: %w", err)
	}
	dir, remove, err := atomicfile.Scratch(into, "fetching-")
	if err != nil {
		return "", nil, fmt.Errorf("fetch backup: %w", err)
	}
	file = filepath.Join(dir, "backup")
	if err := remote.Download(ctx, path.Base(name), file); err != nil {
		return "", nil, errors.Join(err, remove())
	}
	return file, remove, nil
}
