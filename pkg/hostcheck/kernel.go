package hostcheck

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Kernel versions from which something works.
const (
	oldestKernel   = 4*1000 + 19 // what upstream Kubernetes still tests
	nftablesKernel = 5*1000 + 13 // kube-proxy's nftables mode
)

func (c *checker) version() []Result {
	parts := strings.SplitN(c.Release, ".", 3)
	if len(parts) < 2 {
		return warn(fmt.Sprintf("%q is not understood", c.Release), "")
	}
	major, err := strconv.Atoi(parts[0])
	minor, minorErr := strconv.Atoi(digits(parts[1]))
	switch number := major*1000 + minor; {
	case err != nil || minorErr != nil:
		return warn(fmt.Sprintf("%q is not understood", c.Release), "")
	case number < oldestKernel:
		return fail(c.Release, "upgrade the kernel to 5.13 or later; 4.19 is the oldest that may work")
	case number < nftablesKernel:
		return warn(c.Release, "kube-proxy uses iptables here; its nftables mode needs 5.13 or later")
	}
	return ok(c.Release)
}

// digits is the number at the beginning of s.
func digits(s string) string {
	if i := strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		return s[:i]
	}
	return s
}

func (c *checker) namespaces() []Result {
	var missing []string
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "uts"} {
		if !c.exists("proc/self/ns/" + ns) {
			missing = append(missing, ns)
		}
	}
	if len(missing) > 0 {
		return fail("missing: "+strings.Join(missing, ", "), "use a kernel with these namespaces (CONFIG_NAMESPACES and CONFIG_*_NS)")
	}
	if !c.exists("proc/self/ns/user") {
		return warn("no user namespaces", "pods with hostUsers: false cannot run")
	}
	return ok("all there")
}

func (c *checker) vxlan() []Result {
	if !c.settings.Vxlan {
		return nil
	}
	return probe("vxlan", Fail, "pods on different nodes cannot talk. Install the kernel's extra modules "+
		"(Ubuntu on a Raspberry Pi: linux-modules-extra-raspi; RHEL: kernel-modules-extra), or use --flannel-backend=host-gw")(c)
}

func (c *checker) wireguard() []Result {
	if !c.settings.WireGuard {
		return nil
	}
	return probe("wireguard", Fail, "--flannel-backend=wireguard-native cannot work. Load the module (`modprobe wireguard`), install the kernel's extra modules "+
		"or a kernel from 5.6 on; or use --flannel-backend=vxlan, or host-gw where all nodes are on one LAN, which do not encrypt")(c)
}

func (c *checker) conntrack() []Result {
	if most, found := c.read("proc/sys/net/netfilter/nf_conntrack_max"); found {
		return ok("up to " + most + " connections")
	}
	return warn("nf_conntrack is not loaded", "it is loaded with the first rule; if Services do not answer: `modprobe nf_conntrack`")
}

func (c *checker) brNetfilter() []Result {
	switch value, found := c.read("proc/sys/net/bridge/bridge-nf-call-iptables"); {
	case !found:
		return warn("not loaded", "a pod that calls its own Service on the same node may get no answer: `modprobe br_netfilter`")
	case value != "1":
		return warn("bridged packets pass by the packet filter", "`sysctl -w net.bridge.bridge-nf-call-iptables=1`")
	}
	return ok("loaded")
}

func (c *checker) ipForward() []Result {
	switch value, found := c.read("proc/sys/net/ipv4/ip_forward"); {
	case !found:
		return fail("the kernel has no IPv4", "use a kernel with CONFIG_INET")
	case value == "0":
		return ok("off; knarr turns it on")
	}
	return ok("on")
}

func (c *checker) seccomp() []Result {
	if status, found := c.read("proc/self/status"); found && !strings.Contains(status, "\nSeccomp:") {
		return fail("the kernel has no seccomp", "containers are started with a seccomp profile: use a kernel with CONFIG_SECCOMP_FILTER")
	}
	return ok("works")
}

// hierarchy is what the mounts say of control groups.
type hierarchy struct {
	unified     bool // v2 alone
	none        bool
	controllers []string
}

func (c *checker) cgroups() hierarchy {
	if controllers, found := c.read("sys/fs/cgroup/cgroup.controllers"); found {
		return hierarchy{unified: true, controllers: strings.Fields(controllers)}
	}
	mounts, _ := c.read("proc/self/mounts")
	var h hierarchy
	for _, line := range strings.Split(mounts, "\n") {
		if fields := strings.Fields(line); len(fields) >= 4 && fields[2] == "cgroup" {
			h.controllers = append(h.controllers, strings.Split(fields[3], ",")...)
		}
	}
	h.none = len(h.controllers) == 0
	return h
}

func (c *checker) cgroupVersion() []Result {
	switch h := c.cgroups(); {
	case h.none:
		return fail("no control groups are mounted", "mount them (`mount -t cgroup2 cgroup2 /sys/fs/cgroup`); systemd and OpenRC's cgroups service do it")
	case !h.unified:
		return warn("v1", "works, but Kubernetes will drop it: boot with systemd.unified_cgroup_hierarchy=1, or set rc_cgroup_mode=unified for OpenRC")
	}
	return ok("v2")
}

func (c *checker) cgroupControllers() []Result {
	h := c.cgroups()
	if h.none {
		return nil // said above
	}
	var missing []string
	for _, controller := range []string{"cpu", "cpuset", "memory", "pids"} {
		if !slices.Contains(h.controllers, controller) {
			missing = append(missing, controller)
		}
	}
	if len(missing) == 0 {
		return ok("cpu, cpuset, memory, pids")
	}
	finding := "missing: " + strings.Join(missing, ", ")
	if !slices.Contains(missing, "memory") {
		return fail(finding, "enable them in the kernel, or delegate them to this group (cgroup.subtree_control)")
	}
	return fail(finding, c.memoryHint())
}

// memoryHint says how the memory controller is turned on on this machine.
func (c *checker) memoryHint() string {
	model, _ := c.read("proc/device-tree/model")
	if !strings.Contains(model, "Raspberry Pi") {
		return "add cgroup_enable=memory to the kernel's command line and reboot"
	}
	file := "/boot/cmdline.txt"
	if c.exists("boot/firmware/cmdline.txt") {
		file = "/boot/firmware/cmdline.txt"
	}
	return "append \" cgroup_memory=1 cgroup_enable=memory\" to the one line in " + file + " and reboot"
}
