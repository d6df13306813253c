package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"
)

// errNoProcess is what the kernel says of a process that has ended.
const errNoProcess = unix.ESRCH

// pollEvery is how often a wait looks again at processes it has no pidfd for,
// and how often it looks whether its context has ended.
const pollEvery = 50 * time.Millisecond

// Signal sends sig to p. A process that has already ended, or whose pid now
// belongs to another one, is left alone and is no error.
func (t Table) Signal(p Process, sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	switch {
	case errors.Is(err, unix.ESRCH):
		return nil
	case errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM):
		fd = -1 // kernel before 5.3, or a seccomp filter: the check below must do
	case err != nil:
		return fmt.Errorf("open process %d: %w", p.PID, err)
	default:
		defer unix.Close(fd)
	}
	// The pidfd is held by now, so a match here stays true for the signal.
	now, err := t.Get(p.PID)
	if errors.Is(err, fs.ErrNotExist) || err == nil && now.Start != p.Start {
		return nil
	}
	if err != nil {
		return err
	}
	if fd >= 0 {
		err = unix.PidfdSendSignal(fd, sig, nil, 0)
	} else {
		err = unix.Kill(p.PID, sig)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %s to %s: %w", unix.SignalName(sig), p, err)
	}
	return nil
}

// Wait blocks until every process has ended or ctx is done, and returns those
// that still live then.
func (t Table) Wait(ctx context.Context, processes []Process) []Process {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		var alive []Process
		for _, p := range processes {
			if t.Alive(p) {
				alive = append(alive, p)
			}
		}
		if len(alive) == 0 {
			return nil
		}
		processes = alive
		select {
		case <-ctx.Done():
			return alive
		case <-tick.C:
		}
	}
}

// End asks processes to end with SIGTERM, waits up to grace, and kills those
// that are left. It returns the ones that outlived even that (a process stuck in
// the kernel) and the errors of sending signals.
func (t Table) End(ctx context.Context, processes []Process, grace time.Duration) ([]Process, error) {
	var errs []error
	left := processes
	for _, step := range []struct {
		signal unix.Signal
		wait   time.Duration
	}{
		{unix.SIGTERM, grace},
		{unix.SIGKILL, killWait},
	} {
		for _, p := range left {
			if err := t.Signal(p, step.signal); err != nil {
				errs = append(errs, err)
			}
		}
		waitCtx, cancel := context.WithTimeout(ctx, step.wait)
		left = t.Wait(waitCtx, left)
		cancel()
		if len(left) == 0 {
			return nil, errors.Join(errs...)
		}
	}
	return left, errors.Join(errs...)
}

// killWait is how long a killed process may take to disappear; only one that
// hangs in the kernel (dead NFS server, failing disk) takes longer.
const killWait = 10 * time.Second
