package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/tests/apart"
)

// Do runs f on a thread inside all of the host's namespaces: its files, its
// network, its host name. Only what f does itself is inside, not what it hands
// to other goroutines. f's /proc is that of the host, where this process is not.
func (h *Host) Do(f func() error) error { return h.enter(namespaces, f) }

// cloneFlag is the kind that setns(2) is to insist on.
var cloneFlag = map[string]int{"net": unix.CLONE_NEWNET, "uts": unix.CLONE_NEWUTS, "ipc": unix.CLONE_NEWIPC,
	"cgroup": unix.CLONE_NEWCGROUP, "pid": unix.CLONE_NEWPID, "mnt": unix.CLONE_NEWNS}

func (h *Host) enter(kinds []string, f func() error) error {
	return apart.OnThread(func() error { return h.enterHere(kinds, f) })
}

// enterHere enters namespaces on the calling thread, which must end afterwards.
func (h *Host) enterHere(kinds []string, f func() error) error {
	fds, err := h.namespaceFDs(kinds)
	if err != nil {
		return err
	}
	defer closeAll(fds)
	// Threads share root and working directory, unless told otherwise.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare working directory: %w", err)
	}
	for i, kind := range kinds {
		if err := unix.Setns(fds[i], cloneFlag[kind]); err != nil {
			return fmt.Errorf("enter %s namespace of %s: %w", kind, h.name, err)
		}
	}
	return f()
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// namespaceFDs duplicates descriptors, so that a Crash meanwhile does no harm.
func (h *Host) namespaceFDs(kinds []string) ([]int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ns == nil {
		return nil, fmt.Errorf("host %s is down", h.name)
	}
	var fds []int
	for _, kind := range kinds {
		fd, err := unix.FcntlInt(uintptr(h.ns[kind]), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			closeAll(fds)
			return nil, fmt.Errorf("duplicate %s namespace: %w", kind, err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// Cmd is a command to run on a host.
type Cmd struct {
	Args           []string
	Env            []string // added to PATH and HOME, which every command has
	Dir            string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// start starts c inside the host, in a session of its own. The program is found
// in the host's PATH.
func (h *Host) start(ctx context.Context, c Cmd) (*exec.Cmd, error) {
	var cmd *exec.Cmd
	attr := &syscall.SysProcAttr{Setsid: true}
	err := apart.OnThread(func() error {
		// Cgroups are joined from outside, where all trees can be seen.
		return h.inCgroups(attr, func() error {
			return h.enterHere(namespaces, func() error {
				path, err := h.lookPath(c.Args[0])
				if err != nil {
					return err
				}
				cmd = exec.CommandContext(ctx, path, c.Args[1:]...)
				cmd.Args[0] = c.Args[0]
				cmd.SysProcAttr, cmd.Dir = attr, c.Dir
				cmd.Env = append([]string{"PATH=" + h.path, "HOME=/root", "TERM=dumb"}, c.Env...)
				cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
				return cmd.Start()
			})
		})
	})
	if err != nil {
		return nil, fmt.Errorf("start %s on %s: %w", strings.Join(c.Args, " "), h.name, err)
	}
	return cmd, nil
}

// lookPath is exec.LookPath for the host's PATH instead of this process's.
func (h *Host) lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(h.path) {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && !st.IsDir() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s: %w in %s", name, exec.ErrNotFound, h.path)
}

// Run runs c to its end. Without writers of its own its output goes into the
// returned string and, when it fails, standard error into the error, which
// wraps *exec.ExitError.
func (h *Host) Run(ctx context.Context, c Cmd) (string, error) {
	var out, errs bytes.Buffer
	if c.Stdout == nil {
		c.Stdout = &out
	}
	if c.Stderr == nil {
		c.Stderr = &errs
	}
	cmd, err := h.start(ctx, c)
	if err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%s on %s: %w\n%s", strings.Join(c.Args, " "), h.name, err, bytes.TrimSpace(errs.Bytes()))
	}
	return out.String(), nil
}

// Exec runs a command to its end and returns what it wrote to standard output.
func (h *Host) Exec(ctx context.Context, args ...string) (string, error) {
	return h.Run(ctx, Cmd{Args: args})
}

// Process is a command that runs in the background on a host.
type Process struct {
	cmd  *exec.Cmd
	log  string // on the machine
	done chan struct{}

	mu  sync.Mutex
	err error
}

// Start starts a command in the background. Its output goes to a file beside
// the host's disk, unless c has writers.
func (h *Host) Start(c Cmd) (*Process, error) {
	log, err := os.CreateTemp(h.Disk(), filepath.Base(c.Args[0])+"-*.log")
	if err != nil {
		return nil, fmt.Errorf("make log file: %w", err)
	}
	defer log.Close()
	if c.Stdout == nil {
		c.Stdout = log
	}
	if c.Stderr == nil {
		c.Stderr = log
	}
	cmd, err := h.start(context.Background(), c)
	if err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd, log: log.Name(), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		err := cmd.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.err = err
	}()
	return p, nil
}

// PID is the process's number outside the host.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to this process alone, not to its children.
func (p *Process) Signal(s os.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %d: %w", p.PID(), err)
	}
	return nil
}

// Kill ends this process alone with SIGKILL and waits for its end.
func (p *Process) Kill() error {
	err := p.Signal(unix.SIGKILL)
	<-p.done
	return err
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the process's end and returns its exit code, -1 after a signal.
func (p *Process) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.done:
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for %s: %w", p.cmd.Args[0], context.Cause(ctx))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var exit *exec.ExitError
	if p.err != nil && !errors.As(p.err, &exit) {
		return 0, p.err
	}
	return p.cmd.ProcessState.ExitCode(), nil
}

// Log is what the process has written so far.
func (p *Process) Log() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
