package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/knarr-io/knarr/tests/lab"
)

// Main is the body of the main function of a program that measures or tests: it runs until it is done or asked to stop,
// which ends the test hosts too. Its result is the exit code, 1 after an error.
func Main(name string, run func(context.Context) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		return 1
	}
	return 0
}

// InLab calls f with a lab of its own, which ends with it, and the executable under test; see [Binary].
func InLab(ctx context.Context, f func(l *lab.Lab, binary string) error) (err error) {
	binary, err := Binary(".")
	if err != nil {
		return err
	}
	l, err := lab.New(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	return f(l, binary)
}

// RunTests is the body of a TestMain whose tests share a lab, which setUp makes. Its result is the exit code.
func RunTests(m *testing.M, setUp func(context.Context) (*lab.Lab, error)) int {
	l, err := setUp(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, "set up the tests:", err)
		return 1
	}
	code := m.Run()
	if err := l.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "close the lab:", err)
		return 1
	}
	return code
}
