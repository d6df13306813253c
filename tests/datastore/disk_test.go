package datastore_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// disk is a file system in an image that can lose its power: the image is a file on a file system with reflinks, so
// that a copy of it is made in an instant while the file system in it is in use. What had not reached the image, the
// kernel's dirty pages above all, is missing from the copy, as it is from a disk after a power cut; the copy is then
// mounted and its journal replayed.
type disk struct {
	t     *testing.T
	outer string // mounted btrfs with the images
	image string // of dir
	dir   string // mounted ext4, where the store is
}

func newDisk(t *testing.T) *disk {
	t.Helper()
	base := t.TempDir()
	d := &disk{t: t, outer: filepath.Join(base, "outer"), dir: filepath.Join(base, "disk0")}
	image := filepath.Join(base, "outer.img")
	sparse(t, image, 8<<30)
	run(t, "mkfs.btrfs", "-q", image)
	d.mount(image, d.outer)
	t.Cleanup(func() { d.unmount(d.outer) })
	d.image = filepath.Join(d.outer, "disk.img")
	sparse(t, d.image, 512<<20)
	run(t, "mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", d.image)
	d.mount(d.image, d.dir)
	t.Cleanup(func() { d.unmount(d.dir) })
	return d
}

// replace goes on with a cut image, mounted on dir.
func (d *disk) replace(image, dir string) {
	d.t.Helper()
	d.unmount(d.dir)
	if err := os.Remove(d.image); err != nil {
		d.t.Error(err)
	}
	d.image, d.dir = image, dir
	d.mount(image, dir)
}

// cutPower returns the image as it would be found after a power cut now.
func (d *disk) cutPower() string {
	d.t.Helper()
	src, err := os.Open(d.image)
	if err != nil {
		d.t.Fatal(err)
	}
	defer src.Close()
	f, err := os.CreateTemp(d.outer, "cut-*.img")
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlFileClone(int(f.Fd()), int(src.Fd())); err != nil {
		d.t.Fatalf("clone disk image: %v", err)
	}
	return f.Name()
}

// after mounts a cut image, calls f with the directory, and throws the image away.
func (d *disk) after(image string, f func(dir string)) {
	d.t.Helper()
	dir := image + ".mnt"
	d.mount(image, dir)
	defer func() {
		d.unmount(dir)
		if err := os.Remove(image); err != nil {
			d.t.Error(err)
		}
	}()
	f(dir)
}

func (d *disk) mount(image, dir string) {
	d.t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		d.t.Fatal(err)
	}
	run(d.t, "mount", "-o", "loop", image, dir)
}

func (d *disk) unmount(dir string) {
	d.t.Helper()
	if err := syscall.Unmount(dir, 0); err != nil {
		d.t.Errorf("unmount %s: %v", dir, err)
	}
}

func sparse(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
