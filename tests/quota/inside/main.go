// Command inside is the first process of a User-Mode Linux that has a disk with ext4 and one with xfs. It checks there
// that pkg/quota has sizes enforced, says so on the console, and switches the machine off.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/pkg/quota"
)

const mib = 1 << 20

func main() {
	if err := run(); err != nil {
		fmt.Printf("FAIL: %v\n", err)
	} else {
		fmt.Println("ok: all")
	}
	unix.Sync()
	// Not reached if it works; the outer test notices a machine that stays on.
	fmt.Println(unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
}

func run() error {
	if os.Getpid() != 1 {
		return errors.New("this is for a machine of its own")
	}
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"tmpfs", "/mnt"}} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	// The format that ext4 keeps quotas in is a module.
	for _, name := range []string{"quota_tree", "quota_v2"} {
		if err := load(name); err != nil {
			return err
		}
	}
	if err := becomeOrdinary(); err != nil {
		return err
	}
	for device, kind := range map[string]string{"/dev/ubda": "ext4", "/dev/ubdb": "xfs"} {
		if err := check(device, kind); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		fmt.Printf("ok: %s\n", kind)
	}
	return nil
}

// becomeOrdinary gives up what containers do not have by default: with this capability ext4 has no limits.
func becomeOrdinary() error {
	runtime.LockOSThread() // capabilities are a thread's
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	caps[unix.CAP_SYS_RESOURCE/32].Effective &^= 1 << (unix.CAP_SYS_RESOURCE % 32)
	if err := unix.Capset(&header, &caps[0]); err != nil {
		return fmt.Errorf("drop CAP_SYS_RESOURCE: %w", err)
	}
	return nil
}

func load(name string) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("ask for the kernel's version: %w", err)
	}
	f, err := os.Open(filepath.Join("/usr/lib/uml/modules", unix.ByteSliceToString(u.Release[:]), "kernel/fs/quota", name+".ko"))
	if err != nil {
		return fmt.Errorf("open module: %w", err)
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
		return fmt.Errorf("load module %s: %w", name, err)
	}
	return nil
}

func check(device, kind string) error {
	at := filepath.Join("/mnt", kind)
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	if err := mounted(device, at, kind, "noquota", withoutQuotas); err != nil {
		return err
	}
	if err := mounted(device, at, kind, "prjquota", withQuotas); err != nil {
		return err
	}
	// What is set is in the file system.
	return mounted(device, at, kind, "prjquota", func(root *os.File) error { return expect(root, 7, 16*mib) })
}

// mounted runs a check on the root of a file system.
func mounted(device, at, kind, options string, check func(root *os.File) error) error {
	if err := unix.Mount(device, at, kind, 0, options); err != nil {
		return fmt.Errorf("mount with %s: %w", options, err)
	}
	root, err := os.Open(at)
	if err != nil {
		return err
	}
	if err := errors.Join(check(root), root.Close()); err != nil {
		return fmt.Errorf("mounted with %s: %w", options, err)
	}
	return unix.Unmount(at, 0)
}

func withoutQuotas(root *os.File) error {
	err := quota.Enforced(root)
	if !errors.Is(err, quota.ErrNotEnforced) || !strings.Contains(err.Error(), "prjquota") {
		return fmt.Errorf("got %w, want that it is not enforced", err)
	}
	return nil
}

func withQuotas(root *os.File) error {
	if err := quota.Enforced(root); err != nil {
		return err
	}
	if err := expect(root, 7, 0); err != nil {
		return err
	}
	dir, err := makeDir(root, "limited")
	if err != nil {
		return err
	}
	defer dir.Close()
	if id, err := quota.Project(dir); err != nil || id != 0 {
		return fmt.Errorf("a new directory has project %d, %w", id, err)
	}
	if err := errors.Join(quota.SetProject(dir, 7), quota.SetLimit(dir, 7, 4*mib)); err != nil {
		return err
	}
	if id, err := quota.Project(dir); err != nil || id != 7 {
		return fmt.Errorf("the directory has project %d, %w", id, err)
	}
	if err := os.Mkdir(filepath.Join(dir.Name(), "below"), 0o755); err != nil {
		return err
	}
	if err := fits(dir, "below/a", 8*mib, false); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil || fs.Blocks*uint64(fs.Bsize) != 4*mib {
		return fmt.Errorf("df shows %d bytes, %w", fs.Blocks*uint64(fs.Bsize), err)
	}
	if err := fits(root, "beside", 8*mib, true); err != nil {
		return err
	}
	if err := quota.SetLimit(dir, 7, 16*mib); err != nil {
		return err
	}
	if err := fits(dir, "below/b", 8*mib, true); err != nil {
		return err
	}
	return expect(root, 7, 16*mib)
}

func makeDir(root *os.File, name string) (*os.File, error) {
	path := filepath.Join(root.Name(), name)
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, err
	}
	return os.Open(path)
}

// fits writes a file and checks whether there is room for it. One that does not fit is removed again.
func fits(dir *os.File, name string, size int, want bool) error {
	path := filepath.Join(dir.Name(), name)
	err := write(path, size)
	switch {
	case want:
		return err
	case err == nil:
		return fmt.Errorf("%s holds %d bytes, more than it may", path, size)
	case errors.Is(err, unix.EDQUOT), errors.Is(err, unix.ENOSPC):
		return os.Remove(path)
	}
	return err
}

func write(path string, size int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	block := make([]byte, 64<<10)
	for n := 0; n < size && err == nil; n += len(block) {
		_, err = f.Write(block)
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// expect checks the limit of a project, and that nothing goes beyond.
func expect(root *os.File, id uint32, limit int64) error {
	used, err := quota.Used(root, id)
	if err == nil && (used.Limit != limit || limit > 0 && used.Bytes > limit) {
		err = fmt.Errorf("project %d has %+v, want a limit of %d", id, used, limit)
	}
	return err
}
