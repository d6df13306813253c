package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/pkg/control"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/process"
	"github.com/knarr-io/knarr/pkg/service"
	"github.com/knarr-io/knarr/pkg/shutdown"
	"github.com/knarr-io/knarr/pkg/uninstall"
)

// stopTimeout is how long a stop may take before `knarr stop` reports failure;
// every component has a shorter grace than this.
const stopTimeout = 2 * time.Minute

func stopCommand(env Env) *cli.Command {
	return &cli.Command{
		Name:  "stop",
		Usage: "Stop knarr on this host; its pods go on running",
		Description: "Stops the running knarr process through its service, so that it is not started again,\n" +
			"and waits until it has ended. Pods go on running and are taken over by the next start.\n" +
			"With --all the pods are stopped too, those of low priority first: their preStop hooks run,\n" +
			"then SIGTERM, then SIGKILL after the grace that each asks for; their mounts, links and\n" +
			"network namespaces are removed. Data and configuration stay, and the next start starts\n" +
			"the pods again.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Aliases: []string{"pods"}, Usage: "stop the pods of this node too"},
			&cli.DurationFlag{Name: "grace", Usage: "with --all: longest `TIME` that a pod has to end, whatever it asks for"},
			&cli.DurationFlag{Name: "timeout", Value: stopTimeout, Usage: "`TIME` after which to give up waiting for knarr; longer with --all"},
			dataDirFlag(), runDirFlag(),
		},
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			if c.Duration("grace") < 0 || c.Duration("timeout") <= 0 {
				return usagef("--grace must not be negative, and --timeout must be positive")
			}
			data := dataDir(c, env) // to be asked while knarr still runs
			s := newStopper(env, c.String("run-dir"), c.Duration("timeout"))
			if !c.Bool("all") {
				return s.stop(c.Context)
			}
			if !c.IsSet("timeout") {
				s.timeout += shutdown.Longest
			}
			s.all, s.grace = true, c.Duration("grace")
			if err := s.stop(c.Context); err != nil {
				return err
			}
			layout := uninstall.DefaultLayout()
			layout.Root, layout.RunDir, layout.DataDir = env.Root, c.String("run-dir"), data
			return stopPods(c.Context, env, layout, cmp.Or(c.Duration("grace"), killGrace))
		},
	}
}

func dataDirFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "data-dir", Aliases: []string{"d"}, Value: uninstall.DefaultLayout().DataDir,
		EnvVars: []string{"KNARR_DATA_DIR"}, Usage: "`DIR` of knarr's state",
	}
}

// killGrace is what containers get between SIGTERM and SIGKILL where knarr did not run, so that nobody knows what they
// ask for.
const killGrace = 30 * time.Second

// stopPods ends the pods that run without knarr and removes what all of them leave.
func stopPods(ctx context.Context, env Env, layout uninstall.Layout, grace time.Duration) error {
	plan, err := uninstall.Find(ctx, layout, uninstall.ScopePods)
	if err != nil {
		return failf("look for pods: %w", err)
	}
	report := plan.Execute(ctx, uninstall.Options{Grace: grace, Progress: env.Stdout})
	return reportError(env, report, "stopped all pods of this node")
}

// stopper stops the process of one run directory.
type stopper struct {
	env     Env
	dir     string
	timeout time.Duration
	// all has the pods ended too, each within grace, unless that is 0.
	all    bool
	grace  time.Duration
	client *control.Client
	table  process.Table
	host   service.Host

	target process.Process
	// last is the newest status that was had; it goes on being useful when the
	// socket has closed already.
	last control.Status
}

func newStopper(env Env, runDir string, timeout time.Duration) *stopper {
	dir := env.path(runDir)
	return &stopper{env: env, dir: dir, timeout: timeout, client: control.NewClient(dir),
		host: service.Host{Root: env.Root, RunDir: runDir}}
}

