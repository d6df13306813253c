// Package quota limits how much directory trees may hold, with the project quotas of xfs and ext4. A directory that is
// given a project passes it on to everything that is made in it from then on; the limit is the project's.
//
// It keeps no state, neither here nor in files: which directory has which project, and what a project may hold, is in the
// file system. It does not switch quotas on: that takes a mount option (prjquota), and on ext4 the feature "project".
package quota

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrNotEnforced is what errors of [Enforced] wrap.
var ErrNotEnforced = errors.New("sizes are not enforced")

// From include/uapi/linux/{quota,dqblk_xfs,fs}.h.
const (
	prjQuota = 2

	qGetQuota = 0x800007
	qSetQuota = 0x800008
	qXGetStat = 'X'<<8 + 5

	accounted = 1 << 4 // FS_QUOTA_PDQ_ACCT
	enforced  = 1 << 5 // FS_QUOTA_PDQ_ENFD

	blockLimits = 1    // QIF_BLIMITS
	blockSize   = 1024 // QIF_DQBLKSIZE

	getXattr = 0x801c581f // FS_IOC_FSGETXATTR
	setXattr = 0x401c5820 // FS_IOC_FSSETXATTR
	inherit  = 0x200      // FS_XFLAG_PROJINHERIT

	ext4Magic = 0xef53
	xfsMagic  = 0x58465342
)

// block is struct if_dqblk.
type block struct {
	blockHard, blockSoft, space uint64
	inodeHard, inodeSoft, inode uint64
	blockTime, inodeTime        uint64
	valid                       uint32
	_                           uint32
}

// xattr is struct fsxattr.
type xattr struct {
	flags, extent, extents, project, cow uint32
	_                                    [8]byte
}

// Enforced tells whether the file system of dir holds projects to their limits: nil, or why not.
func Enforced(dir *os.File) error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		return fmt.Errorf("look at the file system of %s: %w", dir.Name(), err)
	}
	if magic := uint32(fs.Type); magic != ext4Magic && magic != xfsMagic {
		return fmt.Errorf("%w: the file system of %s is neither xfs nor ext4", ErrNotEnforced, dir.Name())
	}
	// struct fs_quota_stat begins with a version byte; its flags are 16 bits at offset 2.
	var state [256]byte
	err := control(dir, qXGetStat, 0, unsafe.Pointer(&state))
	flags := *(*uint16)(unsafe.Pointer(&state[2]))
	switch {
	case errors.Is(err, unix.ENOSYS) && kernelLacksCall():
		return fmt.Errorf("%w: the kernel is older than 5.14", ErrNotEnforced)
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ESRCH), err == nil && flags&(accounted|enforced) != accounted|enforced:
		return fmt.Errorf("%w: the file system of %s is not mounted with prjquota", ErrNotEnforced, dir.Name())
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: knarr may not use quotas here", ErrNotEnforced)
	case err != nil:
		return fmt.Errorf("ask for the quotas on the file system of %s: %w", dir.Name(), err)
	}
	return nil
}

// kernelLacksCall tells two meanings of ENOSYS apart: where the call exists, it finds the missing file first.
func kernelLacksCall() bool {
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, ^uintptr(0), qXGetStat<<8|prjQuota, 0, 0, 0, 0)
	return errno == unix.ENOSYS
}

// Project is the project of dir, 0 for none.
func Project(dir *os.File) (uint32, error) {
	a, err := attributes(dir)
	if err != nil || a.flags&inherit == 0 {
		return 0, err
	}
	return a.project, nil
}

// SetProject gives dir and what will be made in it a project. What is in it already keeps its own.
func SetProject(dir *os.File, id uint32) error {
	a, err := attributes(dir)
	if err != nil {
		return err
	}
	a.flags |= inherit
	a.project = id
	if err := ioctl(dir, setXattr, &a); err != nil {
		return fmt.Errorf("set the project of %s: %w", dir.Name(), err)
	}
	return nil
}

func attributes(dir *os.File) (xattr, error) {
	var a xattr
	if err := ioctl(dir, getXattr, &a); err != nil {
		return a, fmt.Errorf("read the project of %s: %w", dir.Name(), err)
	}
	return a, nil
}

// SetLimit lets project id on the file system of dir hold that many bytes, rounded up to KiB; 0 is no limit.
func SetLimit(dir *os.File, id uint32, bytes int64) error {
	b := block{blockHard: (uint64(bytes) + blockSize - 1) / blockSize, valid: blockLimits}
	if err := control(dir, qSetQuota, id, unsafe.Pointer(&b)); err != nil {
		return fmt.Errorf("limit project %d on the file system of %s: %w", id, dir.Name(), err)
	}
	return nil
}

// Usage is what a project holds and may hold.
type Usage struct {
	Bytes, Limit int64
	Inodes       uint64
}

// Used looks a project on the file system of dir up. One that was never used is all zero.
func Used(dir *os.File, id uint32) (Usage, error) {
	var b block
	err := control(dir, qGetQuota, id, unsafe.Pointer(&b))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return Usage{}, nil
	}
	if err != nil {
		return Usage{}, fmt.Errorf("read what project %d holds on the file system of %s: %w", id, dir.Name(), err)
	}
	return Usage{Bytes: int64(b.space), Limit: int64(b.blockHard * blockSize), Inodes: b.inode}, nil
}

// control is quotactl_fd(2) for projects: it takes any file instead of the block device, which may have no name here.
func control(dir *os.File, command uint32, id uint32, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, dir.Fd(), uintptr(command<<8|prjQuota), uintptr(id), uintptr(arg), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func ioctl(dir *os.File, request uintptr, a *xattr) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), request, uintptr(unsafe.Pointer(a)))
	if errno != 0 {
		return errno
	}
	return nil
}
