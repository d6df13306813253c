// Command testserver plays the programs that end-to-end tests run in pods: an
// HTTP server with switches, TCP and UDP echoes, admission and conversion
// webhooks, an aggregated API server, a process that is slow to stop, one that
// eats memory. It uses the standard library only, to be a small image. It stops
// on SIGTERM.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// roles are the programs; each gets the arguments that follow its name.
var roles = map[string]func(ctx context.Context, args []string) error{
	"http":      runHTTP,
	"get":       runGet,
	"echo":      runEcho,
	"say":       runSay,
	"webhook":   runWebhook,
	"apiserver": runAPIServer,
	"linger":    runLinger,
	"memory":    runMemory,
}

func main() {
	err := run(os.Args[1:])
	var code exitStatus
	if errors.As(err, &code) {
		os.Exit(int(code))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// exitStatus is an error that stands for an exit code asked for.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("asked to end with %d", int(e)) }

func run(args []string) error {
	if len(args) == 0 || roles[args[0]] == nil {
		names := make([]string, 0, len(roles))
		for name := range roles {
			names = append(names, name)
		}
		slices.Sort(names)
		return fmt.Errorf("usage: testserver %s [flags]", strings.Join(names, "|"))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return roles[args[0]](ctx, args[1:])
}

// parse reads a role's flags, which define declares.
func parse(role string, args []string, define func(*flag.FlagSet)) error {
	fs := flag.NewFlagSet(role, flag.ContinueOnError)
	define(fs)
	return fs.Parse(args)
}
