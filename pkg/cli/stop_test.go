package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/knarr-io/knarr/pkg/control"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/tests/bed"
)

// role makes the test executable play a knarr process, see play.
const role = "KNARR_TEST_ROLE"

func TestMain(m *testing.M) {
	switch as := os.Getenv(role); as {
	case "":
	case "complete":
		app := &cli.App{Name: "knarr", Commands: completed(SystemEnv())}
		os.Exit(ExitCode(app.Run(os.Args)))
	default:
		play(as, os.Args[1])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// play is a knarr process with the run directory dir: "polite" stops when it is
// asked on its socket, "stuck" never does, and "deaf" has a locked pid file and no
// socket, and heeds SIGTERM alone.
func play(as, dir string) {
	stopping := make(chan struct{})
	server := control.New(control.Config{
		Dir: dir, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Stop: func() { close(stopping) }, EndPods: func(grace time.Duration) {
			if err := os.WriteFile(filepath.Join(dir, "ends-pods"), []byte(grace.String()), 0o600); err != nil {
				panic(err)
			}
		},
		Status: func() control.Status {
			return control.Status{PID: os.Getpid(), DataDir: "/var/lib/elsewhere", Components: []lifecycle.Status{
				{Name: "datastore", State: lifecycle.Ready}, {Name: "kubelet", State: lifecycle.Stopping}}}
		},
	})
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM)
	if err := server.Prepare(context.Background()); err != nil {
		panic(err)
	}
	if as == "deaf" {
		fmt.Println("ready")
		<-asked
		return
	}
	served := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { served <- server.Run(ctx, func() { fmt.Println("ready") }) }()
	<-stopping
	if as == "stuck" {
		select {}
	}
	cancel()
	if err := <-served; err != nil {
		panic(err)
	}
}

// running starts the test executable as a knarr process of the command's host. The
// channel gives the end of it.
func (c *command) running(t *testing.T, as string) (pid int, ended <-chan struct{}) {
	t.Helper()
	cmd := bed.Again(t, role+"="+as, filepath.Join(c.root, "run/knarr"))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := cmd.Wait(); err != nil {
			t.Logf("%s knarr ended: %v", as, err)
		}
	}()
	t.Cleanup(func() {
		// It has mostly ended by now, which is what the tests want.
		_ = cmd.Process.Kill()
		<-done
	})
	return cmd.Process.Pid, done
}

func TestStopWaitsForTheEnd(t *testing.T) {
	for _, as := range []string{"polite", "deaf"} {
		t.Run(as, func(t *testing.T) {
			c := newCommand(t)
			pid, ended := c.running(t, as)
			if code := c.run(t, stopCommand); code != 0 {
				t.Fatalf("exit code %d: %s", code, &c.stderr)
			}
			contains(t, c.stdout.String(), fmt.Sprintf("stopped knarr (pid %d)", pid), "pods go on running")
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Error("stop returned before the process had ended")
			}
		})
	}
}

// The process is told to end the pods before it is told to stop. What the command does after that is not for a unit test:
// it looks at the links of whatever machine the test runs on.
func TestStopWithPods(t *testing.T) {
	for _, grace := range []time.Duration{0, 90 * time.Second} {
		c := newCommand(t)
		c.running(t, "polite")
		s := newStopper(Env{Stdout: &c.stdout, Stderr: &c.stderr, Root: c.root}, "/run/knarr", time.Minute)
		s.all, s.grace = true, grace
		if err := s.stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		contains(t, c.stdout.String(), "and its pods after")
		if got, err := os.ReadFile(filepath.Join(c.root, "run/knarr/ends-pods")); err != nil || string(got) != grace.String() {
			t.Errorf("grace %s arrived as %q, %v", grace, got, err)
		}
	}
}

func TestStopNamesTheSlowComponent(t *testing.T) {
	c := newCommand(t)
	pid, _ := c.running(t, "stuck")
	if code := c.run(t, stopCommand, "--timeout", "1500ms"); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	contains(t, c.stderr.String(), "has not ended within 1.5s, waiting for kubelet", fmt.Sprintf("kill -9 %d", pid))
}

func TestStopOfNothing(t *testing.T) {
	c := newCommand(t)
	if code := c.run(t, stopCommand); code != 0 {
		t.Errorf("exit code %d: %s", code, &c.stderr)
	}
	contains(t, c.stdout.String(), "knarr is not running on this host")
}

func TestStopUsage(t *testing.T) {
	for _, args := range [][]string{{"--timeout", "0s"}, {"--grace", "-1s"}, {"extra"}} {
		c := newCommand(t)
		pid, _ := c.running(t, "polite")
		if code := c.run(t, stopCommand, args...); code != 2 {
			t.Errorf("%q: exit code %d, want 2", args, code)
		}
		if got, err := control.LockedPID(filepath.Join(c.root, "run/knarr")); err != nil || got != pid {
			t.Errorf("%q: the process ended (%d, %v)", args, got, err)
		}
	}
}

func TestUninstallNeedsConsent(t *testing.T) {
	c := newCommand(t)
	c.file(t, "etc/knarr/config.yaml", "")
	c.file(t, "var/lib/elsewhere/server/token", "")
	pid, _ := c.running(t, "polite")
	for args, code := range map[string]int{"": 2, "--dry-run": 0} {
		if got := c.run(t, uninstallCommand, strings.Fields(args)...); got != code {
			t.Errorf("%q: exit code %d, want %d: %s", args, got, code, &c.stderr)
		}
		contains(t, c.stdout.String(), "/etc/knarr (configuration)", "/var/lib/elsewhere/server")
		if got, err := control.LockedPID(filepath.Join(c.root, "run/knarr")); err != nil || got != pid {
			t.Errorf("%q: knarr was stopped (%d, %v)", args, got, err)
		}
		if _, err := os.Stat(filepath.Join(c.root, "etc/knarr/config.yaml")); err != nil {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestUninstallAnswer(t *testing.T) {
	for answer, want := range map[string]int{"yes\n": 0, "y\n": 1, "\n": 1, "": 1, "no\n": 1} {
		var out strings.Builder
		err := ask(Env{Stdin: strings.NewReader(answer), Stdout: &out})
		if got := ExitCode(err); got != want {
			t.Errorf("answer %q gives exit code %d, want %d", answer, got, want)
		}
	}
}
