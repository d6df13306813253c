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
	"slices"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/version"
	"github.com/pelletier/go-toml/v2"
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
	RuncState         string
	CNIBin, CNIConfig string // directories
	RegistryConfig    string // certs.d
	SystemdCgroups    bool
	RestrictOOMScore  bool // without CAP_SYS_RESOURCE
	DisableHugetlb    bool
	DisableApparmor   bool
	SELinux           bool
	NonrootDevices    bool
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
		"cni":                                    table{"bin_dirs": []string{c.CNIBin}, "conf_dir": c.CNIConfig},
		"containerd": table{
			"default_runtime_name": c.DefaultRuntime,
			"runtimes": table{"runc": table{
				"runtime_type": "io.containerd.runc.v2",
				"runtime_path": c.Shim,
				"options":      table{"BinaryName": c.Runc, "Root": c.RuncState, "SystemdCgroup": c.SystemdCgroups},
			}},
		},
	}
}
