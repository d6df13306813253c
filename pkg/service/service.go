// Package service finds what keeps knarr running on this host (systemd, OpenRC,
// or the supervisor that install.sh starts where there is neither) and stops
// knarr through it, so that it is not started again at once.
//
// It does not install services: install.sh does. It holds nothing between calls
// and runs nothing in the background.
package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/pkg/process"
)

// Kind is what supervises knarr.
type Kind string

// The supervisors that install.sh knows.
const (
	Systemd    Kind = "systemd"
	OpenRC     Kind = "openrc"
	Supervisor Kind = "supervisor" // install.sh's own background process
	None       Kind = "none"       // in the foreground, or not running
)

// Service is one way by which knarr is kept running.
type Service struct {
	Kind Kind
	// Name is the unit or the init script, for example "knarr.service".
	Name string
	// Process is the background supervisor; only for Kind Supervisor.
	Process process.Process
}

// String names the service for a person.
func (s Service) String() string {
	switch s.Kind {
	case Systemd:
		return "systemd unit " + s.Name
	case OpenRC:
		return "OpenRC service " + s.Name
	case Supervisor:
		return "supervisor " + s.Process.String()
	default:
		return "no service"
	}
}

// Host is where to look; all of it can be replaced by a test.
type Host struct {
	// Root is put before every path; "" means "/".
	Root string
	// RunDir is knarr's run directory, /run/knarr when empty.
	RunDir string
	// Table reads the processes.
	Table process.Table
	// Run executes a program and returns its output; RunProgram when nil.
	Run func(ctx context.Context, name string, args ...string) (string, error)
}

