// Package cli is knarr's command line: one file for each command, and [Main], which finds the command by the first
// argument or by the name that the executable was called by.
//
// It decides nothing about a cluster: commands load the configuration and call the packages that know.
package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/sdnotify"
	"github.com/knarr-io/knarr/pkg/version"
)

// tools are commands that the executable also is when it is called by their name.
func tools() []string { return []string{"kubectl", "crictl", "ctr", "coredns"} }

// StartAgain is what [Main] returns, in place of an exit code, when the process shall be replaced by a new one.
const StartAgain = -1

// Main runs the command that env.Args names and returns the exit code: 0 done or asked to stop, 1 failed, 2 bad usage
// or configuration.
func Main(ctx context.Context, env Env, notify sdnotify.Notifier) int {
	args := env.Args
	if len(args) > 0 && slices.Contains(tools(), filepath.Base(args[0])) {
		args = append([]string{"knarr", filepath.Base(args[0])}, args[1:]...)
	}
	err := newApp(env, notify).RunContext(ctx, args)
	if again := new(lifecycle.Restart); errors.As(err, &again) {
		return StartAgain
	}
	if err != nil && err.Error() != "" {
		fmt.Fprintln(env.Stderr, "knarr:", err)
	}
	return ExitCode(err)
}

func newApp(env Env, notify sdnotify.Notifier) *cli.App {
	return &cli.App{
		Name:                 "knarr",
		Usage:                "Kubernetes in one file",
		Version:              version.Version,
		Writer:               env.Stdout,
		ErrWriter:            env.Stderr,
		Reader:               env.Stdin,
		EnableBashCompletion: true,
		Suggest:              true,
		// Errors are printed and turned into exit codes by Main alone.
		ExitErrHandler:  func(*cli.Context, error) {},
		OnUsageError:    func(_ *cli.Context, err error, _ bool) error { return usagef("%w", err) },
		CommandNotFound: func(*cli.Context, string) {},
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return usagef("there is no command %q; see knarr --help", c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
		Commands: []*cli.Command{
			serverCommand(env, notify),
			agentCommand(env, notify),
			kubectlCommand(env),
			crictlCommand(env),
			ctrCommand(env),
			statusCommand(env),
			tokenCommand(env),
			certificateCommand(env),
			datastoreCommand(env),
			backupCommand(env),
			snapshotCommand(env),
			restoreCommand(env),
			stopCommand(env),
			checkConfigCommand(env),
			uninstallCommand(env),
			completionCommand(env),
			corednsCommand(env),
		},
	}
}
