// Package containerd runs containerd's daemon, unpatched, as a component of the process: the same server and plugins
// as its own main package, with a generated configuration.
//
// Shims and runc are other processes, extracted by pkg/bundle; they outlive this one, and containerd finds them again
// when it starts.
//
// It stops when its context ends; containers go on running.
package containerd

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/version"
	"github.com/pelletier/go-toml/v2"

	"github.com/knarr-io/knarr/pkg/upstream/host"
)

// Config is what containerd needs to know. All paths are absolute.
type Config struct {
	// ConfigFile is written at each start; the *.toml beside it in conf.d are the user's and win.
	ConfigFile string
	DropIns    string // a glob
	Root       string // images and containers; survives a reboot
	State      string // sockets and bundles; does not
	Address    string // of the socket

	Snapshotter    string
	DefaultRuntime string
	PauseImage     string
	// Shim and Runc are paths that stay valid when knarr is upgraded, because containerd remembers them for each pod.
	Shim, Runc string
	// RuncState is where runc keeps what it knows of containers.
	RuncState string
	// Runtimes are the host's, beside runc.
	Runtimes []host.Runtime
	// CNIBins are the directories of CNI plugins, the first that has one counts; CNIConfig that of the configuration.
	CNIBins          []string
	CNIConfig        string
	RegistryConfig   string // certs.d
	SystemdCgroups   bool
	RestrictOOMScore bool // without CAP_SYS_RESOURCE
	DisableHugetlb   bool
	DisableApparmor  bool
	SELinux          bool
	NonrootDevices   bool
}

// unused are plugins that knarr has no use for: each would cost memory, a goroutine, or a directory outside data-dir.
func unused() []string {
	return []string{
		"io.containerd.differ.v1.erofs",
		"io.containerd.image-verifier.v1.bindir",
		"io.containerd.internal.v1.opt",
		"io.containerd.internal.v1.restart",
		"io.containerd.internal.v1.tracing",
		"io.containerd.nri.v1.nri",
		"io.containerd.tracing.processor.v1.otlp",
	}
}

// snapshotters are those that are compiled in and switched off unless chosen; overlayfs and native stay for tools.
func snapshotters() []string { return []string{"blockfile", "btrfs", "devmapper", "erofs", "zfs"} }

// disabled are the plugins to leave out.
func (c Config) disabled() []string {
	list := unused()
	for _, s := range snapshotters() {
		if s != c.Snapshotter {
			list = append(list, "io.containerd.snapshotter.v1."+s)
		}
	}
	if c.Snapshotter == "erofs" {
		list = slices.DeleteFunc(list, func(id string) bool { return id == "io.containerd.differ.v1.erofs" })
	}
	return list
}

type table = map[string]any

// TOML is the configuration file. identityTokens are the registries' tokens, by host name, that containerd takes from
// nowhere else.
func (c Config) TOML(identityTokens map[string]string) ([]byte, error) {
	auths := table{}
	for host, token := range identityTokens {
		auths[host] = table{"auth": table{"identitytoken": token}}
	}
	text, err := toml.Marshal(table{
		"version":          version.ConfigVersion,
		"root":             c.Root,
		"state":            c.State,
		"imports":          []string{c.DropIns},
		"disabled_plugins": c.disabled(),
		"plugins": table{
			"io.containerd.server.v1.grpc": table{
				"address":               c.Address,
				"max_recv_message_size": defaults.DefaultMaxRecvMsgSize,
				"max_send_message_size": defaults.DefaultMaxSendMsgSize,
			},
			"io.containerd.server.v1.ttrpc": table{"address": c.Address + ".ttrpc"},
			"io.containerd.cri.v1.images": table{
				"snapshotter":                  c.Snapshotter,
				"disable_snapshot_annotations": true,
				"pinned_images":                table{"sandbox": c.PauseImage},
				"registry":                     table{"config_path": c.RegistryConfig, "configs": auths},
			},
			"io.containerd.cri.v1.runtime": c.runtime(),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("encode containerd configuration: %w", err)
	}
	return append([]byte("# Written by knarr at every start. To change a setting, put a file of your own into conf.d.\n"), text...), nil
}

func (c Config) runtime() table {
	return table{
		"enable_selinux":                         c.SELinux,
		"enable_unprivileged_ports":              true,
		"enable_unprivileged_icmp":               true,
		"restrict_oom_score_adj":                 c.RestrictOOMScore,
		"disable_hugetlb_controller":             c.DisableHugetlb,
		"disable_apparmor":                       c.DisableApparmor,
		"device_ownership_from_security_context": c.NonrootDevices,
		"cni":                                    table{"bin_dirs": c.CNIBins, "conf_dir": c.CNIConfig},
		"containerd":                             table{"default_runtime_name": c.DefaultRuntime, "runtimes": c.runtimes()},
	}
}

// runtimes are runc and those of the host, by their handlers.
func (c Config) runtimes() table {
	all := table{"runc": c.driven(c.Runc, c.RuncState)}
	for _, r := range c.Runtimes {
		if !r.OwnShim {
			all[r.Handler] = c.driven(r.Program, filepath.Join(filepath.Dir(c.RuncState), r.Handler))
			continue
		}
		t := table{"runtime_type": r.Type, "runtime_path": r.Program}
		if r.Machine { // the host's devices mean nothing there; annotations configure the machine
			t["privileged_without_host_devices"] = true
			t["pod_annotations"] = []string{"io.katacontainers.*"}
		}
		all[r.Handler] = t
	}
	return all
}

// driven is an OCI runtime that knarr's own shim runs, with its state in a directory of its own.
func (c Config) driven(program, state string) table {
	return table{
		"runtime_type": "io.containerd.runc.v2",
		"runtime_path": c.Shim,
		"options":      table{"BinaryName": program, "Root": state, "SystemdCgroup": c.SystemdCgroups},
	}
}

// checkDefaultRuntime keeps containerd from starting without its CRI plugin, which is what it does when the default
// runtime is not configured. dropIns are the contents of the user's own files by their names.
func (c Config) checkDefaultRuntime(dropIns map[string][]byte) error {
	names := slices.Sorted(maps.Keys(c.runtimes()))
	for name, text := range dropIns {
		var file struct {
			Plugins map[string]struct {
				Containerd struct {
					Default  string         `toml:"default_runtime_name"`
					Runtimes map[string]any `toml:"runtimes"`
				} `toml:"containerd"`
			} `toml:"plugins"`
		}
		if err := toml.Unmarshal(text, &file); err != nil {
			return fmt.Errorf("read containerd configuration %s: %w", name, err)
		}
		cri := file.Plugins["io.containerd.cri.v1.runtime"].Containerd
		if cri.Default != "" { // the user's own business
			return nil
		}
		names = slices.AppendSeq(names, maps.Keys(cri.Runtimes))
	}
	if !slices.Contains(names, c.DefaultRuntime) {
		return fmt.Errorf("use the default runtime %q: it is not installed; on this host there are %s", c.DefaultRuntime, strings.Join(names, ", "))
	}
	return nil
}
