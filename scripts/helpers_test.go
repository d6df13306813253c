package scripts

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// compile builds one of the C helpers, without a C library as build-helpers does.
func compile(t *testing.T, name, out string) {
	t.Helper()
	cmd := exec.Command("gcc", "-Os", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie",
		"-o", out, filepath.Join("helpers", "c", name+".c"))
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compile %s: %v\n%s", name, err, msg)
	}
}

// pause is a pod's process 1: a signal that such a process has no handler for
// is lost, and whatever is orphaned there becomes its child.
func TestPause(t *testing.T) {
	program := filepath.Join(t.TempDir(), "pause")
	compile(t, "pause", program)
	for name, sig := range map[string]syscall.Signal{"SIGTERM": syscall.SIGTERM, "SIGINT": syscall.SIGINT} {
		t.Run(name, func(t *testing.T) {
			args := []string{"--pid", "--fork", "--kill-child", "--mount-proc"}
			if os.Geteuid() != 0 {
				args = append(args, "--user", "--map-root-user")
			}
			// One orphan ends before pause runs, another while it does.
			args = append(args, "sh", "-c", `(sleep 0.2 & sleep 0.01 &); exec "$0"`, program)
			cmd := exec.Command("unshare", args...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			pid := waitForChild(t, cmd.Process.Pid, program)
			waitFor(t, "all orphans to be reaped", func() bool { return len(children(t, pid)) == 0 })
			if err := syscall.Kill(pid, sig); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("pause ended with %v after %s, want 0", err, name)
			}
		})
	}
}

// waitForChild returns the child of pid that runs program.
func waitForChild(t *testing.T, pid int, program string) int {
	t.Helper()
	found := 0
	waitFor(t, program+" to run", func() bool {
		for _, child := range children(t, pid) {
			if exe, err := os.Readlink(filepath.Join("/proc", child, "exe")); err == nil && exe == program {
				found = pidOf(t, child)
			}
		}
		return found != 0
	})
	return found
}

func pidOf(t *testing.T, name string) int {
	t.Helper()
	pid, err := strconv.Atoi(name)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func children(t *testing.T, pid int) []string {
	t.Helper()
	p := filepath.Join("/proc", strconv.Itoa(pid), "task", strconv.Itoa(pid), "children")
	data, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(data))
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		case <-tick.C:
		}
	}
}

func setTimerSlack(t *testing.T, slack time.Duration) {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0); err != nil {
		t.Fatal(err)
	}
}

// launch finds the bundle by where it lies itself, and what to do by its name.
func TestLaunch(t *testing.T) {
	root := t.TempDir()
	echo := "#!/bin/sh\nprintf '%s' \"$0\"; printf ' [%s]' \"$@\"; printf ' env=%s' \"$MARK\"\n"
	err := errors.Join(
		os.MkdirAll(filepath.Join(root, "bin/aux"), 0o755),
		os.MkdirAll(filepath.Join(root, "bin/shim"), 0o755),
		os.MkdirAll(filepath.Join(root, "lib"), 0o755),
		os.WriteFile(filepath.Join(root, "bin/shim/containerd-shim-runc-v2"), []byte(echo+"cat /proc/self/timerslack_ns\n"), 0o755),
		os.WriteFile(filepath.Join(root, "lib/ld.so"), []byte(echo), 0o755),
		os.WriteFile(filepath.Join(root, "bin/aux/busybox"), []byte(echo), 0o755),
		os.Symlink("launch", filepath.Join(root, "bin/containerd-shim-runc-v2")),
		os.Symlink("launch", filepath.Join(root, "bin/nft")),
		os.Symlink("../launch", filepath.Join(root, "bin/aux/mount")),
		os.Symlink("launch", filepath.Join(root, "bin/other")))
	if err != nil {
		t.Fatal(err)
	}
	compile(t, "launch", filepath.Join(root, "bin/launch"))
	// What a child inherits is that of the thread that starts it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	setTimerSlack(t, 20*time.Millisecond)
	defer setTimerSlack(t, 0) // the default
	for _, c := range []struct {
		program string
		args    []string
		want    string
		code    int
	}{
		{"bin/containerd-shim-runc-v2", []string{"-namespace", "k8s.io", "start"},
			"ROOT/bin/shim/containerd-shim-runc-v2 [-namespace] [k8s.io] [start] env=150000\n", 0},
		{"bin/nft", []string{"-j", "list", ""},
			"ROOT/lib/ld.so [--inhibit-cache] [--library-path] [ROOT/lib] [ROOT/lib/nft] [-j] [list] [] env=1", 0},
		{"bin/nft", nil, "ROOT/lib/ld.so [--inhibit-cache] [--library-path] [ROOT/lib] [ROOT/lib/nft] env=1", 0},
		{"bin/aux/mount", []string{"--no-canonicalize", "-o", "bind", "/a b", "/c"},
			"ROOT/bin/aux/busybox [-o] [bind] [/a b] [/c] env=1", 0},
		{"bin/other", nil, "knarr: launch: called by a name it does not know\n", 127},
		{"bin/launch", nil, "knarr: launch: called by a name it does not know\n", 127},
	} {
		cmd := exec.Command(filepath.Join(root, c.program), c.args...)
		cmd.Env = []string{"MARK=1"}
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		want := strings.ReplaceAll(c.want, "ROOT", root)
		if string(out) != want || cmd.ProcessState.ExitCode() != c.code {
			t.Errorf("%s %q: %q, code %d, want %q, code %d", c.program, c.args, out, cmd.ProcessState.ExitCode(), want, c.code)
		}
	}
	if err := os.Remove(filepath.Join(root, "lib/ld.so")); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(filepath.Join(root, "bin/nft")).CombinedOutput(); err == nil || !strings.Contains(string(out), "cannot run the bundled nft") {
		t.Errorf("nft without its loader: %q, error %v", out, err)
	}
}
