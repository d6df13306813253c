package localpath

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/knarr-io/knarr/pkg/quota"
)

const (
	volumeA = "pvc-00000000-0000-0000-0000-00000000000a"
	volumeB = "pvc-00000000-0000-0000-0000-00000000000b"
)

// fakeQuota is a file system with project quotas that keeps them by the names of directories.
type fakeQuota struct {
	off      error
	failing  error // of the next SetLimit
	projects map[string]uint32
	limits   map[uint32]int64
	foreign  map[uint32]bool // used by somebody else
}

func newFakeQuota() *fakeQuota {
	return &fakeQuota{projects: map[string]uint32{}, limits: map[uint32]int64{}, foreign: map[uint32]bool{}}
}

func (q *fakeQuota) name(dir *os.File) string {
	return strings.TrimPrefix(filepath.Base(dir.Name()), trashPrefix)
}
func (q *fakeQuota) Enforced(*os.File) error              { return q.off }
func (q *fakeQuota) Project(dir *os.File) (uint32, error) { return q.projects[q.name(dir)], nil }
func (q *fakeQuota) SetProject(dir *os.File, id uint32) error {
	q.projects[q.name(dir)] = id
	return nil
}
func (q *fakeQuota) SetLimit(_ *os.File, id uint32, bytes int64) error {
	if err := q.failing; err != nil {
		q.failing = nil
		return err
	}
	q.limits[id] = bytes
	return nil
}
func (q *fakeQuota) Used(_ *os.File, id uint32) (quota.Usage, error) {
	if q.foreign[id] {
		return quota.Usage{Inodes: 1}, nil
	}
	return quota.Usage{}, nil
}

// do carries out an order that must work.
func do(t *testing.T, v volumes, name string, op Op, bytes int64) Answer {
	t.Helper()
	a, err := v.carryOut(name, Order{op, bytes})
	if err != nil {
		t.Fatalf("%s %s: %v", op, name, err)
	}
	return a
}

// holds fails the test unless the root has exactly these entries.
func (v volumes) holds(t *testing.T, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(v.root)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("there are %v, want %v", got, want)
	}
}

