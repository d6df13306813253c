package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/control"
	"github.com/knarr-io/knarr/pkg/uninstall"
)

// uninstallRequest is the command line of `knarr uninstall`.
type uninstallRequest struct {
	layout                uninstall.Layout
	runDir                string
	yes, dryRun, keepData bool
	grace                 time.Duration
}

func uninstallCommand(env Env) *cli.Command {
	return &cli.Command{
		Name:  "uninstall",
		Usage: "Remove knarr and everything it created from this host",
		Description: "Lists everything first and asks. What is behind a mount, and what another cluster,\n" +
			"runtime or person created, stays. Interrupted or killed, it can be run again.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "do not ask"},
			&cli.BoolFlag{Name: "dry-run", Usage: "only list what would be removed"},
			&cli.BoolFlag{Name: "keep-data", Usage: "keep the data directory and the configuration"},
			&cli.DurationFlag{Name: "grace", Value: 30 * time.Second, Usage: "`TIME` a container has between SIGTERM and SIGKILL"},
			dataDirFlag(), runDirFlag(),
		},
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			if c.Duration("grace") < 0 {
				return usagef("--grace must not be negative")
			}
			request := uninstallRequest{
				layout: uninstall.DefaultLayout(), runDir: c.String("run-dir"), grace: c.Duration("grace"),
				yes: c.Bool("yes"), dryRun: c.Bool("dry-run"), keepData: c.Bool("keep-data"),
			}
			request.layout.Root, request.layout.RunDir = env.Root, c.String("run-dir")
			request.layout.DataDir = dataDir(c, env)
			return runUninstall(c.Context, env, request)
		},
	}
}

// dataDir is the data directory in use: the one that was asked for, else what the
// running process says, else what the configuration says, else the default.
func dataDir(c *cli.Context, env Env) string {
	if c.IsSet("data-dir") {
		return c.String("data-dir")
	}
	status, err := control.NewClient(env.path(c.String("run-dir"))).Status(c.Context)
	if err == nil && status.DataDir != "" {
		return status.DataDir
	}
	in := config.Input{LookupEnv: env.lookup, FS: os.DirFS(env.path("/")), WorkDir: "/"}
	if configured, err := config.LoadServer(in); err == nil {
		return configured.DataDir
	}
	if configured, err := config.LoadAgent(in); err == nil {
		return configured.DataDir
	}
	// A broken configuration must not stand in the way of stopping and removing;
	// the list that is shown names the data directory, and --data-dir corrects it.
	return c.String("data-dir")
}

func runUninstall(ctx context.Context, env Env, request uninstallRequest) error {
	scope := uninstall.ScopeAll
	if request.keepData {
		scope = uninstall.ScopeKeepData
	}
	plan, err := uninstall.Find(ctx, request.layout, scope)
	if err != nil {
		return usagef("%w", err)
	}
	if _, err := io.WriteString(env.Stdout, planText(plan)); err != nil {
		return failf("list what would be removed: %w", err)
	}
	if request.dryRun {
		return nil
	}
	if err := confirm(env, request.yes); err != nil {
		return err
	}
	if err := newStopper(env, request.runDir, stopTimeout).stop(ctx); err != nil {
		return err
	}
	// Stopping changes what there is, so it is looked at again.
	if plan, err = uninstall.Find(ctx, request.layout, scope); err != nil {
		return failf("%w", err)
	}
	report := plan.Execute(ctx, uninstall.Options{Grace: request.grace, Progress: env.Stdout})
	return reportError(env, report, "knarr is removed from this host")
}

// planText lists a plan, grouped by kind.
func planText(plan *uninstall.Plan) string {
	var b strings.Builder
	b.WriteString("To be stopped: knarr, if it runs on this host\nTo be removed:\n")
	var last uninstall.Kind
	for _, item := range plan.Items {
		kind := item.Kind
		if kind == last {
			kind = ""
		}
		last = item.Kind
		line := fmt.Sprintf("  %-17s  %s", kind, item.Name)
		if item.Note != "" {
			line += " (" + item.Note + ")"
		}
		b.WriteString(line + "\n")
	}
	if len(plan.Kept) > 0 {
		b.WriteString("To stay:\n")
	}
	for _, kept := range plan.Kept {
		b.WriteString("  " + kept.String() + "\n")
	}
	return b.String()
}

// confirm asks the person at the terminal. Without one there must be --yes.
func confirm(env Env, yes bool) error {
	if yes {
		return nil
	}
	if _, ok := terminal(env.Stdin); !ok {
		return usagef("uninstall: standard input is no terminal to ask on; give --yes to go on without asking")
	}
	return ask(env)
}

// ask wants the whole word: this cannot be undone.
func ask(env Env) error {
	if _, err := io.WriteString(env.Stdout, "Type \"yes\" to remove all of this: "); err != nil {
		return failf("ask: %w", err)
	}
	answer, err := bufio.NewReader(env.Stdin).ReadString('\n')
	if err != nil && answer == "" {
		return failf("read the answer: %w", err)
	}
	if strings.TrimSpace(answer) != "yes" {
		return failf("not removed: the answer was not \"yes\"")
	}
	return nil
}

// reportError lists what had to stay; nothing staying is success.
func reportError(env Env, report uninstall.Report, done string) error {
	if len(report.Kept) == 0 {
		if _, err := fmt.Fprintln(env.Stdout, done); err != nil {
			return failf("report: %w", err)
		}
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "removed %d; could not be removed:", report.Removed)
	for _, kept := range report.Kept {
		b.WriteString("\n  " + kept.String())
	}
	return failf("%s", b.String())
}
