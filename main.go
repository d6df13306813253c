// Knarr is a complete Kubernetes in one executable; see README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/knarr-io/knarr/pkg/cli"
	"github.com/knarr-io/knarr/pkg/sdnotify"
	"github.com/knarr-io/knarr/pkg/upstream/globals"
)

func main() {
	env := os.Environ() // before anything takes variables away or sets them
	code := run()
	if code == cli.StartAgain {
		code = again(env)
	}
	os.Exit(code)
}

// run is main with an exit code, so that deferred calls happen.
func run() int {
	// Upstream's components would tell systemd that they are ready, each for itself; only knarr as a whole is.
	notify, err := sdnotify.Capture()
	if err != nil {
		fmt.Fprintln(os.Stderr, "knarr:", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once: a crash is a normal stop.
	context.AfterFunc(ctx, stop)
	return cli.Main(ctx, cli.SystemEnv(), notify)
}

// again executes the same file with the same arguments in the same process: whoever supervises it sees nothing but the
// time that a start takes. It returns only when it fails.
func again(env []string) int {
	// What an idle process gave up (globals.CoalesceTimers) the next start needs, and this thread hands it down.
	runtime.LockOSThread()
	err := errors.Join(globals.ExactTimers(), syscall.Exec("/proc/self/exe", os.Args, env))
	fmt.Fprintln(os.Stderr, "knarr: start again:", err)
	return 1
}
