package hostcheck

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/pkg/process"
)

func (c *checker) capabilities() []Result {
	status, _ := c.read("proc/self/status")
	effective, found := uint64(0), false
	for _, line := range strings.Split(status, "\n") {
		if text, is := strings.CutPrefix(line, "CapEff:"); is {
			value, err := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
			effective, found = value, err == nil
		}
	}
	if !found {
		return warn("cannot read the capabilities of this process", "mount /proc")
	}
	has := func(capability int) bool { return effective&(1<<capability) != 0 }
	switch {
	case !has(unix.CAP_SYS_ADMIN) || !has(unix.CAP_NET_ADMIN):
		return fail("CAP_SYS_ADMIN or CAP_NET_ADMIN is missing", "run knarr as root; in a container, in a privileged one")
	case !has(unix.CAP_SYS_RESOURCE):
		return warn("CAP_SYS_RESOURCE is missing", "containers cannot be shielded from the out-of-memory killer; nothing else is lost")
	}
	return ok("all that is needed")
}

// Sizes of memory in KiB, as /proc/meminfo counts.
const (
	leastMemory   = 450 << 10
	advisedMemory = 900 << 10
)

func (c *checker) memory() []Result {
	info, _ := c.read("proc/meminfo")
	for _, line := range strings.Split(info, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "MemTotal:" {
			continue
		}
		kib, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			break
		}
		finding := fmt.Sprintf("%d MiB", kib>>10)
		switch {
		case kib < leastMemory:
			return fail(finding, "a server needs 512 MiB at the least")
		case kib < advisedMemory:
			return warn(finding, "enough for a server with few pods; 1 GiB is advised")
		}
		return ok(finding)
	}
	return warn("cannot read /proc/meminfo", "mount /proc")
}

func (c *checker) swap() []Result {
	swaps, _ := c.read("proc/swaps")
	if lines := strings.Split(swaps, "\n"); len(lines) > 1 {
		return warn(fmt.Sprintf("%d in use", len(lines)-1), "pods may become slow when memory is short: `swapoff -a`, unless that is wanted")
	}
	return ok("none")
}

// leastFiles is the hard limit of open files below which many pods run short.
const leastFiles = 65536

func (c *checker) openFiles() []Result {
	limits, _ := c.read("proc/self/limits")
	for _, line := range strings.Split(limits, "\n") {
		rest, is := strings.CutPrefix(line, "Max open files")
		fields := strings.Fields(rest)
		if !is || len(fields) < 2 {
			continue
		}
		if hard, err := strconv.Atoi(fields[1]); err == nil && hard < leastFiles {
			return warn(fmt.Sprintf("at most %d", hard), "raise it: LimitNOFILE= of the service, or `ulimit -Hn 1048576` before `knarr server`")
		}
		return ok("at most " + fields[1])
	}
	return warn("cannot read /proc/self/limits", "mount /proc")
}

// leastWatchers is enough for one hundred pods, each with a few watched files.
const leastWatchers = 256

func (c *checker) inotify() []Result {
	text, found := c.read("proc/sys/fs/inotify/max_user_instances")
	if !found {
		return fail("the kernel has no inotify", "use a kernel with CONFIG_INOTIFY_USER")
	}
	if n, err := strconv.Atoi(text); err == nil && n < leastWatchers {
		return warn(text+" instances per user", "\"too many open files\" in pods comes from this: `sysctl -w fs.inotify.max_user_instances=8192`")
	}
	return ok(text + " instances per user")
}

func (c *checker) kernelLog() []Result {
	if c.exists("dev/kmsg") {
		return ok("/dev/kmsg is there")
	}
	return warn("/dev/kmsg is not there", "the kubelet cannot tell when the kernel killed a process for memory: in a container, pass the device in")
}

func (c *checker) clock() []Result {
	// No certificate knarr ever made is valid before its own release.
	if c.Now.Before(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) {
		return fail("it is "+c.Now.UTC().Format(time.DateTime)+" UTC here", "certificates will not be valid: set the clock, for example with systemd-timesyncd or chrony")
	}
	if !c.Synchronized {
		return warn("not synchronized", "with several nodes the clocks must agree: run chrony or systemd-timesyncd")
	}
	return ok("synchronized")
}

func (c *checker) securityModule() []Result {
	if enforce, _ := c.read("sys/fs/selinux/enforce"); enforce == "1" {
		return warn("SELinux enforces", "give --selinux and install container-selinux, or containers may be denied their files")
	}
	if enabled, _ := c.read("sys/module/apparmor/parameters/enabled"); strings.HasPrefix(enabled, "Y") {
		return ok("AppArmor; containers get a profile when apparmor_parser is installed")
	}
	return ok("none that knarr has to know")
}

// distributions are processes that each mean another Kubernetes.
func distributions() []string {
	return []string{"kubelet", "k3s", "k3s-server", "k3s-agent", "rke2", "k0s", "kubelite"}
}

func (c *checker) otherKubernetes() []Result {
	all, err := c.Table.List()
	if err != nil {
		return warn(err.Error(), "mount /proc")
	}
	here := c.Table.Namespace("self", "net")
	var others []string
	for _, p := range all {
		if !slices.Contains(distributions(), p.Name()) && !slices.Contains(distributions(), p.Comm) {
			continue
		}
		// One in a container has a network, and a kubelet directory, of its own.
		if ns := c.Table.Namespace(strconv.Itoa(p.PID), "net"); ns == here || ns == "" {
			others = append(others, p.String())
		}
	}
	if len(others) > 0 {
		return fail("runs here: "+strings.Join(others, ", "), "both would use /var/lib/kubelet, cni0 and the same ports: stop it, and keep it from starting at boot")
	}
	for _, socket := range []string{"run/containerd/containerd.sock", "run/k3s/containerd/containerd.sock", "run/crio/crio.sock"} {
		if c.exists(socket) {
			return ok("none; /" + socket + " is another runtime's, knarr has its own")
		}
	}
	return ok("none")
}

// running is the knarr process of this host, if any: what it holds is not in the way.
func running(p process.Process) bool { return p.Name() == "knarr" || p.Comm == "knarr" }
