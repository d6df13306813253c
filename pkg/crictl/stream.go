package crictl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-client/pkg/logs"
)

// LogOptions choose what of a container's log is shown.
type LogOptions struct {
	Follow, Timestamps, Previous bool
	// Tail is how many of the last lines are shown; negative is all.
	Tail int64
	// Bytes is how much is shown at most; negative is all.
	Bytes int64
	// Since is a time ("2026-01-02T03:04:05Z") or a duration until now ("5m"); "" is all.
	Since string
}

// Logs shows a container's log: its standard output on out, its errors on errOut.
// When it follows, it ends with the container.
func (c *Client) Logs(ctx context.Context, id string, o LogOptions, out, errOut io.Writer) error {
	since, err := c.since(o.Since)
	if err != nil {
		return err
	}
	s, err := c.runtime.ContainerStatus(quiet(ctx), id, false)
	if err != nil {
		return fmt.Errorf("find container %s: %w", id, plain(err))
	}
	status, path := s.GetStatus(), s.GetStatus().GetLogPath()
	if path == "" {
		return fmt.Errorf("container %s keeps no log", id)
	}
	if o.Previous {
		// The kubelet calls logs by the number of the attempt.
		path = strings.TrimSuffix(path, fmt.Sprintf("%d.log", status.GetMetadata().GetAttempt())) +
			fmt.Sprintf("%d.log", int64(status.GetMetadata().GetAttempt())-1)
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("container %s has no log of an earlier attempt: %w", id, err)
		}
	}
	options := &logs.LogOptions{Follow: o.Follow && !o.Previous, Timestamp: o.Timestamps, Since: since}
	if o.Tail >= 0 {
		options.TailLines = &o.Tail
	}
	if o.Bytes >= 0 {
		options.LimitBytes = &o.Bytes
	}
	err = logs.ReadLogs(quiet(ctx), path, status.GetId(), options, c.runtime, out, errOut)
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("read log of container %s: %w", id, err)
	}
	return nil // ended by the user, or with the container
}

func (c *Client) since(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return c.now().Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	if seconds, err := strconv.ParseFloat(text, 64); err == nil {
		return time.Unix(0, int64(seconds*1e9)), nil
	}
	return time.Time{}, fmt.Errorf("--since %q: want a duration (5m), a time (2026-01-02T03:04:05Z) or seconds since 1970", text)
}

// Streams are the ends of an interactive command. Stdin is nil when the command
// gets none.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// TTY gives the command a terminal: the one of Stdin, if it is one.
	TTY bool
}

// ExitError is the end of a command in a container with another code than 0.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("command ended with exit code %d", e.Code) }

// ExitCode is the command's own exit code.
func (e *ExitError) ExitCode() int { return e.Code }

// Exec runs a command in a container. The error is an *ExitError when the command
// fails by itself.
func (c *Client) Exec(ctx context.Context, id string, command []string, s Streams) error {
	r, err := c.runtime.Exec(quiet(ctx), &runtimeapi.ExecRequest{
		ContainerId: id, Cmd: command, Tty: s.TTY, Stdin: s.Stdin != nil, Stdout: true, Stderr: !s.TTY,
	})
	if err != nil {
		return fmt.Errorf("run a command in container %s: %w", id, plain(err))
	}
	return c.stream(ctx, r.GetUrl(), s)
}

// Attach connects to a container's first process.
func (c *Client) Attach(ctx context.Context, id string, s Streams) error {
	r, err := c.runtime.Attach(quiet(ctx), &runtimeapi.AttachRequest{
		ContainerId: id, Tty: s.TTY, Stdin: s.Stdin != nil, Stdout: true, Stderr: !s.TTY,
	})
	if err != nil {
		return fmt.Errorf("attach to container %s: %w", id, plain(err))
	}
	return c.stream(ctx, r.GetUrl(), s)
}

// ExecSync runs a command without streams and shows what it printed.
func (c *Client) ExecSync(ctx context.Context, id string, command []string, timeout time.Duration, s Streams) error {
	out, errOut, err := c.runtime.ExecSync(quiet(ctx), id, command, timeout)
	if _, writeErr := s.Stdout.Write(out); writeErr != nil {
		return fmt.Errorf("write output: %w", writeErr)
	}
	if _, writeErr := s.Stderr.Write(errOut); writeErr != nil {
		return fmt.Errorf("write output: %w", writeErr)
	}
	return execError(id, err)
}

// execError turns what client-go calls the end of a command into an ExitError.
func execError(id string, err error) error {
	var ended interface{ ExitStatus() int }
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ended):
		return &ExitError{Code: ended.ExitStatus()}
	default:
		return fmt.Errorf("run a command in container %s: %w", id, plain(err))
	}
}

// stream connects the streams with the runtime's streaming server, which speaks
// SPDY as it does with the kubelet; the socket's owner gave the address, which
// holds a token that can be used once.
func (c *Client) stream(ctx context.Context, address string, s Streams) error {
	target, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("address of the stream: %w", err)
	}
	executor, err := remotecommand.NewSPDYExecutor(&rest.Config{Host: target.Host}, "POST", target)
	if err != nil {
		return fmt.Errorf("prepare the stream: %w", err)
	}
	options := remotecommand.StreamOptions{Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr, Tty: s.TTY}
	if s.TTY {
		options.Stderr = nil
		restore, sizes, err := raw(s.Stdin)
		if err != nil {
			return err
		}
		defer restore()
		if sizes != nil {
			options.TerminalSizeQueue = sizes
		}
	}
	if err := executor.StreamWithContext(quiet(ctx), options); err != nil {
		return execError(target.Host, err)
	}
	return nil
}

// raw lets every key reach the container, where its terminal echoes and edits, and
// reports the size of the terminal. Without a terminal there is nothing to do.
func raw(stdin io.Reader) (restore func(), sizes *sizeQueue, err error) {
	file, ok := stdin.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return func() {}, nil, nil
	}
	fd := int(file.Fd())
	state, err := term.MakeRaw(fd)
	if err != nil {
		return nil, nil, fmt.Errorf("prepare the terminal: %w", err)
	}
	sizes = &sizeQueue{fd: fd, changed: make(chan os.Signal, 1), done: make(chan struct{})}
	sizes.changed <- unix.SIGWINCH // the size at the beginning
	signal.Notify(sizes.changed, unix.SIGWINCH)
	return func() {
		signal.Stop(sizes.changed)
		close(sizes.done)
		// When even this fails there is no terminal left to restore.
		_ = term.Restore(fd, state)
	}, sizes, nil
}

// sizeQueue tells the container's terminal about each new size.
type sizeQueue struct {
	fd      int
	changed chan os.Signal
	done    chan struct{}
}

// Next blocks until the size changes; nil ends the queue.
func (q *sizeQueue) Next() *remotecommand.TerminalSize {
	select {
	case <-q.done:
		return nil
	case <-q.changed:
	}
	width, height, err := term.GetSize(q.fd)
	if err != nil {
		return nil
	}
	return &remotecommand.TerminalSize{Width: uint16(width), Height: uint16(height)}
}
