package containerd

import (
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"github.com/knarr-io/knarr/pkg/upstream/host"
)

func withRuntimes() Config {
	return Config{Shim: "/d/shim", Runc: "/d/runc", RuncState: "/run/k/runc", DefaultRuntime: "runc", Runtimes: []host.Runtime{
		{Handler: "crun", Type: "io.containerd.runc.v2", Program: "/usr/bin/crun"},
		{Handler: "runsc", Type: "io.containerd.runsc.v1", Program: "/usr/bin/containerd-shim-runsc-v1", OwnShim: true},
		{Handler: "kata", Type: "io.containerd.kata.v2", Program: "/opt/kata/bin/containerd-shim-kata-v2", OwnShim: true, Machine: true},
	}}
}

func TestRuntimesOfTheHost(t *testing.T) {
	text, err := toml.Marshal(withRuntimes().runtimes())
	if err != nil {
		t.Fatal(err)
	}
	const want = `[crun]
runtime_path = '/d/shim'
runtime_type = 'io.containerd.runc.v2'

[crun.options]
BinaryName = '/usr/bin/crun'
Root = '/run/k/crun'
SystemdCgroup = false

[kata]
pod_annotations = ['io.katacontainers.*']
privileged_without_host_devices = true
runtime_path = '/opt/kata/bin/containerd-shim-kata-v2'
runtime_type = 'io.containerd.kata.v2'

[runc]
runtime_path = '/d/shim'
runtime_type = 'io.containerd.runc.v2'

[runc.options]
BinaryName = '/d/runc'
Root = '/run/k/runc'
SystemdCgroup = false

[runsc]
runtime_path = '/usr/bin/containerd-shim-runsc-v1'
runtime_type = 'io.containerd.runsc.v1'
`
	if string(text) != want {
		t.Errorf("got\n%s", text)
	}
}

func TestDefaultRuntime(t *testing.T) {
	const own = "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.mine]\nruntime_type = 'x'\n"
	tests := []struct {
		name, runtime, dropIn, want string
	}{
		{"runc", "runc", "", ""},
		{"one of the host's", "kata", "", ""},
		{"one of the user's", "mine", own, ""},
		{"chosen in the user's file", "absent", "[plugins.'io.containerd.cri.v1.runtime'.containerd]\ndefault_runtime_name = 'x'\n", ""},
		{"not there", "nvidia", "", `use the default runtime "nvidia": it is not installed; on this host there are crun, kata, runc, runsc`},
		{"not there, others of the user's", "nvidia", own, "runsc, mine"},
		{"a file that cannot be read", "runc", "[plugins", "read containerd configuration a.toml"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := withRuntimes()
			c.DefaultRuntime = tt.runtime
			files := map[string][]byte{}
			if tt.dropIn != "" {
				files["a.toml"] = []byte(tt.dropIn)
			}
			err := c.checkDefaultRuntime(files)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want %q", err, tt.want)
			}
		})
	}
}
