package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/term"
)

// Exit codes of every command, as documented in docs/operations.md.
const (
	exitFailed = 1 // something that was asked for could not be done
	exitUsage  = 2 // bad usage or configuration: nothing was changed
	// 3 is agent.ExitDeleted, the node was deleted from its cluster, and that of etcd.RemovedError
)

// Env is all that a command may touch of the process it runs in. Commands take
// it by value and use nothing global, so that a test runs them against buffers
// and a directory tree of its own.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Args is the whole command line, Args[0] the name knarr was called by.
	Args []string
	// Getenv reads one environment variable; "" when it is not set.
	Getenv func(string) string
	// Root is put before every absolute path of the host; "" means "/".
	Root string
}

// SystemEnv is the Env of the running process.
func SystemEnv() Env {
	return Env{
		Stdin:  os.Stdin,
		Stdout: os.Stdout,
		Stderr: os.Stderr,
		Args:   os.Args,
		Getenv: os.Getenv,
	}
}

// path returns the absolute path p of the host below the Env's root.
func (e Env) path(p string) string {
	if e.Root == "" {
		return p
	}
	return filepath.Join(e.Root, p)
}

// getenv returns the value of the first variable that is set, or fallback.
func (e Env) getenv(fallback string, names ...string) string {
	if e.Getenv == nil {
		return fallback
	}
	for _, name := range names {
		if v := e.Getenv(name); v != "" {
			return v
		}
	}
	return fallback
}

// lookup is os.LookupEnv on the Env: a variable that is empty counts as not set.
func (e Env) lookup(name string) (string, bool) {
	value := e.getenv("", name)
	return value, value != ""
}

// terminal returns the file behind a stream when it is a terminal. Only then
// are colours, questions and progress lines for a person in place.
func terminal(stream any) (*os.File, bool) {
	f, ok := stream.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, false
	}
	return f, true
}

// colours reports whether escape sequences may be written to stream: it is a
// terminal, and the user did not set NO_COLOR (no-color.org) or a dumb TERM.
func (e Env) colours(stream any) bool {
	if _, ok := terminal(stream); !ok {
		return false
	}
	return e.getenv("", "NO_COLOR") == "" && e.getenv("", "TERM") != "dumb"
}

// exitError is an error with the exit code that main shall use.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// ExitCode is what main passes to os.Exit; the interface is urfave/cli's ExitCoder.
func (e *exitError) ExitCode() int { return e.code }

// failf is an error with exit code 1: what was asked for could not be done.
func failf(format string, args ...any) error {
	return &exitError{code: exitFailed, err: fmt.Errorf(format, args...)}
}

// usagef is an error with exit code 2: the command line or the configuration is
// wrong, and nothing was changed.
func usagef(format string, args ...any) error {
	return &exitError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// ExitCode is the exit code for an error that a command returned: its own when
// it carries one, 0 for nil, 1 for all others.
func ExitCode(err error) int {
	var coder interface{ ExitCode() int }
	switch {
	case err == nil:
		return 0
	case errors.As(err, &coder):
		return coder.ExitCode()
	default:
		return exitFailed
	}
}
