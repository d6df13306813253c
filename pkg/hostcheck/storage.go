package hostcheck

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// Sizes below which the disk is too small.
const (
	leastSpace     = 1 << 30 // knarr's own files, a few images
	advisedSpace   = 5 << 30
	leastInodes    = 20_000 // an image has some thousands
	imageGCPercent = 85     // the kubelet's default imageGCHighThresholdPercent
)

// mountOf returns the mount that holds path: the last one made on it or above.
func (c *checker) mountOf(path string) (found *mountinfo.Info) {
	file, _ := c.read("proc/self/mountinfo")
	mounts, err := mountinfo.GetMountsFromReader(strings.NewReader(file), mountinfo.ParentsFilter(path))
	if err != nil {
		return nil
	}
	for _, m := range mounts {
		if found == nil || len(m.Mountpoint) >= len(found.Mountpoint) {
			found = m
		}
	}
	return found
}

func (c *checker) propagation() []Result {
	root := c.mountOf("/")
	if root == nil {
		return warn("cannot read the mounts", "mount /proc")
	}
	if strings.Contains(root.Optional, "shared:") {
		return ok("shared")
	}
	return warn("private", "volumes with mountPropagation: Bidirectional (most CSI drivers) do not work: `mount --make-rshared /`, at each boot")
}

func (c *checker) dataDir() []Result {
	dir := c.settings.DataDir
	m := c.mountOf(dir)
	if m == nil {
		return warn("cannot find its mount", "mount /proc")
	}
	finding := fmt.Sprintf("%s on %s (%s)", dir, m.Mountpoint, m.FSType)
	options := append(strings.Split(m.Options, ","), strings.Split(m.VFSOptions, ",")...)
	switch fs := m.FSType; {
	case slices.Contains(options, "ro"):
		return fail(finding+", read-only", "choose another --data-dir, or remount: `mount -o remount,rw "+m.Mountpoint+"`")
	case slices.Contains(options, "noexec"):
		return fail(finding+", noexec", "knarr starts its helpers from there: choose another --data-dir, or remount: `mount -o remount,exec "+m.Mountpoint+"`")
	case strings.HasPrefix(fs, "nfs") || fs == "cifs" || fs == "smb3" || fs == "9p":
		return fail(finding+", a network file system", "neither the database nor containers can be kept there: put --data-dir on a local disk")
	case fs == "tmpfs" || fs == "ramfs":
		return warn(finding+", in memory", "everything is lost at reboot: put --data-dir on a disk")
	case fs == "overlay":
		return warn(finding+", itself an overlay", "containers on it need --snapshotter=native or a volume mounted on "+dir)
	}
	return ok(finding)
}

func (c *checker) space() []Result {
	s, err := c.Space(nearest(c.path(c.settings.DataDir)))
	if err != nil {
		return warn(err.Error(), "")
	}
	used := uint64(0)
	if s.TotalBytes > 0 {
		used = 100 - s.FreeBytes*100/s.TotalBytes
	}
	finding := fmt.Sprintf("%.1f GiB free, %d %% used", float64(s.FreeBytes)/(1<<30), used)
	switch {
	case s.FreeBytes < leastSpace:
		return fail(finding, "make room, or choose another --data-dir: at least 1 GiB, better 5")
	case used >= imageGCPercent:
		return warn(finding, fmt.Sprintf("from %d %% on the kubelet removes images, later pods: make room, or set --kubelet-arg=image-gc-high-threshold=", imageGCPercent))
	case s.FreeBytes < advisedSpace:
		return warn(finding, "enough for few images: 5 GiB are advised")
	}
	return ok(finding)
}

func (c *checker) inodes() []Result {
	s, err := c.Space(nearest(c.path(c.settings.DataDir)))
	if err != nil || s.TotalInodes == 0 {
		return nil // no disk, said above; or a file system such as btrfs that has no limit
	}
	finding := fmt.Sprintf("%d free", s.FreeInodes)
	if s.FreeInodes < leastInodes {
		return fail(finding, "images consist of many small files: remove files, or choose another --data-dir")
	}
	return ok(finding)
}
