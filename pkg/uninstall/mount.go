package uninstall

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// mountRoots are the directories below which every mount is made by knarr: the
// containers' root file systems, the kubelet's volumes and containerd's own.
func (l Layout) mountRoots() []string {
	return []string{
		l.path(l.RunDir),
		l.path(l.KubeletDir, "pods"),
		l.path(l.KubeletDir, "plugins"),
		l.path(l.DataDir, "agent", "containerd"),
	}
}

// sharedRoot reports whether a mount root may be another cluster's.
func (f *finder) sharedRoot(root string) bool { return within(root, f.path(f.KubeletDir)) }

func (f *finder) findMounts(context.Context) error {
	for _, root := range f.mountRoots() {
		mounts, err := mountsBelow(root)
		if err != nil {
			return err
		}
		if len(mounts) == 0 {
			// Pods that run now have made their mounts by now, but unmounting is the
			// step on which all later ones rely, so an empty one costs nothing to plan.
			continue
		}
		item := Item{
			Kind: KindMount, Name: fmt.Sprintf("%d below %s", len(mounts), f.shown(root)),
			remove: func(context.Context, Options) []Kept { return unmountBelow(root) },
		}
		if f.sharedRoot(root) {
			f.shared(item)
		} else {
			f.add(item)
		}
	}
	return nil
}

// mountsBelow returns the mounts strictly below dir, newest first: what was
// mounted over or into another mount comes before it.
func mountsBelow(dir string) ([]*mountinfo.Info, error) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(m.Mountpoint, dir+"/"), false
	})
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	slices.Reverse(mounts)
	return mounts, nil
}

// networkFileSystem reports whether a file system's server can be away, in which
// case an ordinary unmount would hang for ever.
func networkFileSystem(fsType string) bool {
	for _, prefix := range []string{"nfs", "cifs", "smb", "ceph", "gluster", "fuse", "9p", "afs", "lustre"} {
		if strings.HasPrefix(fsType, prefix) {
			return true
		}
	}
	return false
}

// unmountBelow unmounts everything below dir. It only takes mounts off: what they
// show is not touched.
func unmountBelow(dir string) []Kept {
	mounts, err := mountsBelow(dir)
	if err != nil {
		return keptOn(dir, err)
	}
	// A volume that shows a part of the host with mounts inside is, on a host with
	// shared propagation, the host's mounts: taking them off here would take them
	// off there. Private first, so that nothing travels back.
	for _, m := range mounts {
		if err := unix.Mount("", m.Mountpoint, "", unix.MS_PRIVATE, ""); err != nil && !gone(err) {
			return keptOn(m.Mountpoint, fmt.Errorf("make it private before unmounting: %w", err))
		}
	}
	var kept []Kept
	for _, m := range mounts {
		if err := unmount(m); err != nil {
			kept = append(kept, Kept{Name: m.Mountpoint, Reason: err.Error()})
		}
	}
	return kept
}

// unmount takes one mount off, lazily when it is busy or may hang.
func unmount(m *mountinfo.Info) error {
	flags := unix.UMOUNT_NOFOLLOW
	if networkFileSystem(m.FSType) {
		flags |= unix.MNT_DETACH
	}
	err := unix.Unmount(m.Mountpoint, flags)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(m.Mountpoint, flags|unix.MNT_DETACH)
	}
	if err != nil && !gone(err) {
		return fmt.Errorf("unmount: %w", err)
	}
	return nil
}

// gone reports whether a mount is no longer there: EINVAL says that the path is
// no mount point.
func gone(err error) bool { return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) }
