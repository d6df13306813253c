// Package hostcheck looks at a host before knarr runs on it: what the kernel can
// do, how it is mounted, what is in the way, and says what to do about it.
//
// It is not a component's own check: what a component can only know by trying, it
// says when it starts. Features are tried out rather than looked up wherever that
// leaves no trace (throw-away namespaces), since a kernel may have a feature as a
// module that loads when it is first used. Nothing here runs in the background.
package hostcheck

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/pkg/process"
)

// Level is how much a finding matters.
type Level string

// The levels.
const (
	OK   Level = "ok"
	Warn Level = "warn" // knarr runs, with a limit that the finding names
	Fail Level = "fail" // knarr does not run, or pods do not
)

// Result is one row: what was looked at, what was found, what to do.
type Result struct {
	Group   string `json:"group"`
	Name    string `json:"name"`
	Level   Level  `json:"level"`
	Finding string `json:"finding"`
	// Action says what to do; empty when there is nothing to do.
	Action string `json:"action,omitempty"`
}

// Port is a port that knarr will listen on.
type Port struct {
	Network string // "tcp" or "udp"
	Number  uint16
	// Use says what for; Flag, when set, moves it.
	Use, Flag string
	// From is who connects to it.
	From Reach
}

// Reach is from where a port is used.
type Reach int

// The reaches, which a firewall has to know.
const (
	Here     Reach = iota // this host alone
	Nodes                 // other nodes of the cluster, and nobody else
	Anywhere              // whoever may use the API
)

// ControlPlane reports whether only a server listens there.
func (p Port) ControlPlane() bool {
	switch p.Number {
	case 6443, 10257, 10258, 10259:
		return true
	}
	return false
}

// Settings is what of the configuration matters to the host.
type Settings struct {
	DataDir  string
	NodeName string
	Ports    []Port
	// Vxlan is set when flannel's vxlan backend is in use.
	Vxlan bool
	// WireGuard is set when flannel's wireguard-native backend is.
	WireGuard bool
}

// DefaultSettings are those of a server without any configuration. The node name
// is the host's.
func DefaultSettings() Settings {
	return Settings{DataDir: "/var/lib/knarr", Vxlan: true, Ports: []Port{
		{"tcp", 6443, "API server", "--https-listen-port", Anywhere},
		{"tcp", 6444, "API server's load balancer", "--lb-server-port", Here},
		{"tcp", 10250, "kubelet", "--kubelet-arg=port=", Here},
		{"tcp", 10248, "kubelet's health", "--kubelet-arg=healthz-port=", Here},
		{"tcp", 10249, "kube-proxy's metrics", "--kube-proxy-arg=metrics-bind-address=", Here},
		{"tcp", 10256, "kube-proxy's health", "--kube-proxy-arg=healthz-bind-address=", Here},
		{"tcp", 10257, "controller manager", "--kube-controller-manager-arg=secure-port=", Here},
		{"tcp", 10258, "cloud controller manager", "--kube-cloud-controller-manager-arg=secure-port=", Here},
		{"tcp", 10259, "scheduler", "--kube-scheduler-arg=secure-port=", Here},
		{"udp", 8472, "pod network (vxlan)", "--flannel-backend", Nodes},
	}}
}

// Host is the host that is looked at; tests replace every part of it.
type Host struct {
	// Root is put before every path; "" means "/".
	Root  string
	Table process.Table
	// Release is the kernel's version, for example "6.1.0-18-amd64".
	Release string
	// Hostname is the host's name.
	Hostname string
	// Now is the time; Synchronized whether the kernel thinks it is right.
	Now          time.Time
	Synchronized bool
	// Space returns sizes of the file system that holds path.
	Space func(path string) (Space, error)
	// Probes try out features; a nil error means that it works. See ProbeNames.
	Probes map[string]func() error
}

// Space is the room on a file system.
type Space struct {
	TotalBytes, FreeBytes   uint64
	TotalInodes, FreeInodes uint64
}

// System is the host this process runs on. dataDir is where the overlay probe
// works, in its nearest directory that exists.
func System(dataDir string) (Host, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return Host{}, fmt.Errorf("ask for the kernel's name: %w", err)
	}
	var clock unix.Timex
	state, err := unix.Adjtimex(&clock)
	return Host{
		Release:  unix.ByteSliceToString(name.Release[:]),
		Hostname: unix.ByteSliceToString(name.Nodename[:]),
		Now:      time.Now(),
		// Where asking is forbidden there is somebody else who sets the clock.
		Synchronized: err != nil || state != unix.TIME_ERROR,
		Space:        diskSpace,
		Probes:       systemProbes(dataDir),
	}, nil
}

