package cli

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/hostcheck"
	"github.com/knarr-io/knarr/tests/golden"
)

func TestChecksTable(t *testing.T) {
	rows := []hostcheck.Result{
		{Group: "knarr", Name: "configuration", Level: hostcheck.OK, Finding: "valid"},
		{Group: "cgroup", Name: "version", Level: hostcheck.Warn, Finding: "v1", Action: "works, but Kubernetes will drop it: boot with systemd.unified_cgroup_hierarchy=1"},
		{Group: "cgroup", Name: "controllers", Level: hostcheck.Fail, Finding: "missing: memory", Action: "reboot"},
	}
	text := checksText(rows, false)
	golden.Check(t, filepath.Join("testdata", "check-config.txt"), text)
	for _, line := range strings.Split(text, "\n") {
		if len(line) > terminalWidth {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
	c := newCommand(t)
	env := Env{Stdout: &c.stdout}
	if code := ExitCode(printChecks(env, rows, "json")); code != 1 {
		t.Errorf("exit code %d with a failure, want 1", code)
	}
	var got struct {
		Level   hostcheck.Level
		Results []hostcheck.Result
	}
	if err := json.Unmarshal(c.stdout.Bytes(), &got); err != nil || got.Level != hostcheck.Fail || len(got.Results) != 3 {
		t.Errorf("json gave %+v, %v", got, err)
	}
	if code := ExitCode(printChecks(env, rows[:2], "table")); code != 0 {
		t.Errorf("exit code %d with warnings alone, want 0", code)
	}
}

func TestCheckedSettings(t *testing.T) {
	c := newCommand(t)
	c.file(t, "etc/knarr/config.yaml", "data-dir: /srv/knarr\nhttps-listen-port: 7443\nflannel-backend: none\nnode-name: blue\n")
	in, err := Env{Root: c.root}.configInput(configLine{})
	if err != nil {
		t.Fatal(err)
	}
	settings, rows := checkedSettings(in)
	if settings.DataDir != "/srv/knarr" || settings.NodeName != "blue" || settings.Vxlan || settings.Ports[0].Number != 7443 {
		t.Errorf("settings %+v", settings)
	}
	for _, port := range settings.Ports {
		if port.Network == "udp" {
			t.Errorf("vxlan's port without vxlan: %+v", port)
		}
	}
	if len(rows) != 1 || rows[0].Level != hostcheck.OK || !strings.Contains(rows[0].Finding, "/etc/knarr/config.yaml") {
		t.Errorf("rows %+v", rows)
	}

	in.CommandLine = []config.Occurrence{{Name: "cluster-init", Value: "true"}}
	if withEtcd, _ := checkedSettings(in); len(withEtcd.Ports) != len(settings.Ports)+2 {
		t.Errorf("with an embedded etcd the ports are %+v", withEtcd.Ports)
	}
	in.CommandLine = []config.Occurrence{{Name: "https-listen-port", Value: "x"}, {Name: "flannel-backend", Value: "y"}}
	if _, rows := checkedSettings(in); len(rows) != 2 || rows[0].Level != hostcheck.Fail || rows[1].Action == "" {
		t.Errorf("two wrong flags gave %+v", rows)
	}
}

// Whatever this machine is like, there is a whole table and no usage error.
func TestCheckConfigCommand(t *testing.T) {
	c := newCommand(t)
	if code := c.run(t, checkConfigCommand); code > 1 {
		t.Errorf("exit code %d: %s", code, &c.stderr)
	}
	contains(t, c.stdout.String(), "kernel\n", "cgroup\n", "storage\n", "system\n", "network\n", " warnings, ")
	for _, args := range [][]string{{"-o", "xml"}, {"extra"}} {
		if code := c.run(t, checkConfigCommand, args...); code != 2 {
			t.Errorf("%q: exit code %d, want 2", args, code)
		}
	}
}

// TestCheckedSettingsOfWhoJoins: a configuration that names a server to join is an agent's, unless the token, or a key of
// servers only, says otherwise. A server that joins has an etcd, which needs its ports.
func TestCheckedSettingsOfWhoJoins(t *testing.T) {
	const joins = "server: https://192.0.2.1\nnode-name: green\n"
	const serverToken = "token: server:0123456789abcdef\n"
	ofAgent := []uint16{6444, 10250, 10248, 10249, 10256, 8472}
	ofServer := []uint16{6443, 6444, 10250, 10248, 10249, 10256, 10257, 10258, 10259, 8472}
	for _, test := range []struct {
		name, file, finding string
		ports               []uint16
	}{
		{"no token", joins, "valid, of an agent; read from", ofAgent},
		{"another port", joins + "lb-server-port: 7444\n", "valid, of an agent; read from", append([]uint16{7444}, ofAgent[1:]...)},
		{"bare token", joins + "token: 0123456789abcdef\n", "valid, of an agent; read from", ofAgent},
		{"agents' token", joins + "token: node:0123456789abcdef\n", "valid, of an agent; read from", ofAgent},
		{"servers' token", joins + serverToken, "valid; read from", append(slices.Clone(ofServer), 2379, 2380)},
		{"servers' key", joins + "tls-san: a.example\n", "valid; read from", append(slices.Clone(ofServer), 2379, 2380)},
		{"external datastore", joins + serverToken + "datastore-endpoint: postgres://db.example/knarr\n", "valid; read from", ofServer},
		{"another's etcd", joins + serverToken + "disable-etcd: true\n", "valid; read from", ofServer},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCommand(t)
			c.file(t, "etc/knarr/config.yaml", test.file)
			in, err := Env{Root: c.root}.configInput(configLine{})
			if err != nil {
				t.Fatal(err)
			}
			settings, rows := checkedSettings(in)
			if settings.NodeName != "green" || len(rows) != 1 || !strings.HasPrefix(rows[0].Finding, test.finding) {
				t.Errorf("settings %+v, rows %+v", settings, rows)
			}
			var numbers []uint16
			for _, port := range settings.Ports {
				numbers = append(numbers, port.Number)
			}
			if !slices.Equal(numbers, test.ports) {
				t.Errorf("ports %v, want %v", numbers, test.ports)
			}
		})
	}
}
