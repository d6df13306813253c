package hostcheck

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/pkg/process"
)

// healthy is a host on which nothing is to be said.
func healthy(t *testing.T) (Host, Settings) {
	t.Helper()
	root := t.TempDir()
	h := Host{
		Root: root, Table: process.Table{Root: filepath.Join(root, "proc")},
		Release: "6.1.0-18-amd64", Hostname: "Node-1", Now: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC), Synchronized: true,
		Space: func(string) (Space, error) {
			return Space{TotalBytes: 100 << 30, FreeBytes: 50 << 30, TotalInodes: 1e6, FreeInodes: 9e5}, nil
		},
		Probes: map[string]func() error{},
	}
	for _, name := range ProbeNames() {
		h.Probes[name] = func() error { return nil }
	}
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} {
		set(t, h, "proc/self/ns/"+ns, "")
	}
	for name, content := range map[string]string{
		"proc/self/status":                            "Name:\tknarr\nCapEff:\t000001ffffffffff\nSeccomp:\t0\n",
		"proc/self/limits":                            "Limit  Soft Hard Units\nMax open files            1024                 1048576              files\n",
		"proc/self/mountinfo":                         "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n22 21 8:2 / /var/lib rw,relatime shared:2 - xfs /dev/sda2 rw\n",
		"proc/self/mounts":                            "",
		"proc/meminfo":                                "MemTotal:        4000000 kB\n",
		"proc/swaps":                                  "Filename Type Size Used Priority\n",
		"proc/net/tcp":                                "head\n",
		"proc/net/udp":                                "head\n",
		"proc/net/route":                              "Iface Destination Gateway Flags RefCnt Use Metric Mask\neth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n",
		"sys/fs/cgroup/cgroup.controllers":            "cpuset cpu io memory pids\n",
		"proc/sys/net/ipv4/ip_forward":                "1\n",
		"proc/sys/net/netfilter/nf_conntrack_max":     "262144\n",
		"proc/sys/net/bridge/bridge-nf-call-iptables": "1\n",
		"proc/sys/fs/inotify/max_user_instances":      "8192\n",
		"dev/kmsg":                                    "",
		"etc/resolv.conf":                             "nameserver 10.0.0.1\n",
	} {
		set(t, h, name, content)
	}
	return h, DefaultSettings()
}

