package localpath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/knarr-io/knarr/pkg/atomicfile"
	"github.com/knarr-io/knarr/pkg/quota"
)

// volumeName is the only form of a name that is ever made or removed: it cannot leave the root.
var volumeName = regexp.MustCompile(`^pvc-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

const (
	// A deleted volume is first given a name with this prefix, and then removed at leisure.
	trashPrefix = ".deleted-"
	// Nobody but root gets past the root, since volumes themselves are open to any user of a pod.
	rootMode, volumeMode = 0o700, 0o777
	// firstProject keeps clear of the kubelet's own projects, from 1048577 on, and of those that people choose by hand.
	firstProject = 0x6b6e0000
	lastProject  = firstProject + 0xffff
)

// limiter is the part of [quota] that is used here.
type limiter interface {
	Enforced(dir *os.File) error
	Project(dir *os.File) (uint32, error)
	SetProject(dir *os.File, id uint32) error
	SetLimit(dir *os.File, id uint32, bytes int64) error
	Used(dir *os.File, id uint32) (quota.Usage, error)
}

// volumes are the directories of one node below root. Everything in it can be done again after a crash at any line; one
// goroutine creates and deletes, another may empty the trash.
type volumes struct {
	root  string
	quota limiter
}

// path is where a volume is.
func (v volumes) path(name string) string { return filepath.Join(v.root, name) }

// open returns the root, through which nothing outside of it can be reached, not even by a symbolic link.
func (v volumes) open() (*os.Root, error) {
	r, err := os.OpenRoot(v.root)
	if err != nil {
		return nil, fmt.Errorf("open the directory of local storage: %w", err)
	}
	return r, nil
}

// carryOut does what an order says. Its answer has no Error.
func (v volumes) carryOut(name string, o Order) (Answer, error) {
	a := Answer{Order: o}
	if !volumeName.MatchString(name) {
		return a, fmt.Errorf("%q is not the name of a volume", name)
	}
	switch o.Op {
	case Create:
		a.Path = v.path(name)
		if err := v.create(name); err != nil {
			return a, err
		}
	case Resize:
		a.Path = v.path(name)
	case Delete:
		return a, v.discard(name)
	default:
		return a, fmt.Errorf("%q is nothing that this version can do to a volume", o.Op)
	}
	err := v.limit(name, o)
	if errors.Is(err, quota.ErrNotEnforced) {
		a.Unenforced, err = strings.TrimPrefix(err.Error(), quota.ErrNotEnforced.Error()+": "), nil
	}
	return a, err
}

func (v volumes) create(name string) error {
	if err := atomicfile.MkdirAll(v.root, rootMode); err != nil {
		return fmt.Errorf("make the directory of local storage: %w", err)
	}
	r, err := v.open()
	if err != nil {
		return err
	}
	defer r.Close()
	if err := r.Mkdir(name, volumeMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make volume %s: %w", name, err)
	}
	if err := r.Chmod(name, volumeMode); err != nil { // past the umask
		return fmt.Errorf("open volume %s to pods: %w", name, err)
	}
	return syncDir(r)
}

func syncDir(r *os.Root) error {
	dir, err := r.Open(".")
	if err != nil {
		return fmt.Errorf("open the directory of local storage: %w", err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// limit has the file system enforce the size of a volume.
func (v volumes) limit(name string, o Order) error {
	r, err := v.open()
	if err != nil {
		return err
	}
	defer r.Close()
	dir, err := r.Open(name)
	if err != nil {
		return fmt.Errorf("open volume %s: %w", name, err)
	}
	defer dir.Close()
	if err := v.quota.Enforced(dir); err != nil {
		return err
	}
	id, err := v.quota.Project(dir)
	if err != nil {
		return err
	}
	if id < firstProject || id > lastProject {
		if o.Op == Resize {
			return fmt.Errorf("%w: the volume was made when its file system had no project quotas", quota.ErrNotEnforced)
		}
		// The project first: a limit that nothing counts towards would make the next one think that it is in use.
		if id, err = v.freeProject(r, dir); err != nil {
			return err
		}
		if err := v.quota.SetProject(dir, id); err != nil {
			return err
		}
	}
	return v.quota.SetLimit(dir, id, o.Bytes)
}

// freeProject finds a project that nothing on the file system uses: no volume, and nothing of anybody else's.
func (v volumes) freeProject(r *os.Root, dir *os.File) (uint32, error) {
	taken := make(map[uint32]bool)
	entries, err := fs.ReadDir(r.FS(), ".")
	if err != nil {
		return 0, fmt.Errorf("list volumes: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		id, err := v.projectOf(r, e.Name())
		if err != nil {
			return 0, err
		}
		taken[id] = true
	}
	for id := uint32(firstProject); id <= lastProject; id++ {
		if taken[id] {
			continue
		}
		used, err := v.quota.Used(dir, id)
		if err != nil {
			return 0, err
		}
		if used.Inodes == 0 && used.Bytes == 0 {
			return id, nil
		}
	}
	return 0, fmt.Errorf("all %d quota projects of local storage are in use", lastProject-firstProject+1)
}

func (v volumes) projectOf(r *os.Root, name string) (uint32, error) {
	dir, err := r.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // removed meanwhile
	}
	if err != nil {
		return 0, fmt.Errorf("open volume %s: %w", name, err)
	}
	defer dir.Close()
	return v.quota.Project(dir)
}

// discard takes a volume away at once; [volumes.emptyTrash] removes what is in it. A root that is not there is an error,
// not an empty root: a disk may not be mounted.
func (v volumes) discard(name string) error {
	r, err := v.open()
	if err != nil {
		return err
	}
	defer r.Close()
	err = r.Rename(name, trashPrefix+name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	return syncDir(r)
}

// emptyTrash removes what was deleted, also before a crash.
func (v volumes) emptyTrash() error {
	r, err := os.OpenRoot(v.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the directory of local storage: %w", err)
	}
	defer r.Close()
	entries, err := fs.ReadDir(r.FS(), ".")
	if err != nil {
		return fmt.Errorf("list volumes: %w", err)
	}
	var errs []error
	for _, e := range entries {
		name, deleted := strings.CutPrefix(e.Name(), trashPrefix)
		if !deleted || !volumeName.MatchString(name) {
			continue
		}
		errs = append(errs, v.unlimit(r, e.Name()))
		if err := r.RemoveAll(e.Name()); err != nil {
			errs = append(errs, fmt.Errorf("remove deleted volume %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// unlimit forgets the limit of a volume that is about to go, so that nothing is left of its project.
func (v volumes) unlimit(r *os.Root, name string) error {
	dir, err := r.Open(name)
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	defer dir.Close()
	if v.quota.Enforced(dir) != nil {
		return nil
	}
	id, err := v.quota.Project(dir)
	if err != nil || id < firstProject || id > lastProject {
		return err
	}
	return v.quota.SetLimit(dir, id, 0)
}

// projects is the kernel's limiter.
type projects struct{}

func (projects) Enforced(dir *os.File) error              { return quota.Enforced(dir) }
func (projects) Project(dir *os.File) (uint32, error)     { return quota.Project(dir) }
func (projects) SetProject(dir *os.File, id uint32) error { return quota.SetProject(dir, id) }
func (projects) SetLimit(dir *os.File, id uint32, bytes int64) error {
	return quota.SetLimit(dir, id, bytes)
}
func (projects) Used(dir *os.File, id uint32) (quota.Usage, error) { return quota.Used(dir, id) }