// RunProgram executes a program of the host and returns what it printed. The
// error carries its standard error.
func RunProgram(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("run %s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), err
}

func (h Host) run(ctx context.Context, name string, args ...string) (string, error) {
	if h.Run != nil {
		return h.Run(ctx, name, args...)
	}
	return RunProgram(ctx, name, args...)
}

func (h Host) path(elem ...string) string {
	return filepath.Join(append([]string{"/", h.Root}, elem...)...)
}

func (h Host) exists(elem ...string) bool {
	_, err := os.Stat(h.path(elem...))
	return err == nil
}

// SupervisorPIDPath is the pid file that install.sh's supervisor writes.
func (h Host) SupervisorPIDPath() string {
	dir := h.RunDir
	if dir == "" {
		dir = "/run/knarr"
	}
	return h.path(dir, "supervisor.pid")
}

// Active returns the service that runs, or would at once restart, knarr. pid is
// the knarr process, 0 when there is none: a unit that waits to restart a crashed
// process is active too. The result has Kind None when there is none.
func (h Host) Active(ctx context.Context, pid int) (Service, error) {
	for _, look := range []func(context.Context, int) (Service, error){h.systemd, h.openrc, h.supervisor} {
		found, err := look(ctx, pid)
		if err != nil || found.Kind != None {
			return found, err
		}
	}
	return Service{Kind: None}, nil
}

// Installed returns the services whose files exist, whether they run or not.
func (h Host) Installed() []Service {
	var found []Service
	for _, look := range []struct {
		kind    Kind
		present bool
		pattern string
	}{
		{Systemd, h.exists("run/systemd/system"), "etc/systemd/system/knarr*.service"},
		{Systemd, h.exists("run/systemd/system"), "usr/local/lib/systemd/system/knarr*.service"},
		{Systemd, h.exists("run/systemd/system"), "usr/lib/systemd/system/knarr*.service"},
		{OpenRC, h.exists("run/openrc"), "etc/init.d/knarr*"},
	} {
		if !look.present {
			continue
		}
		// The pattern is constant, so Glob cannot fail.
		files, _ := filepath.Glob(h.path(look.pattern))
		for _, file := range files {
			found = append(found, Service{Kind: look.kind, Name: filepath.Base(file)})
		}
	}
	return found
}

func (h Host) systemd(ctx context.Context, pid int) (Service, error) {
	if !h.exists("run/systemd/system") {
		return Service{Kind: None}, nil
	}
	if unit := h.unitOf(pid); unit != "" {
		return Service{Kind: Systemd, Name: unit}, nil
	}
	for _, s := range h.Installed() {
		if s.Kind != Systemd {
			continue
		}
		out, err := h.run(ctx, "systemctl", "show", "--property=ActiveState", "--value", s.Name)
		if err != nil {
			return Service{}, fmt.Errorf("ask systemd for %s: %w", s.Name, err)
		}
		switch strings.TrimSpace(out) {
		case "inactive", "failed", "":
		default:
			return s, nil
		}
	}
	return Service{Kind: None}, nil
}

// unitPattern finds the service unit in a line of /proc/PID/cgroup.
const unitPattern = `/([^/\n]+\.service)(?:/|$)`

// unitOf returns the systemd unit a process belongs to, "" when it is a login
// session or none. The cgroup is asked, not the name: with INSTALL_KNARR_NAME
// the unit is called knarr-NAME.
func (h Host) unitOf(pid int) string {
	if pid == 0 {
		return ""
	}
	root := h.Table.Root
	if root == "" {
		root = "/proc"
	}
	data, err := os.ReadFile(filepath.Join(root, strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return ""
	}
	pattern := regexp.MustCompile(unitPattern)
	for _, line := range strings.Split(string(data), "\n") {
		// user@1000.service holds a person's sessions; ssh.service and cron.service
		// started whoever started knarr.
		m := pattern.FindStringSubmatch(line)
		if m != nil && strings.Contains(m[1], "knarr") {
			return m[1]
		}
	}
	return ""
}

func (h Host) openrc(ctx context.Context, _ int) (Service, error) {
	for _, s := range h.Installed() {
		if s.Kind != OpenRC {
			continue
		}
		// rc-service ends with 0 when started, 3 when stopped, 32 when crashed.
		if _, err := h.run(ctx, "rc-service", s.Name, "status"); err == nil {
			return s, nil
		} else if errors.Is(err, exec.ErrNotFound) {
			return Service{}, fmt.Errorf("ask OpenRC for %s: %w", s.Name, err)
		}
	}
	return Service{Kind: None}, nil
}

func (h Host) supervisor(context.Context, int) (Service, error) {
	path := h.SupervisorPIDPath()
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Service{Kind: None}, nil
	}
	if err != nil {
		return Service{}, fmt.Errorf("read pid file of the supervisor: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return Service{Kind: None}, nil // cut short by a power cut: nobody is meant
	}
	p, err := h.Table.Get(pid)
	if errors.Is(err, fs.ErrNotExist) {
		return Service{Kind: None}, nil
	}
	if err != nil {
		return Service{}, err
	}
	// After a reboot the pid may be anybody's: only a command line that speaks of
	// knarr is the supervisor's.
	if !strings.Contains(strings.Join(p.Args, " "), "knarr") || p.State == 'Z' {
		return Service{Kind: None}, nil
	}
	return Service{Kind: Supervisor, Process: p}, nil
}

// GoingDown says whether the whole host is being shut down or restarted, as far as its service manager tells.
func (h Host) GoingDown(ctx context.Context) bool {
	switch {
	case h.exists("run/systemd/system"):
		// Its exit code is not 0 for any state but "running".
		out, _ := h.run(ctx, "systemctl", "is-system-running")
		return strings.TrimSpace(out) == "stopping"
	case h.exists("run/openrc"):
		level, err := os.ReadFile(h.path("run/openrc/softlevel"))
		return err == nil && (strings.TrimSpace(string(level)) == "shutdown" || strings.TrimSpace(string(level)) == "reboot")
	default:
		return false
	}
}

// supervisorWait is how long the background supervisor may take to pass the
// signal on and end; afterwards knarr is asked directly.
const supervisorWait = 5 * time.Second

// Stop stops knarr by way of its service and returns when the service has given
// it up; for Kind None it does nothing. The caller waits for the process itself.
func (h Host) Stop(ctx context.Context, s Service) error {
	switch s.Kind {
	case Systemd:
		if _, err := h.run(ctx, "systemctl", "stop", s.Name); err != nil {
			return fmt.Errorf("stop %s: %w", s, err)
		}
	case OpenRC:
		if _, err := h.run(ctx, "rc-service", s.Name, "stop"); err != nil {
			return fmt.Errorf("stop %s: %w", s, err)
		}
	case Supervisor:
		if err := h.Table.Signal(s.Process, unix.SIGTERM); err != nil {
			return fmt.Errorf("stop %s: %w", s, err)
		}
		wait, cancel := context.WithTimeout(ctx, supervisorWait)
		defer cancel()
		h.Table.Wait(wait, []process.Process{s.Process})
	}
	return nil
}

// GiveUp has the service manager not start this process again after its end, where no exit code says so: OpenRC. It does
// not wait, for the service manager waits for this process.
func (h Host) GiveUp(ctx context.Context) error {
	active, err := h.Active(ctx, os.Getpid())
	if err != nil || active.Kind != OpenRC {
		return err
	}
	cmd := exec.Command("rc-service", active.Name, "stop")
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("have OpenRC give up %s: %w", active.Name, err)
	}
	return nil
}

// Disable takes a service out of the boot sequence; its files stay.
func (h Host) Disable(ctx context.Context, s Service) error {
	var err error
	switch s.Kind {
	case Systemd:
		_, err = h.run(ctx, "systemctl", "disable", s.Name)
	case OpenRC:
		// rc-update fails for a service that is in no runlevel, which is what is wanted.
		out, _ := h.run(ctx, "rc-update", "show")
		if strings.Contains(out, " "+s.Name+" ") {
			_, err = h.run(ctx, "rc-update", "del", s.Name)
		}
	}
	if err != nil {
		return fmt.Errorf("disable %s: %w", s, err)
	}
	return nil
}

// Forget makes the supervisor notice that files of services are gone.
func (h Host) Forget(ctx context.Context) error {
	if !h.exists("run/systemd/system") {
		return nil
	}
	if _, err := h.run(ctx, "systemctl", "daemon-reload"); err != nil {
		return fmt.Errorf("reload systemd: %w", err)
	}
	return nil
}
