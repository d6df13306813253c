package cli

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/knarr-io/knarr/pkg/config"
)

// configured makes a command out of c that takes every flag of a role. run gets
// the command line, the environment and the host, to load the configuration
// from; c needs neither Flags nor Action.
//
// urfave/cli shows these flags but does not parse them: it stops at the first
// one it does not know, while config.Load reports all that is wrong at once.
func configured(env Env, role config.Role, c *cli.Command, run func(context.Context, config.Input) error) *cli.Command {
	c.SkipFlagParsing = true
	c.HideHelpCommand = true
	c.CustomHelpTemplate = cli.CommandHelpTemplate
	c.Flags = configFlags(role)
	c.Action = func(ctx *cli.Context) error {
		line := parseConfigLine(role, ctx.Args().Slice())
		if line.help {
			return cli.ShowSubcommandHelp(ctx)
		}
		in, err := env.configInput(line)
		if err != nil {
			return err
		}
		return run(ctx.Context, in)
	}
	return c
}

// configInput is what config.Load needs, from this process and the command line.
func (e Env) configInput(line configLine) (config.Input, error) {
	dir, err := os.Getwd()
	if err != nil {
		return config.Input{}, failf("find out the working directory: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return config.Input{}, failf("find out the host's name: %w", err)
	}
	return config.Input{
		CommandLine: line.occurrences,
		Words:       line.words,
		LookupEnv:   e.lookup,
		FS:          os.DirFS(e.path("/")),
		WorkDir:     dir,
		Hostname:    host,
	}, nil
}

// configLine is a command line in the words of the configuration.
type configLine struct {
	occurrences []config.Occurrence
	words       []string // what is no flag
	help        bool     // --help or -h was given
}

// parseConfigLine takes a command line apart as package flag does (one dash or
// two, --name=value or --name value, a switch alone, -- ends the flags), but
// neither stops at a flag that is unknown nor at a word that is no flag.
func parseConfigLine(role config.Role, args []string) configLine {
	var line configLine
	flags := make(map[string]config.Flag)
	for _, f := range config.Accepted(role) {
		for _, name := range f.Names() {
			flags[name] = f
		}
	}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		name, isFlag := flagName(arg)
		if arg == "--" {
			line.words = append(line.words, args...)
			return line
		}
		if !isFlag {
			line.words = append(line.words, arg)
			continue
		}
		name, value, hasValue := strings.Cut(name, "=")
		f, known := flags[name]
		o := config.Occurrence{Name: name, Value: value}
		switch {
		case !known && (name == "help" || name == "h"):
			line.help = true
			continue
		case hasValue:
		case known && f.Boolean():
			o.Value = "true"
		case known && len(args) == 0:
			o.Missing = true
		case known:
			o.Value, args = args[0], args[1:]
		case len(args) > 0 && !strings.HasPrefix(args[0], "-"):
			args = args[1:] // the value of the unknown flag, most likely
		}
		line.occurrences = append(line.occurrences, o)
	}
	return line
}

// flagName is an argument without its dashes, if it has them.
func flagName(arg string) (string, bool) {
	name, dashed := strings.CutPrefix(arg, "-")
	name = strings.TrimPrefix(name, "-")
	return name, dashed && name != "" && name[0] != '-' && name[0] != '='
}

// configFlags are the flags of a role, for --help and completion.
func configFlags(role config.Role) []cli.Flag {
	var flags []cli.Flag
	for _, f := range config.Flags(role) {
		flags = append(flags, shownFlag{f})
	}
	return flags
}

// shownFlag shows a row of the configuration's table in the way urfave/cli
// shows its own flags. It parses nothing.
type shownFlag struct{ row config.Flag }

var _ cli.CategorizableFlag = shownFlag{}

func (f shownFlag) Names() []string           { return f.row.Names() }
func (f shownFlag) IsVisible() bool           { return !f.row.Hidden }
func (f shownFlag) GetCategory() string       { return f.row.Category }
func (f shownFlag) IsSet() bool               { return false }
func (f shownFlag) Apply(*flag.FlagSet) error { return nil }

// String is the line of --help, with tab between the names and the rest.
func (f shownFlag) String() string {
	var env []string
	if f.row.Env != "" {
		env = []string{f.row.Env}
	}
	name, aliases, usage, def := f.row.Name, f.row.Aliases, f.row.Usage, f.row.ShownDefault()
	switch {
	case f.row.Boolean():
		return (&cli.BoolFlag{Name: name, Aliases: aliases, Usage: usage, EnvVars: env, DisableDefaultText: true}).String()
	case f.row.Repeatable():
		usage = fmt.Sprintf("%s (repeatable)", usage)
	}
	return (&cli.StringFlag{Name: name, Aliases: aliases, Usage: usage, EnvVars: env, DefaultText: def}).String()
}
