package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/pkg/process"
	"github.com/knarr-io/knarr/tests/bed"
)

// host is a fake tree of files, with a recorder in place of programs.
func host(t *testing.T, files map[string]string, answers map[string]string) (Host, *[]string) {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "proc"), 0o755); err != nil {
		t.Fatal(err)
	}
	var ran []string
	run := func(_ context.Context, name string, args ...string) (string, error) {
		line := name + " " + strings.Join(args, " ")
		ran = append(ran, line)
		answer, ok := answers[line]
		if !ok {
			return "", errors.New("exit status 3")
		}
		return answer, nil
	}
	return Host{Root: root, Table: process.Table{Root: filepath.Join(root, "proc")}, Run: run}, &ran
}

const stat = " S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0"

func TestActive(t *testing.T) {
	const ask = "systemctl show --property=ActiveState --value knarr.service"
	systemd := map[string]string{"run/systemd/system/x": "", "etc/systemd/system/knarr.service": ""}
	with := func(base map[string]string, more ...string) map[string]string {
		all := map[string]string{}
		for k, v := range base {
			all[k] = v
		}
		for i := 0; i < len(more); i += 2 {
			all[more[i]] = more[i+1]
		}
		return all
	}
	for _, tc := range []struct {
		name    string
		files   map[string]string
		answers map[string]string
		pid     int
		want    Service
	}{
		{"nothing", nil, nil, 0, Service{Kind: None}},
		{"unit of the process, cgroup v2", with(systemd, "proc/9/cgroup", "0::/system.slice/knarr-blue.service\n"), nil, 9,
			Service{Kind: Systemd, Name: "knarr-blue.service"}},
		{"unit of the process, cgroup v1", with(systemd, "proc/9/cgroup", "3:cpu:/\n1:name=systemd:/system.slice/knarr.service\n"), nil, 9,
			Service{Kind: Systemd, Name: "knarr.service"}},
		{"started by hand over ssh", with(systemd, "proc/9/cgroup", "0::/system.slice/ssh.service\n"),
			map[string]string{ask: "inactive\n"}, 9, Service{Kind: None}},
		{"waits to restart a crashed process", systemd, map[string]string{ask: "activating\n"}, 0,
			Service{Kind: Systemd, Name: "knarr.service"}},
		{"unit file but systemd does not run", map[string]string{"etc/systemd/system/knarr.service": ""}, nil, 0, Service{Kind: None}},
		{"OpenRC, started", map[string]string{"run/openrc/softlevel": "", "etc/init.d/knarr": ""},
			map[string]string{"rc-service knarr status": ""}, 0, Service{Kind: OpenRC, Name: "knarr"}},
		{"OpenRC, stopped", map[string]string{"run/openrc/softlevel": "", "etc/init.d/knarr": ""}, nil, 0, Service{Kind: None}},
		{"supervisor", map[string]string{"run/knarr/supervisor.pid": "5\n", "proc/5/stat": "5 (sh)" + stat,
			"proc/5/cmdline": "sh\x00/usr/local/bin/knarr-supervise\x00"}, nil, 0,
			Service{Kind: Supervisor, Process: process.Process{PID: 5, PPID: 1, Start: 4242, Comm: "sh", State: 'S',
				Args: []string{"sh", "/usr/local/bin/knarr-supervise"}}}},
		{"supervisor's pid belongs to another", map[string]string{"run/knarr/supervisor.pid": "5\n", "proc/5/stat": "5 (vi)" + stat,
			"proc/5/cmdline": "vi\x00"}, nil, 0, Service{Kind: None}},
		{"supervisor is gone", map[string]string{"run/knarr/supervisor.pid": "5\n"}, nil, 0, Service{Kind: None}},
		{"pid file cut short", map[string]string{"run/knarr/supervisor.pid": ""}, nil, 0, Service{Kind: None}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, _ := host(t, tc.files, tc.answers)
			got, err := h.Active(t.Context(), tc.pid)
			if err != nil || !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %+v, %v; want %+v", got, err, tc.want)
			}
		})
	}
}

func TestStopAndDisableUseTheServiceManager(t *testing.T) {
	for _, tc := range []struct {
		service Service
		answers map[string]string
		want    []string
	}{
		{Service{Kind: Systemd, Name: "knarr.service"},
			map[string]string{"systemctl stop knarr.service": "", "systemctl disable knarr.service": ""},
			[]string{"systemctl stop knarr.service", "systemctl disable knarr.service"}},
		{Service{Kind: OpenRC, Name: "knarr"},
			map[string]string{"rc-service knarr stop": "", "rc-update show": "   knarr | default\n", "rc-update del knarr": ""},
			[]string{"rc-service knarr stop", "rc-update show", "rc-update del knarr"}},
		{Service{Kind: None}, nil, nil},
	} {
		h, ran := host(t, nil, tc.answers)
		if err := h.Stop(t.Context(), tc.service); err != nil {
			t.Error(err)
		}
		if err := h.Disable(t.Context(), tc.service); err != nil {
			t.Error(err)
		}
		if !reflect.DeepEqual(*ran, tc.want) {
			t.Errorf("%s: ran %q, want %q", tc.service, *ran, tc.want)
		}
	}
	h, _ := host(t, nil, nil)
	if err := h.Stop(t.Context(), Service{Kind: Systemd, Name: "knarr.service"}); err == nil {
		t.Error("a systemctl that fails gave no error")
	}
}

func TestGoingDown(t *testing.T) {
	const systemd, openrc = "run/systemd/system/x", "run/openrc/softlevel"
	for _, tc := range []struct {
		name    string
		files   map[string]string
		answers map[string]string
		want    bool
	}{
		{"no service manager", nil, nil, false},
		{"systemd, running", map[string]string{systemd: ""}, map[string]string{"systemctl is-system-running": "running\n"}, false},
		{"systemd, a unit has failed", map[string]string{systemd: ""}, map[string]string{"systemctl is-system-running": "degraded\n"}, false},
		{"systemd, going down", map[string]string{systemd: ""}, map[string]string{"systemctl is-system-running": "stopping\n"}, true},
		{"systemd that does not answer", map[string]string{systemd: ""}, nil, false},
		{"OpenRC, running", map[string]string{openrc: "default\n"}, nil, false},
		{"OpenRC, going down", map[string]string{openrc: "shutdown\n"}, nil, true},
		{"OpenRC, restarting", map[string]string{openrc: "reboot"}, nil, true},
	} {
		h, _ := host(t, tc.files, tc.answers)
		if got := h.GoingDown(t.Context()); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

// role makes the test executable play the background supervisor.
const role = "KNARR_TEST_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(role) == "supervisor" {
		asked := make(chan os.Signal, 1)
		signal.Notify(asked, unix.SIGTERM)
		fmt.Println("ready")
		<-asked
		os.Exit(7)
	}
	os.Exit(m.Run())
}

func TestStopEndsTheSupervisor(t *testing.T) {
	cmd := bed.Again(t, role+"=supervisor", "knarr-supervise")
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	h, _ := host(t, map[string]string{"run/knarr/supervisor.pid": fmt.Sprintln(cmd.Process.Pid)}, nil)
	h.Table = process.Table{}
	s, err := h.Active(t.Context(), 0)
	if err != nil || s.Kind != Supervisor {
		t.Fatalf("got %v, %v; want the supervisor", s, err)
	}
	if err := h.Stop(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := <-ended; !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("the supervisor ended with %v, want its own exit 7 after SIGTERM", err)
	}
}