func TestVolumeLife(t *testing.T) {
	q := newFakeQuota()
	q.foreign[firstProject] = true
	v := volumes{filepath.Join(t.TempDir(), "data", "storage"), q}
	for range 2 { // each order may come again
		if a, want := do(t, v, volumeA, Create, 1000), v.path(volumeA); a.Path != want || a.Unenforced != "" {
			t.Errorf("got %+v, want the path %s", a, want)
		}
	}
	do(t, v, volumeB, Create, 2000)
	if want := map[uint32]int64{firstProject + 1: 1000, firstProject + 2: 2000}; !maps.Equal(q.limits, want) {
		t.Errorf("the limits are %v, want %v", q.limits, want)
	}
	for path, want := range map[string]os.FileMode{v.root: rootMode, v.path(volumeA): volumeMode} {
		if i, err := os.Stat(path); err != nil || i.Mode().Perm() != want {
			t.Errorf("%s has mode %v, %v", path, i.Mode(), err)
		}
	}
	do(t, v, volumeA, Resize, 5000)
	if q.limits[firstProject+1] != 5000 {
		t.Errorf("the limits are %v", q.limits)
	}
	if err := os.WriteFile(filepath.Join(v.path(volumeA), "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		do(t, v, volumeA, Delete, 0)
	}
	v.holds(t, trashPrefix+volumeA, volumeB)
	for range 2 {
		if err := v.emptyTrash(); err != nil {
			t.Fatal(err)
		}
	}
	v.holds(t, volumeB)
	if want := map[uint32]int64{firstProject + 1: 0, firstProject + 2: 2000}; !maps.Equal(q.limits, want) {
		t.Errorf("the limits are %v, want %v", q.limits, want)
	}
}

// A crash, or an error, between any two steps leaves what the next try completes.
func TestVolumeAfterCrash(t *testing.T) {
	q := newFakeQuota()
	v := volumes{t.TempDir(), q}
	if err := os.Mkdir(v.path(volumeA), 0o700); err != nil { // only the directory was made
		t.Fatal(err)
	}
	q.failing = errors.New("cut off") // and then only the project was set
	if _, err := v.carryOut(volumeA, Order{Create, 1000}); !errors.Is(err, q.failing) && err == nil {
		t.Errorf("got %v", err)
	}
	do(t, v, volumeA, Create, 1000)
	if want := map[uint32]int64{firstProject: 1000}; !maps.Equal(q.limits, want) {
		t.Errorf("the limits are %v, want %v", q.limits, want)
	}
	do(t, v, volumeA, Delete, 0) // the trash was not emptied: the next start does
	v.holds(t, trashPrefix+volumeA)
	if err := (volumes{v.root, q}).emptyTrash(); err != nil {
		t.Fatal(err)
	}
	v.holds(t)
}

func TestVolumeNotEnforced(t *testing.T) {
	q := newFakeQuota()
	q.off = fmt.Errorf("%w: no quotas", quota.ErrNotEnforced)
	v := volumes{t.TempDir(), q}
	for _, op := range []Op{Create, Resize} {
		if a := do(t, v, volumeA, op, 1000); !strings.Contains(a.Unenforced, "no quotas") {
			t.Errorf("%s: %+v", op, a)
		}
	}
	// Quotas that are switched on later do not hold what was written before.
	q.off = nil
	if a := do(t, v, volumeA, Resize, 1000); !strings.Contains(a.Unenforced, "was made when") || len(q.limits) > 0 {
		t.Errorf("%+v, limits %v", a, q.limits)
	}
	// What cannot be found out is an error, not a missing quota.
	q.off = errors.New("broken disk")
	if _, err := v.carryOut(volumeB, Order{Create, 1}); !errors.Is(err, q.off) {
		t.Errorf("got %v", err)
	}
}

// Nothing outside of the root is ever touched.
func TestVolumeNames(t *testing.T) {
	top := t.TempDir()
	v := volumes{filepath.Join(top, "storage"), newFakeQuota()}
	precious := filepath.Join(top, "precious", "file")
	for _, err := range []error{os.MkdirAll(filepath.Dir(precious), 0o700), os.WriteFile(precious, nil, 0o600), os.Mkdir(v.root, 0o700),
		os.Symlink(filepath.Dir(precious), v.path(volumeA)), os.Symlink(filepath.Dir(precious), v.path(trashPrefix+volumeB))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"", ".", "..", "../precious", "a", "/", volumeA + "/..", volumeA + "/../../precious", "../storage/" + volumeA,
		strings.ToUpper(volumeA), volumeA + "\n", trashPrefix + volumeA} {
		for _, op := range []Op{Create, Resize, Delete} {
			if _, err := v.carryOut(name, Order{op, 1}); err == nil || !strings.Contains(err.Error(), "is not the name of a volume") {
				t.Errorf("%s %q: %v", op, name, err)
			}
		}
	}
	if _, err := v.carryOut(volumeA, Order{Create, 1}); err == nil {
		t.Error("a symbolic link out of the root was taken for a volume")
	}
	if _, err := v.carryOut(volumeA, Order{"format", 1}); err == nil {
		t.Error("an unknown order was carried out")
	}
	do(t, v, volumeA, Delete, 0)
	_ = v.emptyTrash() // may complain about the links; what counts is what is left
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
}

// A disk that is not mounted has no volumes to be forgotten.
func TestDeleteWithoutRoot(t *testing.T) {
	v := volumes{filepath.Join(t.TempDir(), "missing"), newFakeQuota()}
	if _, err := v.carryOut(volumeA, Order{Op: Delete}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if err := v.emptyTrash(); err != nil {
		t.Error(err)
	}
}
