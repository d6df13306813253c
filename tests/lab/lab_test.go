package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// limit is how long anything in these tests may take.
func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func mustExec(t *testing.T, h *Host, args ...string) string {
	t.Helper()
	out, err := h.Exec(limit(t), args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func TestHostIsAWorldOfItsOwn(t *testing.T) {
	h := ForTest(t).Host(t, "alpha", Options{})
	for _, c := range []struct{ what, cmd, want string }{
		{"hostname", "hostname", "alpha"},
		{"hostname file", "cat /etc/hostname", "alpha"},
		{"address", "ip -4 -br addr show eth0 | tr -s ' ' | cut -d' ' -f3", "198.18.0.10/16"},
		{"links", "ls /sys/class/net | tr '\\n' ' '", "eth0 lo"},
		{"no uplink", "ip route get 203.0.113.1 | head -1 | cut -d' ' -f3", "198.18.0.1"},
		{"pid 1", "cat /proc/1/comm", "labinit"},
		{"cgroup root", "grep -v -e ':/$' -e '^0::/init$' /proc/1/cgroup || true", ""},
		{"nothing of the machine mounted", "grep -c machine /proc/self/mountinfo || true", "0"},
		{"empty /var/lib", "ls /var/lib", ""},
	} {
		if got := mustExec(t, h, "sh", "-c", c.cmd); got != c.want {
			t.Errorf("%s: %s gives %q, want %q", c.what, c.cmd, got, c.want)
		}
	}
}

func TestChangesStayInTheHost(t *testing.T) {
	h := ForTest(t).Host(t, "alpha", Options{})
	for _, path := range []string{"/etc/knarr-lab-test", "/usr/local/bin/knarr-lab-test", "/var/lib/x/y", "/run/z"} {
		if err := h.WriteFile(path, []byte("here"), 0o644); err != nil {
			t.Fatal(err)
		}
		if b, err := h.ReadFile(path); err != nil || string(b) != "here" {
			t.Errorf("%s in the host is %q, %v", path, b, err)
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s came out of the host: %v", path, err)
		}
	}
}

func TestProcessesLiveInTheHostsCgroups(t *testing.T) {
	h := ForTest(t).Host(t, "alpha", Options{})
	p, err := h.Start(Cmd{Args: []string{"sleep", "600"}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if !strings.Contains(line, "/"+h.slice()) {
			t.Errorf("outside of the host's cgroup: %s", line)
		}
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(limit(t)); code != -1 || err != nil {
		t.Errorf("a killed process ends with %d, %v; want -1", code, err)
	}
}

func TestExecReportsFailure(t *testing.T) {
	h := ForTest(t).Host(t, "alpha", Options{})
	_, err := h.Exec(limit(t), "sh", "-c", "echo wrong >&2; exit 3")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(err.Error(), "wrong") {
		t.Errorf("exit 3 gives %v", err)
	}
	if _, err := h.Exec(limit(t), "no-such-program"); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("an unknown program gives %v", err)
	}
}

// serveHello answers HTTP from inside a host until the test ends.
func serveHello(t *testing.T, h *Host) {
	t.Helper()
	l, err := h.Listen("tcp", h.Addr().String()+":8080")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "hello from "+h.Name())
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
}

func get(h *Host, url string) (string, error) {
	r, err := h.HTTPClient(2 * time.Second).Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return string(b), err
}

func TestHostsSpeakUntilPartitioned(t *testing.T) {
	l := ForTest(t)
	a, b := l.Host(t, "alpha", Options{}), l.Host(t, "beta", Options{})
	serveHello(t, b)
	url := "http://" + b.Addr().String() + ":8080/"
	reach := func() error {
		s, err := get(a, url)
		if err == nil && s != "hello from beta" {
			err = fmt.Errorf("beta says %q", s)
		}
		return err
	}
	if err := Poll(limit(t), 50*time.Millisecond, reach); err != nil {
		t.Fatal(err)
	}
	if err := b.Partition(); err != nil {
		t.Fatal(err)
	}
	if err := reach(); err == nil {
		t.Error("beta answers although its cable is out")
	}
	if err := b.Heal(); err != nil {
		t.Fatal(err)
	}
	if err := Poll(limit(t), 50*time.Millisecond, reach); err != nil {
		t.Errorf("after the cable is in again: %v", err)
	}
}

// TestLANHasNoUplink looks at the links only: nothing is sent.
func TestLANHasNoUplink(t *testing.T) {
	l := ForTest(t)
	l.Host(t, "alpha", Options{})
	nl, err := netlink.NewHandleAt(l.lan)
	if err != nil {
		t.Fatal(err)
	}
	defer nl.Close()
	links, err := nl.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, link := range links {
		names = append(names, link.Attrs().Name)
	}
	if want := []string{"lo", bridgeName, "host0"}; !slices.Equal(names, want) {
		t.Errorf("the LAN has the links %v, want %v", names, want)
	}
}

func TestDiskOutlivesACrash(t *testing.T) {
	h := ForTest(t).Host(t, "alpha", Options{})
	p, err := h.Start(Cmd{Args: []string{"sleep", "600"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"/etc/kept", "/var/lib/kept", "/run/lost"} {
		if err := h.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mustExec(t, h, "ip", "link", "add", "dummybridge", "type", "bridge")
	if err := h.Crash(); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if _, err := h.Exec(limit(t), "true"); err == nil {
		t.Error("a crashed host runs commands")
	}
	if err := h.Boot(limit(t)); err != nil {
		t.Fatal(err)
	}
	if got := mustExec(t, h, "sh", "-c", "ls /etc/kept /var/lib/kept /run; ls /sys/class/net"); got != "/etc/kept\n/var/lib/kept\n\n/run:\neth0\nlo" {
		t.Errorf("after a crash the host has %q", got)
	}
}

func TestBareHostHasOnlyAShellAndCoreutils(t *testing.T) {
	h := ForTest(t).Host(t, "bare", Options{Bare: true})
	if got := mustExec(t, h, "sh", "-c", "ls / | tr '\\n' ' '"); got != "bin dev etc proc root run sys tmp var" {
		t.Errorf("a bare host's root holds %s", got)
	}
	for _, name := range []string{"mount", "ip", "nft", "iptables", "runc", "modprobe", "conntrack", "ld.so"} {
		if _, err := h.Exec(limit(t), name); !errors.Is(err, exec.ErrNotFound) {
			t.Errorf("a bare host has %s (%v)", name, err)
		}
	}
}

func TestOrphansAreBuried(t *testing.T) {
	h := ForTest(t).Host(t, "alpha", Options{})
	// Each shell leaves a child behind that dies after its parent.
	mustExec(t, h, "sh", "-c", "for i in 1 2 3 4 5; do sh -c '(sleep 0.2 &)'; done")
	err := Poll(limit(t), 50*time.Millisecond, func() error {
		out := mustExec(t, h, "sh", "-c", "grep -l '^State:.Z' /proc/[0-9]*/status; pgrep -x sleep; true")
		if out != "" {
			return fmt.Errorf("still there: %s", out)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestSweepRemovesADeadLab leaves a lab behind as a killed process does: its
// directory and cgroups are there, the lock is not.
func TestSweepRemovesADeadLab(t *testing.T) {
	base := t.TempDir()
	t.Setenv("KNARR_LAB_DIR", base)
	dead := filepath.Join(base, "999999999-dead")
	if err := os.MkdirAll(dead, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dead, ownerFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	trees, err := hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	slice := cgroupPrefix + "999999999-dead-alpha"
	for _, h := range trees {
		if err := h.slice(slice); err != nil {
			t.Fatal(err)
		}
	}
	alive := ForTest(t)
	again := ForTest(t)
	for _, dir := range []string{alive.Dir(), again.Dir()} {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("a living lab was swept: %v", err)
		}
	}
	if _, err := os.Stat(dead); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the dead lab's directory is still there (%v)", err)
	}
	for _, h := range trees {
		if _, err := os.Stat(filepath.Join(h.dir, slice)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the dead lab's cgroup is still in %s (%v)", h.dir, err)
		}
	}
}

func TestNothingStaysBehind(t *testing.T) {
	l, err := New(limit(t))
	if err != nil {
		t.Fatal(err)
	}
	h, err := l.AddHost(limit(t), "alpha", Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := h.Start(Cmd{Args: []string{"sleep", "600"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	left, err := filepath.Glob("/sys/fs/cgroup/*/" + l.prefix + "*")
	if err != nil || len(left) != 0 {
		t.Errorf("cgroups left: %v %v", left, err)
	}
	if _, err := os.Stat(l.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory left: %v", err)
	}
}

func TestParseHierarchy(t *testing.T) {
	for _, c := range []struct {
		line string
		want hierarchy
		ok   bool
	}{
		{"30 29 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory", hierarchy{dir: "/sys/fs/cgroup/memory", options: "memory"}, true},
		{"30 29 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct", hierarchy{dir: "/sys/fs/cgroup/cpu,cpuacct", options: "cpu,cpuacct"}, true},
		{"30 29 0:26 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd", hierarchy{dir: "/sys/fs/cgroup/systemd", options: "none,name=systemd"}, true},
		{"30 29 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate", hierarchy{dir: "/sys/fs/cgroup", v2: true}, true},
		{"30 29 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw", hierarchy{}, false},
		{"30 29 0:26 / /mnt/x rw - cgroup cgroup rw,memory", hierarchy{}, false},
	} {
		if got, ok := parseHierarchy(c.line); ok != c.ok || got != c.want {
			t.Errorf("%s\ngives %+v %v, want %+v %v", c.line, got, ok, c.want, c.ok)
		}
	}
}
