package cli

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/knarr-io/knarr/pkg/crictl"
)

// crictlCommand is crictl for knarr's containerd, with the flags of cri-tools.
func crictlCommand(env Env) *cli.Command {
	c := &cli.Command{
		Name:  "crictl",
		Usage: "Look at and act on the containers of this node (CRI)",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "runtime-endpoint", Aliases: []string{"r"}, Value: crictl.DefaultEndpoint,
				EnvVars: []string{"CONTAINER_RUNTIME_ENDPOINT"}, Usage: "`SOCKET` of the runtime, as unix:///path"},
			&cli.DurationFlag{Name: "timeout", Aliases: []string{"t"}, Value: 10 * time.Second, Usage: "`TIME` for each call but pulling"},
		},
		UseShortOptionHandling: true,
		HideHelpCommand:        true,
	}
	for _, group := range [][]criCommand{criLists(), criInspects(), criActions(), criStreams(env)} {
		for _, sub := range group {
			c.Subcommands = append(c.Subcommands, sub.build(env))
		}
	}
	return c
}

// criCommand is one row of the table of crictl's commands.
type criCommand struct {
	name, aliases string // aliases apart by commas
	usage         string
	args          string // as shown in the help; "" for none
	least         int    // how many arguments there must be
	// unless names flags that each stand for the arguments, such as --all.
	unless []string
	flags  []cli.Flag
	run    func(*cli.Context, *crictl.Client) error
}

// build turns a row into a command that connects, runs and disconnects.
func (row criCommand) build(env Env) *cli.Command {
	c := &cli.Command{
		Name: row.name, Usage: row.usage, ArgsUsage: row.args, Flags: row.flags,
		UseShortOptionHandling: true, HideHelpCommand: true,
		Action: func(c *cli.Context) error {
			if err := row.check(c); err != nil {
				return err
			}
			client, err := crictl.Connect(c.Context, c.String("runtime-endpoint"), criTimeout(c), env.Stdout)
			if err != nil {
				return failf("%w", err)
			}
			err = row.run(c, client)
			return criError(errors.Join(err, client.Close(context.WithoutCancel(c.Context))))
		},
	}
	if row.aliases != "" {
		c.Aliases = strings.Split(row.aliases, ",")
	}
	return c
}

// criTimeout is crictl's own --timeout: subcommands have flags of that name too.
func criTimeout(c *cli.Context) time.Duration {
	lineage := c.Lineage()
	for _, above := range lineage[1:] {
		if d := above.Duration("timeout"); d > 0 {
			return d
		}
	}
	return 10 * time.Second
}

func (row criCommand) check(c *cli.Context) error {
	n := c.NArg()
	if slices.ContainsFunc(row.unless, c.Bool) {
		n = max(n, row.least)
	}
	switch {
	case n < row.least:
		return usagef("crictl %s: want %s; see `knarr crictl %s --help`", row.name, row.args, row.name)
	case row.args == "" && n > 0:
		return usagef("crictl %s: unexpected argument %q", row.name, c.Args().First())
	}
	if format := c.String("output"); format != "" && format != crictl.Table && format != crictl.JSON && format != crictl.YAML {
		return usagef("crictl %s: --output %q: want table, json or yaml", row.name, format)
	}
	return nil
}

// criError gives a command's own exit code on, and 1 to all other errors.
func criError(err error) error {
	var ended *crictl.ExitError
	if errors.As(err, &ended) {
		return &exitError{code: ended.Code, err: err}
	}
	if err != nil {
		return failf("%w", err)
	}
	return nil
}

func outputFlag(standard string) cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: standard, Usage: "`FORMAT`: table, json or yaml"}
}

// criFlags are flags that several commands share.
func criFlags(names ...string) []cli.Flag {
	all := map[string]cli.Flag{
		"quiet":     &cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "ids only"},
		"no-trunc":  &cli.BoolFlag{Name: "no-trunc", Usage: "whole ids"},
		"name":      &cli.StringFlag{Name: "name", Usage: "`REGEXP` of the name"},
		"namespace": &cli.StringFlag{Name: "namespace", Usage: "`REGEXP` of the pod's namespace"},
		"label":     &cli.StringSliceFlag{Name: "label", Usage: "`KEY=VALUE` that must be there; repeatable"},
		"state":     &cli.StringFlag{Name: "state", Aliases: []string{"s"}, Usage: "`STATE` it must be in"},
		"id":        &cli.StringFlag{Name: "id", Usage: "`ID`, or the beginning of one"},
		"pod":       &cli.StringFlag{Name: "pod", Aliases: []string{"p"}, Usage: "`ID` of the pod, or the beginning of one"},
		"latest":    &cli.BoolFlag{Name: "latest", Aliases: []string{"l"}, Usage: "only the newest"},
		"last":      &cli.IntFlag{Name: "last", Aliases: []string{"n"}, Usage: "only the newest `N`"},
		"seconds":   &cli.Float64Flag{Name: "seconds", Aliases: []string{"S"}, Value: 1, Usage: "`N` seconds over which processor use is measured"},
	}
	var flags []cli.Flag
	for _, name := range names {
		flags = append(flags, all[name])
	}
	return flags
}

