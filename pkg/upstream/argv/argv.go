// Package argv builds the argument lists of upstream components as ordered data and parses them with upstream's own
// flag sets.
//
// It is not a configuration: what the arguments are is said by each adapter, what the user wants by pkg/config. It
// starts nothing.
package argv

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
	cliflag "k8s.io/component-base/cli/flag"
)

// Arg is one flag of a component, without dashes.
type Arg struct{ Name, Value string }

// List is an ordered argument list.
type List []Arg

// With appends arguments built from a flat list of names and values, leaving out those whose value is empty.
func (l List) With(nameValue ...string) List {
	for i := 0; i+1 < len(nameValue); i += 2 {
		if nameValue[i+1] != "" {
			l = append(l, Arg{nameValue[i], nameValue[i+1]})
		}
	}
	return l
}

// Merge renders the list as --name=value with the user's extra arguments ("name=value" or "name", dashes tolerated)
// last. An argument that the user gives replaces ours of the same name; one that the user gives several times stays
// several times, in the user's order.
func (l List) Merge(extra []string) []string {
	given := make(map[string]bool, len(extra))
	users := make([]string, 0, len(extra))
	for _, e := range extra {
		e = strings.TrimLeft(e, "-")
		name, _, _ := strings.Cut(e, "=")
		given[canonical(name)] = true
		users = append(users, "--"+e)
	}
	args := make([]string, 0, len(l)+len(users))
	for _, a := range l {
		if !given[canonical(a.Name)] {
			args = append(args, "--"+a.Name+"="+a.Value)
		}
	}
	return append(args, users...)
}

// canonical is the name as upstream's flag sets normalise it (k8s.io/component-base/cli/flag/flags.go:31).
func canonical(name string) string { return strings.ReplaceAll(name, "_", "-") }

// sharedLogging are flags that upstream's components register for their own logging. The process has one log, so
// they are refused instead of being accepted without effect.
var sharedLogging = map[string]bool{
	"v": true, "vmodule": true, "logging-format": true, "log-flush-frequency": true,
	"log-text-split-stream": true, "log-text-info-buffer-size": true,
	"log-json-split-stream": true, "log-json-info-buffer-size": true,
}

// A UsageError is an argument that a component does not take. Its exit code is 2.
type UsageError struct {
	// Flag is the flag of knarr through which the argument came.
	Flag string
	Err  error
}

func (e *UsageError) Error() string { return fmt.Sprintf("--%s: %v", e.Flag, e.Err) }
func (e *UsageError) Unwrap() error { return e.Err }

// ExitCode is 2: bad usage.
func (e *UsageError) ExitCode() int { return 2 }

// Parse parses args with a component's flag sets. flag is the name of the knarr flag that passes arguments on, named
// in the error of an argument that the component does not take.
func Parse(flag string, args []string, sets ...*pflag.FlagSet) error {
	all := pflag.NewFlagSet(flag, pflag.ContinueOnError)
	all.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	all.SetOutput(io.Discard)
	for _, s := range sets {
		all.AddFlagSet(s)
	}
	for _, a := range args {
		name, _, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
		if sharedLogging[canonical(name)] {
			return &UsageError{flag, fmt.Errorf("%s: all components share one log; use knarr's own --v and --vmodule", name)}
		}
	}
	if err := all.Parse(args); err != nil {
		return &UsageError{flag, err}
	}
	if rest := all.Args(); len(rest) > 0 {
		return &UsageError{flag, fmt.Errorf("%q is not a flag", rest[0])}
	}
	return nil
}

// ParseNamed is Parse with flag sets as upstream groups them.
func ParseNamed(flag string, args []string, named *cliflag.NamedFlagSets) error {
	sets := make([]*pflag.FlagSet, 0, len(named.Order))
	for _, name := range named.Order {
		sets = append(sets, named.FlagSets[name])
	}
	return Parse(flag, args, sets...)
}

// Join is a list of things as the value of one argument.
func Join[T fmt.Stringer](list []T) string {
	texts := make([]string, len(list))
	for i, item := range list {
		texts[i] = item.String()
	}
	return strings.Join(texts, ",")
}

// Problems joins the errors of a component's own validation into one UsageError, or nil.
func Problems(flag string, errs []error) error {
	if err := errors.Join(errs...); err != nil {
		return &UsageError{flag, err}
	}
	return nil
}