// stop ends the running process and whatever would start it again. When nothing
// runs it says so and is content.
func (s *stopper) stop(ctx context.Context) error {
	running, err := s.find(ctx)
	if err != nil {
		return err
	}
	active, err := s.host.Active(ctx, s.target.PID)
	if err != nil {
		return failf("find knarr's service: %w", err)
	}
	if !running && active.Kind == service.None {
		s.say("knarr is not running on this host\n")
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	began := time.Now()
	asked := make(chan error, 1)
	go func() { asked <- s.ask(ctx, active, running) }()
	if err := s.wait(ctx, asked, running, began); err != nil {
		return err
	}
	what := fmt.Sprintf("knarr (pid %d)", s.target.PID)
	if !running {
		what = active.String()
	}
	took := time.Since(began).Seconds()
	if s.all {
		s.say("stopped %s and its pods after %.1f s\n", what, took)
	} else {
		s.say("stopped %s after %.1f s; its pods go on running\n", what, took)
	}
	return nil
}

// find learns which process runs: from the socket, else from the locked pid file.
func (s *stopper) find(ctx context.Context) (running bool, err error) {
	pid := 0
	s.last, err = s.client.Status(ctx)
	if err == nil {
		pid = s.last.PID
	} else {
		socketErr := err
		pid, err = control.LockedPID(s.dir)
		if errors.Is(err, control.ErrNotRunning) && errors.Is(socketErr, control.ErrNotRunning) {
			return false, nil
		}
		if err != nil {
			return false, failf("find the running knarr: %w", errors.Join(socketErr, err))
		}
	}
	s.target, err = s.table.Get(pid)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // ended meanwhile
	}
	if err != nil {
		return false, failf("find the running knarr: %w", err)
	}
	return true, nil
}

// ask makes the service give knarr up, then asks the process itself; SIGTERM
// does when the socket does not answer.
func (s *stopper) ask(ctx context.Context, active service.Service, running bool) error {
	if s.all && running {
		if err := s.client.EndPods(ctx, s.grace); err != nil {
			s.say("knarr cannot end the pods itself (%v): they end without their hooks\n", err)
		}
	}
	if err := s.host.Stop(ctx, active); err != nil {
		return err
	}
	if !running || !s.table.Alive(s.target) {
		return nil
	}
	_, err := s.client.Stop(ctx)
	if err == nil {
		return nil
	}
	return s.table.Signal(s.target, unix.SIGTERM)
}

// progressEvery is how often the state of a stop is looked at.
const progressEvery = 200 * time.Millisecond

// wait blocks until the process has ended and the service has given it up.
func (s *stopper) wait(ctx context.Context, asked <-chan error, running bool, began time.Time) error {
	progress := progressLine{env: s.env}
	defer progress.end()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for pending := true; pending || running && s.table.Alive(s.target); {
		select {
		case err := <-asked:
			if err != nil {
				return failf("stop knarr: %w", err)
			}
			pending, asked = false, nil
		case <-ctx.Done():
			return s.gaveUp(ctx)
		case <-tick.C:
			if status, err := s.client.Status(ctx); err == nil {
				s.last = status
			}
			progress.show(fmt.Sprintf("stopping knarr (pid %d), %s", s.target.PID, s.slow()), time.Since(began))
		}
	}
	return nil
}

// slow names the components that have not ended yet.
func (s *stopper) slow() string {
	var stopping, others []string
	for _, c := range s.last.Components {
		switch c.State {
		case lifecycle.Stopping:
			stopping = append(stopping, c.Name)
		case lifecycle.Stopped, lifecycle.Failed:
		default:
			others = append(others, c.Name)
		}
	}
	switch {
	case len(stopping) > 0:
		return "waiting for " + strings.Join(stopping, ", ")
	case s.last.Stopping && len(others) > 0:
		return "waiting for " + strings.Join(others, ", ")
	default:
		return "waiting for the process to end"
	}
}

func (s *stopper) gaveUp(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return failf("interrupted; knarr (pid %d) may still be stopping", s.target.PID)
	}
	return failf("knarr (pid %d) has not ended within %s, %s. `kill -9 %d` ends it without loss of what was acknowledged",
		s.target.PID, s.timeout, s.slow(), s.target.PID)
}

func (s *stopper) say(format string, args ...any) {
	// Output that nobody reads any more must not keep a stop from being done.
	_, _ = fmt.Fprintf(s.env.Stdout, format, args...)
}

// progressLine shows what is waited for: one line that is rewritten on a
// terminal, a new line per change otherwise.
type progressLine struct {
	env   Env
	shown string
}

// progressAfter is how long all may take before progress is worth a line.
const progressAfter = time.Second

func (p *progressLine) show(text string, elapsed time.Duration) {
	if elapsed < progressAfter {
		return
	}
	if _, ok := terminal(p.env.Stderr); ok {
		p.write(fmt.Sprintf("\r\x1b[K%s (%s)", text, age(elapsed)))
	} else if text != p.shown {
		p.write(text + "\n")
	}
	p.shown = text
}

func (p *progressLine) end() {
	if _, ok := terminal(p.env.Stderr); ok && p.shown != "" {
		p.write("\r\x1b[K")
	}
}

func (p *progressLine) write(text string) {
	// As with every word of progress: when nobody reads it, go on.
	_, _ = io.WriteString(p.env.Stderr, text)
}
