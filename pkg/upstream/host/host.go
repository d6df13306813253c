// Package host finds out what the machine lets upstream components do, so that they are configured to work on it:
// which cgroup version, which cgroup driver, whether the process may lower OOM scores, what programs packets.
//
// It only looks. Advice for people is in pkg/hostcheck.
package host

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Host is what was found.
type Host struct {
	// CgroupV2 is true when /sys/fs/cgroup is the unified hierarchy.
	CgroupV2 bool
	// CgroupControllers are the controllers that containers can be given limits with.
	CgroupControllers []string
	// SystemdCgroups is true when systemd manages the cgroups, so that the systemd cgroup driver must be used.
	SystemdCgroups bool
	// Logind is true when systemd-logind announces shutdowns and lets them be delayed.
	Logind bool
	// SysResource is true when the process has CAP_SYS_RESOURCE: it may lower OOM scores and raise limits.
	SysResource bool
	// NFTables is true when the kernel has nf_tables.
	NFTables bool
	// UserNamespace is true when the process runs in a user namespace that is not the machine's.
	UserNamespace bool
	// AppArmor is true when the kernel enforces AppArmor profiles and a parser to load them is there.
	AppArmor bool
	// OOMScoreAdj is the process's own, which it may not lower without CAP_SYS_RESOURCE.
	OOMScoreAdj int
	// OpenFiles is how many files the process may open if it raises its limit as far as it may.
	OpenFiles uint64
	// ConntrackWritable is true when connection tracking limits can be changed from here.
	ConntrackWritable bool
	// Runtimes are the container runtimes that are installed beside knarr's own.
	Runtimes []Runtime
	// UnfitRuntimes says of others why they cannot be used.
	UnfitRuntimes []string
}

// Find looks at the machine that the process runs on.
func Find() (Host, error) {
	var h Host
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err != nil {
		return Host{}, fmt.Errorf("look at /sys/fs/cgroup (mount cgroups first): %w", err)
	}
	h.CgroupV2 = fs.Type == unix.CGROUP2_SUPER_MAGIC
	h.CgroupControllers = controllers(h.CgroupV2)
	h.SystemdCgroups = exists("/run/systemd/system") && pid1Is("systemd")
	h.Logind = exists("/run/systemd/seats") && exists("/run/dbus/system_bus_socket") // as systemd's own logind_running does
	caps, err := effectiveCapabilities()
	if err != nil {
		return Host{}, err
	}
	h.SysResource = caps&(1<<unix.CAP_SYS_RESOURCE) != 0
	if h.OOMScoreAdj, err = oomScoreAdj(); err != nil {
		return Host{}, err
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return Host{}, fmt.Errorf("read the limit of open files: %w", err)
	}
	h.OpenFiles = files.Max
	h.UserNamespace = inUserNamespace()
	h.NFTables = nftGeneration() == nil
	h.AppArmor = appArmor()
	h.ConntrackWritable = unix.Access("/proc/sys/net/netfilter/nf_conntrack_max", unix.W_OK) == nil && inInitialNetworkNamespace()
	h.Runtimes, h.UnfitRuntimes = runtimesIn(append(filepath.SplitList(os.Getenv("PATH")), runtimePlaces()...))
	return h, nil
}

// LowestOOMScoreAdj is want, or where the process may not lower its own that far, what it has.
func (h Host) LowestOOMScoreAdj(want int) int {
	if h.SysResource && !h.UserNamespace {
		return want
	}
	return max(want, h.OOMScoreAdj)
}

// CgroupDriver is systemd or cgroupfs.
func (h Host) CgroupDriver() string {
	if h.SystemdCgroups {
		return "systemd"
	}
	return "cgroupfs"
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

func pid1Is(name string) bool {
	comm, err := os.ReadFile("/proc/1/comm")
	return err == nil && strings.TrimSpace(string(comm)) == name
}

func controllers(v2 bool) []string {
	if v2 {
		list, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		if err != nil {
			return nil // the root has none: no limits
		}
		return strings.Fields(string(list))
	}
	dirs, err := filepath.Glob("/sys/fs/cgroup/*")
	if err != nil {
		return nil
	}
	var names []string
	for _, d := range dirs {
		names = append(names, strings.Split(filepath.Base(d), ",")...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func appArmor() bool {
	enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.TrimSpace(string(enabled)) == "Y" && exists("/sbin/apparmor_parser")
}

func effectiveCapabilities() (uint64, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("read the process's capabilities: %w", err)
	}
	return uint64(data[1].Effective)<<32 | uint64(data[0].Effective), nil
}

func oomScoreAdj() (int, error) {
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, fmt.Errorf("read the process's OOM score: %w", err)
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// inUserNamespace: the machine's own user namespace maps all ids onto themselves.
func inUserNamespace() bool {
	m, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(m)), " ") != "0 0 4294967295"
}

// inInitialNetworkNamespace: nf_conntrack_max is read-only in effect elsewhere (net/netfilter/nf_conntrack_standalone.c
// registers it writable for init_net only); the initial namespace has the first inode number of its kind.
func inInitialNetworkNamespace() bool {
	link, err := os.Readlink("/proc/self/ns/net")
	return err == nil && link == "net:[4026531840]"
}

// HasController says whether containers can be given limits of this cgroup controller.
func (h Host) HasController(name string) bool { return slices.Contains(h.CgroupControllers, name) }