// listOptions reads the flags of the lists; those a command lacks are zero.
func listOptions(c *cli.Context) (crictl.ListOptions, error) {
	labels, err := labelMap(c.StringSlice("label"))
	return crictl.ListOptions{
		Format: c.String("output"), Quiet: c.Bool("quiet"), NoTrunc: c.Bool("no-trunc"), All: c.Bool("all"),
		Latest: c.Bool("latest"), Last: c.Int("last"), ID: c.String("id"), Pod: c.String("pod"), Name: c.String("name"),
		Namespace: c.String("namespace"), Image: c.String("image"), State: c.String("state"), Labels: labels,
		Digests: c.Bool("digests"), Pinned: c.Bool("pinned"),
	}, err
}

func labelMap(pairs []string) (map[string]string, error) {
	labels := map[string]string{}
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, usagef("--label %q: want KEY=VALUE", pair)
		}
		labels[key] = value
	}
	return labels, nil
}

func criLists() []criCommand {
	list := func(show func(*crictl.Client, context.Context, crictl.ListOptions) error) func(*cli.Context, *crictl.Client) error {
		return func(c *cli.Context, client *crictl.Client) error {
			options, err := listOptions(c)
			if err != nil {
				return err
			}
			if name := c.Args().First(); name != "" {
				options.Image = name
			}
			return show(client, c.Context, options)
		}
	}
	stats := func(show func(*crictl.Client, context.Context, crictl.StatsOptions) error) func(*cli.Context, *crictl.Client) error {
		return func(c *cli.Context, client *crictl.Client) error {
			labels, err := labelMap(c.StringSlice("label"))
			if err != nil {
				return err
			}
			options := crictl.StatsOptions{Format: c.String("output"), ID: c.String("id"), Pod: c.String("pod"), Labels: labels,
				NoTrunc: c.Bool("no-trunc"), Over: time.Duration(c.Float64("seconds") * float64(time.Second))}
			if id := c.Args().First(); id != "" {
				options.ID = id
			}
			return show(client, c.Context, options)
		}
	}
	table := outputFlag(crictl.Table)
	return []criCommand{
		{name: "ps", usage: "List containers", run: list((*crictl.Client).PS),
			flags: append(criFlags("quiet", "no-trunc", "name", "namespace", "label", "state", "id", "pod", "latest", "last"), table,
				&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "those that have ended too"},
				&cli.StringFlag{Name: "image", Usage: "`REGEXP` of the image"})},
		{name: "pods", usage: "List pods", run: list((*crictl.Client).Pods),
			flags: append(criFlags("quiet", "no-trunc", "name", "namespace", "label", "state", "id", "latest", "last"), table)},
		{name: "images", aliases: "image,img", usage: "List images", args: "[NAME]", run: list((*crictl.Client).Images),
			flags: append(criFlags("quiet", "no-trunc"), table,
				&cli.BoolFlag{Name: "digests", Usage: "show digests"}, &cli.BoolFlag{Name: "pinned", Usage: "only those that are kept for ever"})},
		{name: "stats", usage: "Show what containers use", args: "[ID]", run: stats((*crictl.Client).Stats),
			flags: append(criFlags("id", "pod", "label", "no-trunc", "seconds"), table)},
		{name: "statsp", usage: "Show what pods use", args: "[ID]", run: stats((*crictl.Client).PodStats),
			flags: append(criFlags("id", "label", "no-trunc", "seconds"), table)},
		{name: "info", usage: "Show the runtime's state and configuration", flags: []cli.Flag{outputFlag(crictl.JSON)},
			run: func(c *cli.Context, client *crictl.Client) error { return client.Info(c.Context, c.String("output")) }},
		{name: "version", usage: "Show the runtime's version", flags: []cli.Flag{outputFlag(crictl.Table)},
			run: func(c *cli.Context, client *crictl.Client) error {
				return client.Version(c.Context, c.String("output"))
			}},
	}
}

func criInspects() []criCommand {
	inspect := func(show func(*crictl.Client, context.Context, []string, string) error) func(*cli.Context, *crictl.Client) error {
		return func(c *cli.Context, client *crictl.Client) error {
			return show(client, c.Context, c.Args().Slice(), c.String("output"))
		}
	}
	flags := []cli.Flag{outputFlag(crictl.JSON)}
	return []criCommand{
		{name: "inspect", usage: "Show all of a container", args: "ID...", least: 1, flags: flags, run: inspect((*crictl.Client).Inspect)},
		{name: "inspectp", usage: "Show all of a pod", args: "ID...", least: 1, flags: flags, run: inspect((*crictl.Client).InspectPods)},
		{name: "inspecti", usage: "Show all of an image", args: "IMAGE...", least: 1, flags: flags, run: inspect((*crictl.Client).InspectImages)},
	}
}

