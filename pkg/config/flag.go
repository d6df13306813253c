package config

import (
	"slices"
	"strings"

	"github.com/knarr-io/knarr/manifests"
)

// Role is which commands take a flag; roles combine with |.
type Role uint8

// The roles.
const (
	RoleServer Role = 1 << iota
	RoleAgent
	// Both is a server and an agent.
	Both = RoleServer | RoleAgent
)

// String is the name of the command of a single role.
func (r Role) String() string {
	if r == RoleAgent {
		return "agent"
	}
	return "server"
}

// Flag is one row of the table: a flag of the command line that is a key of the
// configuration file, too, under the same name and aliases.
//
// In files, read in order, the last value of a key wins. `key+` appends to what
// the files before gave, and once a key was appended to, a later file has to
// write `key+` as well or it replaces the whole. On a flag that takes one value
// the appended one is the last and so wins. A flag on the command line, or its
// variable, replaces what all the files gave, lists included.
type Flag struct {
	Name    string
	Aliases []string
	// Env is the environment variable; "" for none. An empty variable counts as
	// not set.
	Env string
	// Default is the default, written as a user would write it; "" leaves the
	// field's zero value, which DefaultText then explains to the reader.
	Default     string
	DefaultText string
	Roles       Role
	// Hidden flags work but are neither in --help nor in the documentation.
	Hidden bool
	// Category is the heading in --help and in the documentation.
	Category string
	// Usage is one sentence without a full stop. A word in `backquotes` names
	// the value in --help.
	Usage string

	bind binding
}

// Boolean reports whether the flag may stand alone, meaning true.
func (f *Flag) Boolean() bool { return f.bind.kind() == kindBool }

// Repeatable reports whether the flag collects a list.
func (f *Flag) Repeatable() bool { k := f.bind.kind(); return k == kindList || k == kindWords }

// Names are the name and the aliases.
func (f *Flag) Names() []string { return append([]string{f.Name}, f.Aliases...) }

// Wants says which values are allowed, for the documentation.
func (f *Flag) Wants() string { return f.bind.want() }

// ShownDefault is the default as help and documentation show it, "" for none.
func (f *Flag) ShownDefault() string {
	if f.DefaultText != "" {
		return f.DefaultText
	}
	return f.Default
}

// Flags is the table of the flags that a role takes, in the order of the
// documentation. The caller owns the result.
func Flags(role Role) []Flag {
	return slices.DeleteFunc(Table(), func(f Flag) bool { return f.Roles&role == 0 })
}

// Table is every flag of every role, in the order of the documentation. The
// caller owns the result.
func Table() []Flag {
	// Each category is a function of its own; a new flag is one row in one.
	return slices.Concat(
		configFlags(),
		listenerFlags(),
		networkFlags(),
		clusterFlags(),
		datastoreFlags(),
		etcdFlags(),
		backupFlags(),
		backupS3Flags(),
		componentFlags(),
		argumentFlags(),
		nodeFlags(),
		runtimeFlags(),
		diagnosticFlags(),
	)
}

// PackagedComponents are the names that --disable takes: what the server
// installs into the cluster by itself, beyond the Kubernetes components. The
// bundled manifests add their components and their files themselves.
func PackagedComponents() []string {
	names := append([]string{
		"runtimes",
		"servicelb",
	}, manifests.Names()...)
	slices.Sort(names)
	return slices.Compact(names)
}

// RestingComponents are the names that --always-on takes: packaged components
// that run only while somebody uses them.
func RestingComponents() []string { return []string{"traefik"} }

// index finds a row by name or alias.
type index map[string]*Flag

func newIndex(flags []Flag) index {
	x := make(index)
	for i := range flags {
		for _, name := range flags[i].Names() {
			x[name] = &flags[i]
		}
	}
	return x
}

// names are all names and aliases, sorted.
func (x index) names() []string {
	names := make([]string, 0, len(x))
	for name := range x {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// dashed is the flag as it is written on the command line.
func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// oneOf lists alternatives: "a, b or c".
func oneOf(items []string) string {
	if len(items) < 2 {
		return strings.Join(items, "")
	}
	last := len(items) - 1
	return strings.Join(items[:last], ", ") + " or " + items[last]
}