// set writes a file of the host; "-" as its content removes it.
func set(t *testing.T, h Host, name, content string) {
	t.Helper()
	path := filepath.Join(h.Root, name)
	if content == "-" {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// holds makes pid hold a listening socket, given as a line of /proc/net/tcp or udp.
func holds(t *testing.T, h Host, pid int, comm, network, port, state string) {
	t.Helper()
	set(t, h, "proc/net/"+network, fmt.Sprintf("head\n 0: 00000000:%s 00000000:0000 %s 0:0 0:0 0 0 0 777 1\n", port, state))
	if pid == 0 {
		return
	}
	run(t, h, pid, comm)
	dir := filepath.Join(h.Root, fmt.Sprintf("proc/%d/fd", pid))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("socket:[777]", filepath.Join(dir, "3")); err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, h Host, pid int, comm string) {
	t.Helper()
	set(t, h, fmt.Sprintf("proc/%d/stat", pid), fmt.Sprintf("%d (%s) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0", pid, comm))
	set(t, h, fmt.Sprintf("proc/%d/cmdline", pid), comm+"\x00")
}

func TestHealthyHost(t *testing.T) {
	h, s := healthy(t)
	s.WireGuard = true
	results := Run(h, s)
	for _, r := range results {
		if r.Level != OK || r.Action != "" {
			t.Errorf("%+v", r)
		}
	}
	if len(results) != len(checks()) || Worst(results) != OK {
		t.Errorf("%d rows of %d checks, worst %s", len(results), len(checks()), Worst(results))
	}
}

func TestFindings(t *testing.T) {
	type change func(*testing.T, *Host, *Settings)
	file := func(name, content string) change {
		return func(t *testing.T, h *Host, _ *Settings) { set(t, *h, name, content) }
	}
	mounted := func(line string) change {
		return file("proc/self/mountinfo", "21 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"+line+"\n")
	}
	disk := func(s Space) change {
		return func(_ *testing.T, h *Host, _ *Settings) { h.Space = func(string) (Space, error) { return s, nil } }
	}
	release := func(r string) change { return func(_ *testing.T, h *Host, _ *Settings) { h.Release = r } }
	broken := func(name string, err error) change {
		return func(_ *testing.T, h *Host, _ *Settings) { h.Probes[name] = func() error { return err } }
	}
	node := func(name string) change { return func(_ *testing.T, _ *Host, s *Settings) { s.NodeName = name } }
	v1 := "cgroup /sys/fs/cgroup/%s cgroup rw,%s 0 0\n"
	v1All := fmt.Sprintf(v1+v1+v1+v1, "cpu", "cpu", "cpuset", "cpuset", "memory", "memory", "pids", "pids")
	for _, tc := range []struct {
		title  string
		change []change
		name   string
		level  Level
		says   string
	}{
		{"ancient kernel", []change{release("4.9.0")}, "version", Fail, "4.9.0"},
		{"kernel without nftables proxy", []change{release("5.10.0-28-amd64")}, "version", Warn, "iptables"},
		{"odd kernel name", []change{release("linux")}, "version", Warn, "not understood"},
		{"no network namespaces", []change{file("proc/self/ns/net", "-")}, "namespaces", Fail, "missing: net"},
		{"no user namespaces", []change{file("proc/self/ns/user", "-")}, "namespaces", Warn, "hostUsers"},
		{"no overlay", []change{broken("overlay", unix.ENODEV)}, "overlayfs", Fail, "modprobe overlay"},
		{"not root", []change{broken("veth", fmt.Errorf("make a namespace: %w", unix.EPERM))}, "veth", Warn, "as root"},
		{"no wireguard", []change{broken("wireguard", unix.EOPNOTSUPP), func(_ *testing.T, _ *Host, s *Settings) { s.WireGuard = true }}, "wireguard", Fail, "--flannel-backend=vxlan"},
		{"no vxlan", []change{broken("vxlan", unix.EOPNOTSUPP)}, "vxlan", Fail, "linux-modules-extra-raspi"},
		{"no nftables", []change{broken("nftables", errors.New("x"))}, "nftables", Warn, "iptables"},
		{"no conntrack", []change{file("proc/sys/net/netfilter/nf_conntrack_max", "-")}, "conntrack", Warn, "modprobe nf_conntrack"},
		{"no br_netfilter", []change{file("proc/sys/net/bridge/bridge-nf-call-iptables", "-")}, "br_netfilter", Warn, "modprobe br_netfilter"},
		{"br_netfilter off", []change{file("proc/sys/net/bridge/bridge-nf-call-iptables", "0")}, "br_netfilter", Warn, "sysctl -w"},
		{"no seccomp", []change{file("proc/self/status", "CapEff:\t000001ffffffffff\n")}, "seccomp", Fail, "CONFIG_SECCOMP_FILTER"},
		{"cgroup v1", []change{file("sys/fs/cgroup/cgroup.controllers", "-"), file("proc/self/mounts", v1All)}, "version", Warn, "v1"},
		{"no cgroups", []change{file("sys/fs/cgroup/cgroup.controllers", "-")}, "version", Fail, "no control groups"},
		{"memory off", []change{file("sys/fs/cgroup/cgroup.controllers", "cpu cpuset pids")}, "controllers", Fail, "cgroup_enable=memory"},
		{"memory off on a Pi", []change{file("sys/fs/cgroup/cgroup.controllers", "cpu cpuset pids"), file("boot/firmware/cmdline.txt", ""),
			file("proc/device-tree/model", "Raspberry Pi 4 Model B\x00")}, "controllers", Fail, "in /boot/firmware/cmdline.txt and reboot"},
		{"private root", []change{file("proc/self/mountinfo", "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n")}, "root propagation", Warn, "--make-rshared"},
		{"read-only data-dir", []change{mounted("22 21 8:2 / /var/lib ro - ext4 /dev/x ro")}, "data-dir", Fail, "read-only"},
		{"noexec data-dir", []change{mounted("22 21 8:2 / /var/lib/knarr rw,noexec - ext4 /dev/x rw")}, "data-dir", Fail, "noexec"},
		{"data-dir on NFS", []change{mounted("22 21 8:2 / /var/lib rw - nfs4 srv:/x rw")}, "data-dir", Fail, "local disk"},
		{"data-dir on overlay", []change{mounted("22 21 8:2 / /var/lib rw - overlay overlay rw")}, "data-dir", Warn, "--snapshotter=native"},
		{"data-dir in memory", []change{mounted("22 21 8:2 / /var/lib rw - tmpfs tmpfs rw")}, "data-dir", Warn, "lost at reboot"},
		{"mounted over", []change{mounted("22 21 8:2 / /var/lib rw - ext4 /dev/x rw\n23 22 0:9 / /var/lib rw - tmpfs t rw")}, "data-dir", Warn, "tmpfs"},
		{"disk full", []change{disk(Space{TotalBytes: 100 << 30, FreeBytes: 1 << 20})}, "free space", Fail, "make room"},
		{"disk nearly full", []change{disk(Space{TotalBytes: 100 << 30, FreeBytes: 10 << 30})}, "free space", Warn, "90 % used"},
		{"small disk", []change{disk(Space{TotalBytes: 5 << 30, FreeBytes: 3 << 30})}, "free space", Warn, "advised"},
		{"no inodes", []change{disk(Space{TotalBytes: 100 << 30, FreeBytes: 50 << 30, TotalInodes: 1e6, FreeInodes: 10})}, "free inodes", Fail, "10 free"},
		{"no privileges", []change{file("proc/self/status", "CapEff:\t0000000000000000\nx\nSeccomp:\t0\n")}, "privileges", Fail, "as root"},
		{"no CAP_SYS_RESOURCE", []change{file("proc/self/status", "x\nCapEff:\t000001fffeffffff\nSeccomp:\t0\n")}, "privileges", Warn, "CAP_SYS_RESOURCE"},
		{"little memory", []change{file("proc/meminfo", "MemTotal: 262144 kB\n")}, "memory", Fail, "256 MiB"},
		{"a little more memory", []change{file("proc/meminfo", "MemTotal: 524288 kB\n")}, "memory", Warn, "512 MiB"},
		{"swap", []change{file("proc/swaps", "Filename Type\n/dev/sda3 partition 1 0 -2\n")}, "swap", Warn, "swapoff"},
		{"few files", []change{file("proc/self/limits", "Max open files  1024  4096  files\n")}, "open files", Warn, "LimitNOFILE"},
		{"few watchers", []change{file("proc/sys/fs/inotify/max_user_instances", "128")}, "inotify", Warn, "max_user_instances=8192"},
		{"no kmsg", []change{file("dev/kmsg", "-")}, "kernel log", Warn, "/dev/kmsg"},
		{"clock at the epoch", []change{func(_ *testing.T, h *Host, _ *Settings) { h.Now = time.Unix(60, 0) }}, "clock", Fail, "1970-01-01"},
		{"clock free-running", []change{func(_ *testing.T, h *Host, _ *Settings) { h.Synchronized = false }}, "clock", Warn, "chrony"},
		{"SELinux", []change{file("sys/fs/selinux/enforce", "1")}, "security module", Warn, "--selinux"},
		{"AppArmor", []change{file("sys/module/apparmor/parameters/enabled", "Y\n")}, "security module", OK, "AppArmor"},
		{"k3s runs", []change{func(t *testing.T, h *Host, _ *Settings) { run(t, *h, 70, "k3s-server") }}, "other Kubernetes", Fail, "k3s-server (pid 70)"},
		{"another containerd", []change{file("run/containerd/containerd.sock", "")}, "other Kubernetes", OK, "another runtime's"},
		{"bad node name", []change{node("Host_1")}, "node name", Fail, "--node-name"},
		{"nameless host", []change{node("localhost")}, "node name", Warn, "--node-name"},
		{"long node name", []change{node(strings.Repeat("a", 64))}, "node name", Warn, "64 characters"},
		{"no route", []change{file("proc/net/route", "head\n")}, "default route", Warn, "--node-ip"},
		{"IPv6 route", []change{file("proc/net/route", "head\n"), file("proc/net/ipv6_route",
			strings.Repeat("0", 32)+" 00 "+strings.Repeat("0", 32)+" 00 fe800000000000000000000000000001 00000400 1 0 00000003 eth0\n")}, "default route", OK, "eth0 (IPv6)"},
		{"no nameserver", []change{file("etc/resolv.conf", "")}, "DNS", Warn, "--resolv-conf"},
		{"local nameserver", []change{file("etc/resolv.conf", "nameserver 127.0.0.53\n")}, "DNS", Warn, "--resolv-conf"},
		{"systemd-resolved", []change{file("etc/resolv.conf", "nameserver 127.0.0.53\n"), file(resolvedFile, "nameserver 10.0.0.1\n")}, "DNS", OK, "systemd-resolved"},
		{"port taken", []change{func(t *testing.T, h *Host, _ *Settings) { holds(t, *h, 50, "nginx", "tcp", "192B", "0A") }}, "port 6443/tcp", Fail, "taken by nginx (pid 50)"},
		{"port taken by nobody visible", []change{func(t *testing.T, h *Host, _ *Settings) { holds(t, *h, 0, "", "tcp", "280A", "0A") }}, "port 10250/tcp", Fail, "not visible"},
		{"vxlan port taken", []change{func(t *testing.T, h *Host, _ *Settings) { holds(t, *h, 50, "dnsd", "udp", "2118", "07") }}, "port 8472/udp", Fail, "dnsd"},
		{"only connected from that port", []change{func(t *testing.T, h *Host, _ *Settings) { holds(t, *h, 50, "nginx", "tcp", "192B", "01") }}, "ports", OK, "free"},
		{"knarr itself", []change{func(t *testing.T, h *Host, _ *Settings) { holds(t, *h, 50, "knarr", "tcp", "192B", "0A") }}, "ports", OK, "running knarr"},
		{"ufw", []change{file("etc/ufw/ufw.conf", "ENABLED=yes\n")}, "firewall", Warn, "`ufw disable`, or: `ufw allow 6443/tcp; ufw allow from 10.42.0.0/16; ufw allow from 10.43.0.0/16`; for other nodes of the cluster, if there are any, and for nobody else: 8472/udp"},
		{"firewalld", []change{func(t *testing.T, h *Host, _ *Settings) { run(t, *h, 60, "firewalld") }}, "firewall", Warn,
			"firewall-cmd --permanent --add-port=6443/tcp; firewall-cmd --permanent --zone=trusted --add-source=10.42.0.0/16 --add-source=10.43.0.0/16; firewall-cmd --reload`; for other nodes"},
		{"ufw on an agent", []change{file("etc/ufw/ufw.conf", "ENABLED=yes\n"), func(_ *testing.T, _ *Host, s *Settings) {
			s.Ports = slices.DeleteFunc(s.Ports, Port.ControlPlane)
		}}, "firewall", Warn, "or: `ufw allow from 10.42.0.0/16;"},
	} {
		t.Run(tc.title, func(t *testing.T) {
			h, s := healthy(t)
			for _, change := range tc.change {
				change(t, &h, &s)
			}
			results := Run(h, s)
			matches := slices.ContainsFunc(results, func(r Result) bool {
				return r.Name == tc.name && r.Level == tc.level && strings.Contains(r.Finding+" "+r.Action, tc.says)
			})
			if !matches {
				t.Errorf("no row %q with %s and %q in:", tc.name, tc.level, tc.says)
				for _, r := range results {
					t.Logf("%+v", r)
				}
			}
			for _, r := range results {
				if r.Level == Fail && r.Action == "" {
					t.Errorf("%s: a failure that does not say what to do", r.Name)
				}
			}
		})
	}
}

// The probes must work on any machine that runs the tests, and leave nothing.
func TestProbesOnThisMachine(t *testing.T) {
	dir := t.TempDir()
	h, err := System(filepath.Join(dir, "not", "there"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range ProbeNames() {
		err := h.Probes[name]()
		if err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) {
			t.Errorf("%s: %v", name, err)
		}
		t.Logf("%s: %v", name, err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left in the data directory: %v, %v", left, err)
	}
	data, err := os.ReadFile("/proc/net/dev")
	if err != nil || strings.Contains(string(data), "knarr-probe") {
		t.Errorf("a probe's link is on this machine (%v):\n%s", err, data)
	}
	if s, err := h.Space(dir); err != nil || s.TotalBytes == 0 {
		t.Errorf("space is %+v, %v", s, err)
	}
}
