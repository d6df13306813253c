package cli

import (
	"context"
	"embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// completionScripts are the scripts for the shells, each named like its shell. They
// know nothing of knarr's commands: they ask it, by way of completionWords.
//
//go:embed completion
var completionScripts embed.FS

// completionWords is the argument by which the scripts ask: after it come the words
// of the line up to the one that is being typed, without the first. The answer is a
// line for each word that fits, with its description after a tab.
const completionWords = "__words"

// shells are those there is a script for.
func shells() []string { return []string{"bash", "zsh", "fish"} }

func completionCommand(env Env) *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "Print a script that makes a shell complete knarr's commands and flags",
		ArgsUsage: strings.Join(shells(), "|"),
		// What is being typed may look like a flag of this command.
		SkipFlagParsing: true,
		HideHelpCommand: true,
		Action: func(c *cli.Context) error {
			words := c.Args().Slice()
			switch {
			case len(words) > 1 && words[0] == completionWords:
				return writeWords(c.Context, env, c.App.Commands, words[1:])
			case len(words) == 1 && slices.Contains([]string{"-h", "--help"}, words[0]):
				return cli.ShowSubcommandHelp(c)
			case len(words) != 1 || !slices.Contains(shells(), words[0]):
				return usagef("completion: want one of %s", strings.Join(shells(), ", "))
			}
			script, err := completionScripts.ReadFile("completion/" + words[0])
			if err != nil {
				return failf("read completion script: %w", err)
			}
			if _, err := env.Stdout.Write(script); err != nil {
				return failf("write completion script: %w", err)
			}
			return nil
		},
	}
}

func writeWords(ctx context.Context, env Env, commands []*cli.Command, words []string) error {
	var fits []string
	if words[0] == "kubectl" && len(words) > 1 {
		fits = kubectlWords(ctx, words[1:])
	} else {
		fits = complete(commands, words)
	}
	for _, word := range fits {
		if _, err := io.WriteString(env.Stdout, word+"\n"); err != nil {
			return failf("write completions: %w", err)
		}
	}
	return nil
}

// kubectlWords asks kubectl, which completes itself, names in the cluster too. It
// runs as another process since it ends its own.
func kubectlWords(ctx context.Context, words []string) []string {
	self, err := os.Executable()
	if err != nil {
		return nil
	}
	out, err := exec.CommandContext(ctx, self, append([]string{"kubectl", "__complete"}, words...)...).Output()
	if err != nil {
		return nil // completion has no other way to say that it knows nothing
	}
	return slices.DeleteFunc(strings.Split(strings.TrimSpace(string(out)), "\n"), func(line string) bool {
		return line == "" || strings.HasPrefix(line, ":") // the last line is a directive for cobra's scripts
	})
}

// complete returns what the last of words may become.
func complete(commands []*cli.Command, words []string) []string {
	var at *cli.Command
	typed := words[len(words)-1]
	var valueOf cli.Flag // set when the next word is a flag's value
	for _, word := range words[:len(words)-1] {
		switch {
		case valueOf != nil:
			valueOf = nil
		case strings.HasPrefix(word, "-"):
			valueOf = valueFlag(at, word)
		default:
			i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(word) })
			if i >= 0 {
				at, commands = commands[i], commands[i].Subcommands
			} else {
				commands = nil // an argument: no subcommand follows
			}
		}
	}
	switch {
	case valueOf != nil:
		return fitting(flagValues(valueOf), typed)
	case strings.HasPrefix(typed, "-"):
		return fitting(flagWords(at), typed)
	case at != nil && at.Name == "completion":
		return fitting(shells(), typed)
	default:
		return fitting(commandWords(commands), typed)
	}
}

// valueFlag is the flag that word names, when its value is the next word.
func valueFlag(c *cli.Command, word string) cli.Flag {
	if c == nil || strings.Contains(word, "=") {
		return nil
	}
	for _, flag := range c.Flags {
		if slices.Contains(flag.Names(), strings.TrimLeft(word, "-")) {
			if taking, ok := flag.(cli.DocGenerationFlag); ok && taking.TakesValue() {
				return flag
			}
		}
	}
	return nil
}

// flagValues are the values of a flag that has a fixed set of them.
func flagValues(f cli.Flag) []string {
	if f.Names()[0] != "output" {
		return nil
	}
	taking, ok := f.(cli.DocGenerationFlag)
	if ok && strings.Contains(taking.GetUsage(), "yaml") {
		return []string{"table", "json", "yaml"}
	}
	return []string{"table", "json"}
}

func flagWords(c *cli.Command) []string {
	words := []string{"--help\tshow help"}
	if c == nil {
		return append(words, "--version\tprint the version")
	}
	for _, flag := range c.Flags {
		hidden, ok := flag.(cli.VisibleFlag)
		if ok && !hidden.IsVisible() {
			continue
		}
		usage := ""
		if documented, ok := flag.(cli.DocGenerationFlag); ok {
			usage = strings.ReplaceAll(documented.GetUsage(), "`", "")
		}
		words = append(words, fmt.Sprintf("--%s\t%s", flag.Names()[0], usage))
	}
	return words
}

func commandWords(commands []*cli.Command) []string {
	var words []string
	for _, c := range commands {
		if !c.Hidden {
			words = append(words, c.Name+"\t"+c.Usage)
		}
	}
	return words
}

// fitting are the words that begin with what was typed, sorted.
func fitting(words []string, typed string) []string {
	words = slices.DeleteFunc(words, func(w string) bool { return !strings.HasPrefix(w, typed) })
	slices.Sort(words)
	return words
}
