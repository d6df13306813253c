package cli

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/knarr-io/knarr/pkg/control"
)

// command runs one command against a host in a directory and returns what it
// printed and its exit code.
type command struct {
	root           string
	stdin          io.Reader
	stdout, stderr bytes.Buffer
	env            map[string]string
}

func newCommand(t *testing.T) *command {
	return &command{root: t.TempDir(), stdin: strings.NewReader(""), env: map[string]string{}}
}

func (c *command) run(t *testing.T, build func(Env) *cli.Command, args ...string) int {
	t.Helper()
	c.stdout.Reset()
	c.stderr.Reset()
	env := Env{Stdin: c.stdin, Stdout: &c.stdout, Stderr: &c.stderr, Root: c.root,
		Getenv: func(name string) string { return c.env[name] }}
	cmd := build(env)
	app := &cli.App{
		Name: "knarr", Commands: []*cli.Command{cmd}, Writer: &c.stdout, ErrWriter: &c.stderr,
		EnableBashCompletion: true, ExitErrHandler: func(*cli.Context, error) {},
	}
	err := app.RunContext(t.Context(), append([]string{"knarr", cmd.Name}, args...))
	if err != nil {
		c.stderr.WriteString(err.Error())
	}
	return ExitCode(err)
}

// serve answers on the control socket of the command's host until the test ends.
func (c *command) serve(t *testing.T, status func() control.Status, stop func()) {
	t.Helper()
	server := control.New(control.Config{
		Dir: filepath.Join(c.root, "run/knarr"), Status: status, Stop: stop,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- server.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// file writes a file of the command's host.
func (c *command) file(t *testing.T, name, content string) {
	t.Helper()
	path := filepath.Join(c.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// contains checks that text holds every part.
func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in:\n%s", part, text)
		}
	}
}