func criActions() []criCommand {
	remove := func(do func(*crictl.Client, context.Context, []string, crictl.RemoveOptions) error) func(*cli.Context, *crictl.Client) error {
		return func(c *cli.Context, client *crictl.Client) error {
			return do(client, c.Context, c.Args().Slice(), crictl.RemoveOptions{All: c.Bool("all"), Force: c.Bool("force")})
		}
	}
	removeFlags := []cli.Flag{
		&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "all of them"},
		&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "stop what runs"},
	}
	return []criCommand{
		{name: "pull", usage: "Pull an image", args: "IMAGE", least: 1,
			flags: []cli.Flag{
				&cli.StringFlag{Name: "creds", EnvVars: []string{"CRICTL_CREDS"}, Usage: "`USER:PASSWORD` for the registry"},
				&cli.StringFlag{Name: "auth", EnvVars: []string{"CRICTL_AUTH"}, Usage: "`VALUE` of auth as in a docker configuration file"},
			},
			run: func(c *cli.Context, client *crictl.Client) error {
				return client.Pull(c.Context, c.Args().First(), c.String("creds"), c.String("auth"))
			}},
		{name: "rmi", usage: "Remove images", args: "IMAGE...", least: 1, unless: []string{"all", "prune"},
			flags: []cli.Flag{
				&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "all that are not pinned"},
				&cli.BoolFlag{Name: "prune", Aliases: []string{"q"}, Usage: "all that no container uses"},
			},
			run: func(c *cli.Context, client *crictl.Client) error {
				return client.RemoveImages(c.Context, c.Args().Slice(), c.Bool("all"), c.Bool("prune"))
			}},
		{name: "rm", usage: "Remove containers", args: "ID...", least: 1, unless: []string{"all"}, flags: removeFlags, run: remove((*crictl.Client).Remove)},
		{name: "rmp", usage: "Remove pods", args: "ID...", least: 1, unless: []string{"all"}, flags: removeFlags, run: remove((*crictl.Client).RemovePods)},
		{name: "stop", usage: "Stop containers", args: "ID...", least: 1,
			flags: []cli.Flag{&cli.Int64Flag{Name: "timeout", Aliases: []string{"t"}, Usage: "`SECONDS` between SIGTERM and SIGKILL"}},
			run: func(c *cli.Context, client *crictl.Client) error {
				return client.Stop(c.Context, c.Args().Slice(), c.Int64("timeout"))
			}},
		{name: "stopp", usage: "Stop pods", args: "ID...", least: 1,
			run: func(c *cli.Context, client *crictl.Client) error { return client.StopPods(c.Context, c.Args().Slice()) }},
	}
}

func criStreams(env Env) []criCommand {
	streams := func(c *cli.Context) crictl.Streams {
		s := crictl.Streams{Stdout: env.Stdout, Stderr: env.Stderr, TTY: c.Bool("tty")}
		if c.Bool("interactive") {
			s.Stdin = env.Stdin
		}
		return s
	}
	flags := []cli.Flag{
		&cli.BoolFlag{Name: "interactive", Aliases: []string{"i"}, Usage: "pass standard input on"},
		&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give it a terminal"},
	}
	return []criCommand{
		{name: "logs", usage: "Show a container's log", args: "ID", least: 1,
			flags: []cli.Flag{
				&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on until the container ends"},
				&cli.Int64Flag{Name: "tail", Value: -1, Usage: "only the last `N` lines"},
				&cli.Int64Flag{Name: "limit-bytes", Value: -1, Usage: "only `N` bytes"},
				&cli.StringFlag{Name: "since", Usage: "only after `TIME`: 5m, or 2026-01-02T03:04:05Z"},
				&cli.BoolFlag{Name: "timestamps", Aliases: []string{"t"}, Usage: "show when each line was written"},
				&cli.BoolFlag{Name: "previous", Aliases: []string{"p"}, Usage: "of the container's previous attempt"},
			},
			run: func(c *cli.Context, client *crictl.Client) error {
				return client.Logs(c.Context, c.Args().First(), crictl.LogOptions{
					Follow: c.Bool("follow"), Timestamps: c.Bool("timestamps"), Previous: c.Bool("previous"),
					Tail: c.Int64("tail"), Bytes: c.Int64("limit-bytes"), Since: c.String("since"),
				}, env.Stdout, env.Stderr)
			}},
		{name: "exec", usage: "Run a command in a container", args: "ID COMMAND [ARGUMENT...]", least: 2,
			flags: append(flags[:2:2], &cli.BoolFlag{Name: "sync", Aliases: []string{"s"}, Usage: "without streams"},
				&cli.Int64Flag{Name: "timeout", Usage: "with --sync: `SECONDS` it may take"}),
			run: func(c *cli.Context, client *crictl.Client) error {
				id, command := c.Args().First(), c.Args().Tail()
				if c.Bool("sync") {
					return client.ExecSync(c.Context, id, command, time.Duration(c.Int64("timeout"))*time.Second, streams(c))
				}
				return client.Exec(c.Context, id, command, streams(c))
			}},
		{name: "attach", usage: "Connect to a container's first process", args: "ID", least: 1, flags: flags,
			run: func(c *cli.Context, client *crictl.Client) error {
				if c.NArg() > 1 {
					return usagef("crictl attach: unexpected argument %q", c.Args().Get(1))
				}
				return client.Attach(c.Context, c.Args().First(), streams(c))
			}},
	}
}
