package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/knarr-io/knarr/pkg/control"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/tests/golden"
)

func sampleStatus(now time.Time) control.Status {
	since := now.Add(-95 * time.Second)
	return control.Status{
		Version: "v1.37.1+knarr1", PID: 4711, StartTime: since, Role: "server", NodeName: "node-1", DataDir: "/var/lib/knarr",
		Endpoint:  "https://127.0.0.1:6443",
		Datastore: &control.Datastore{Kind: "sqlite", SizeBytes: 5 << 20, Revision: 1234},
		Components: []lifecycle.Status{
			{Name: "control", State: lifecycle.Ready, Since: since},
			{Name: "datastore", State: lifecycle.Ready, Since: since},
			{Name: "kube-apiserver", State: lifecycle.Degraded, Since: now.Add(-3 * time.Second),
				LastError: "check /readyz: the server is currently unable to handle the request because etcd did not answer within 2s"},
			{Name: "kubelet", State: lifecycle.Waiting, Since: since, WaitingFor: []string{"containerd", "kube-apiserver"}},
			{Name: "cloud-controller-manager", State: lifecycle.Failed, Since: now.Add(-26 * time.Hour), LastError: "boom", Optional: true},
		},
	}
}

func TestStatusTable(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	text := statusText(sampleStatus(now), now, false)
	golden.Check(t, filepath.Join("testdata", "status.txt"), text)
	for _, line := range strings.Split(text, "\n") {
		if len(line) > terminalWidth {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
	coloured := statusText(sampleStatus(now), now, true)
	if plain := strings.NewReplacer("\x1b[0m", "", "\x1b[32m", "", "\x1b[31m", "", "\x1b[33m", "", "\x1b[2m", "").Replace(coloured); plain != text || coloured == text {
		t.Errorf("colours change the text:\n%s", plain)
	}
}

func TestStatusCommand(t *testing.T) {
	c := newCommand(t)
	want := sampleStatus(time.Now())
	c.serve(t, func() control.Status { return want }, func() {})
	if code := c.run(t, statusCommand); code != 1 {
		t.Errorf("exit code %d with components that are not ready, want 1", code)
	}
	contains(t, c.stdout.String(), "knarr v1.37.1+knarr1 server on node node-1, pid 4711", "waits for containerd,")
	contains(t, c.stderr.String(), "not ready: kube-apiserver, kubelet")
	if strings.Contains(c.stderr.String(), "cloud-controller-manager") {
		t.Error("an optional component counts as not ready")
	}
	if strings.Contains(c.stdout.String(), "\x1b") {
		t.Error("escape sequences without a terminal")
	}

	for i := range want.Components {
		want.Components[i].State = lifecycle.Ready
	}
	if code := c.run(t, statusCommand, "-o", "json"); code != 0 {
		t.Errorf("exit code %d with all ready, want 0: %s", code, &c.stderr)
	}
	var got control.Status
	if err := json.Unmarshal(c.stdout.Bytes(), &got); err != nil || len(got.Components) != len(want.Components) || got.PID != 4711 {
		t.Errorf("json gave %+v, %v", got, err)
	}
}

func TestStatusWithoutServer(t *testing.T) {
	c := newCommand(t)
	var log strings.Builder
	for i := range 40 {
		fmt.Fprintf(&log, "line %d\n", i)
	}
	c.file(t, "var/log/knarr.log", log.String())
	if code := c.run(t, statusCommand); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	contains(t, c.stderr.String(), "knarr is not running on this host", "knarr server", "line 30\n", "line 39")
	if strings.Contains(c.stderr.String(), "line 29\n") {
		t.Errorf("more than the last lines of the log:\n%s", &c.stderr)
	}
	c.file(t, "run/systemd/system/x", "")
	c.run(t, statusCommand)
	contains(t, c.stderr.String(), "journalctl -u knarr")
}

func TestStatusUsage(t *testing.T) {
	for _, args := range [][]string{{"-o", "yaml"}, {"extra"}} {
		c := newCommand(t)
		if code := c.run(t, statusCommand, args...); code != 2 {
			t.Errorf("%q: exit code %d, want 2: %s", args, code, &c.stderr)
		}
	}
}

func TestAgeAndSize(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 59 * time.Second: "59s", 90 * time.Second: "1m30s", 3*time.Hour + 5*time.Minute: "3h5m", 100 * time.Hour: "4d4h",
	} {
		if got := age(d); got != want {
			t.Errorf("age(%s) = %s, want %s", d, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 200 << 20: "200 MiB"} {
		if got := bytesText(n); got != want {
			t.Errorf("bytesText(%d) = %s, want %s", n, got, want)
		}
	}
}

func TestExitCode(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want int
	}{{nil, 0}, {errors.New("x"), 1}, {failf("x"), 1}, {usagef("x"), 2}, {fmt.Errorf("y: %w", usagef("x")), 2}} {
		if got := ExitCode(tc.err); got != tc.want {
			t.Errorf("ExitCode(%v) = %d, want %d", tc.err, got, tc.want)
		}
	}
}

func TestAddonsText(t *testing.T) {
	trouble := func(n int) *control.Addons {
		a := &control.Addons{Total: 9}
		for i := range n {
			a.Trouble = append(a.Trouble, control.Addon{Name: fmt.Sprintf("web-%d", i), State: "Failed", Message: "web.yaml document 2, line 14: Deployment default/web: spec.replicas: must be a number"})
		}
		return a
	}
	tests := []struct {
		name   string
		addons *control.Addons
		want   string
	}{
		{"an agent", nil, ""},
		{"all well", trouble(0), "9, all ready"},
		{"one is not", trouble(1), `9, 1 of them not ready
               web-0 is Failed: web.yaml document 2, line 14: Deployment
                 default/web: spec.replicas: must be a number`},
	}
	for _, tt := range tests {
		if got := addonsText(tt.addons); got != tt.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tt.name, got, tt.want)
		}
	}
	if got := addonsText(trouble(9)); strings.Count(got, "Failed") != 5 || !strings.HasSuffix(got, "all of them: knarr kubectl get addons -A") {
		t.Errorf("many in trouble:\n%s", got)
	}
}