func diskSpace(path string) (Space, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return Space{}, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	block := uint64(s.Bsize)
	return Space{TotalBytes: s.Blocks * block, FreeBytes: s.Bavail * block, TotalInodes: s.Files, FreeInodes: s.Ffree}, nil
}

// checker is what a check works with.
type checker struct {
	Host
	settings Settings
}

// check is one row of the table. A check returns no result when the question does
// not arise on this host.
type check struct {
	group, name string
	run         func(*checker) []Result
}

func checks() []check {
	return []check{
		{"kernel", "version", (*checker).version},
		{"kernel", "namespaces", (*checker).namespaces},
		{"kernel", "overlayfs", probe("overlay", Fail,
			"containers need it. Load the module (`modprobe overlay`), or put --data-dir on a local file system such as ext4 or xfs")},
		{"kernel", "veth", probe("veth", Fail, "pods need it. Load the module (`modprobe veth`), or install the kernel's extra modules package")},
		{"kernel", "bridge", probe("bridge", Fail, "pods need it. Load the module (`modprobe bridge`)")},
		{"kernel", "vxlan", (*checker).vxlan},
		{"kernel", "wireguard", (*checker).wireguard},
		{"kernel", "nftables", probe("nftables", Warn, "kube-proxy falls back to iptables. Load the module (`modprobe nf_tables`)")},
		{"kernel", "conntrack", (*checker).conntrack},
		{"kernel", "br_netfilter", (*checker).brNetfilter},
		{"kernel", "ip_forward", (*checker).ipForward},
		{"kernel", "seccomp", (*checker).seccomp},
		{"cgroup", "version", (*checker).cgroupVersion},
		{"cgroup", "controllers", (*checker).cgroupControllers},
		{"storage", "root propagation", (*checker).propagation},
		{"storage", "data-dir", (*checker).dataDir},
		{"storage", "free space", (*checker).space},
		{"storage", "free inodes", (*checker).inodes},
		{"system", "privileges", (*checker).capabilities},
		{"system", "memory", (*checker).memory},
		{"system", "swap", (*checker).swap},
		{"system", "open files", (*checker).openFiles},
		{"system", "inotify", (*checker).inotify},
		{"system", "kernel log", (*checker).kernelLog},
		{"system", "clock", (*checker).clock},
		{"system", "security module", (*checker).securityModule},
		{"system", "other Kubernetes", (*checker).otherKubernetes},
		{"network", "node name", (*checker).nodeName},
		{"network", "default route", (*checker).defaultRoute},
		{"network", "DNS", (*checker).resolver},
		{"network", "ports", (*checker).ports},
		{"network", "firewall", (*checker).firewall},
	}
}

// Run looks at everything and returns the rows in the order of the table.
func Run(host Host, settings Settings) []Result {
	c := &checker{Host: host, settings: settings}
	if c.settings.NodeName == "" {
		c.settings.NodeName = strings.ToLower(host.Hostname)
	}
	var all []Result
	for _, check := range checks() {
		for _, r := range check.run(c) {
			r.Group = check.group
			if r.Name == "" {
				r.Name = check.name
			}
			all = append(all, r)
		}
	}
	return all
}

// Worst is the gravest level among results.
func Worst(results []Result) Level {
	worst := OK
	for _, r := range results {
		switch {
		case r.Level == Fail:
			return Fail
		case r.Level == Warn:
			worst = Warn
		}
	}
	return worst
}

func ok(finding string) []Result { return []Result{{Level: OK, Finding: finding}} }

func warn(finding, action string) []Result {
	return []Result{{Level: Warn, Finding: finding, Action: action}}
}

func fail(finding, action string) []Result {
	return []Result{{Level: Fail, Finding: finding, Action: action}}
}

func (c *checker) path(elem ...string) string {
	return filepath.Join(append([]string{"/", c.Root}, elem...)...)
}

// read returns a small file's content without surrounding space, and whether it
// could be read. What cannot be read counts as not there: that is a finding too.
func (c *checker) read(path string) (string, bool) {
	data, err := os.ReadFile(c.path(path))
	return strings.TrimSpace(string(data)), err == nil
}

func (c *checker) exists(path string) bool {
	_, err := os.Stat(c.path(path))
	return err == nil
}
