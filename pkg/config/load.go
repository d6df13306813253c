package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// Input is everything a configuration is made from. Load only reads it.
type Input struct {
	// CommandLine is what the command line said, in order.
	CommandLine []Occurrence
	// Words are the arguments that are no flags; each is a problem.
	Words []string
	// LookupEnv is os.LookupEnv; nil is an empty environment.
	LookupEnv func(string) (string, bool)
	// FS is the host's file system, rooted at / (os.DirFS("/")); nil is an empty
	// one.
	FS fs.FS
	// WorkDir is the absolute directory relative paths are taken from.
	WorkDir string
	// Hostname is the default of --node-name.
	Hostname string
}

// Occurrence is one flag on the command line.
type Occurrence struct {
	// Name is the flag as written, without its dashes; it may be unknown.
	Name string
	// Value is its value; "true" for a switch that stood alone.
	Value string
	// Missing marks a flag at the end of the line whose value is not there.
	Missing bool
}

// LoadServer makes the configuration of a server. The error is an [*Error] with
// every problem there is, and then the Server is zero.
func LoadServer(in Input) (Server, error) {
	l, s, err := load(in, RoleServer)
	if err != nil {
		return Server{}, err
	}
	s.Told = ListOf(l.told(&s)...)
	return s, nil
}

// LoadAgent is [LoadServer] for an agent.
func LoadAgent(in Input) (Agent, error) {
	l, s, err := load(in, RoleAgent)
	if err != nil {
		return Agent{}, err
	}
	s.Told = ListOf(l.told(&s)...)
	return Agent{s.Common}, nil
}

func load(in Input, role Role) (*loader, Server, error) {
	l, s := fill(in, role)
	l.check(&s)
	if len(l.problems) > 0 {
		return nil, Server{}, &Error{Problems: l.problems}
	}
	return l, s, nil
}

// fill gives every flag's field its value; what cannot be parsed is among the
// loader's problems then, and its field zero.
func fill(in Input, role Role) (*loader, Server) {
	flags := Accepted(role)
	l := &loader{in: in, role: role, flags: newIndex(flags), all: newIndex(Table()),
		origin: make(map[string]setting), bad: make(map[string]bool)}
	line := l.readCommandLine()
	files := l.readFiles(line["config"])
	var s Server
	for i := range flags {
		f := &flags[i]
		if settings := l.choose(f, line, files); len(settings) > 0 {
			f.bind.apply(l, f, &s, settings)
		}
	}
	s.ConfigFiles = ListOf(l.read...)
	l.deriveNode(&s)
	return l, s
}

// loader is the state of one Load.
type loader struct {
	in    Input
	role  Role
	flags index // of the role
	all   index
	// origin holds, by flag, the last setting that was given; defaults are not
	// in it.
	origin   map[string]setting
	bad      map[string]bool // flags with a value that cannot be parsed
	read     []string        // configuration files that were read
	problems []Problem
}

func (l *loader) report(where, value, what string) {
	l.problems = append(l.problems, Problem{Where: where, Value: value, What: what})
}

// given reports whether the user set the flag, be it to the default.
func (l *loader) given(name string) bool { return l.origin[name].where != "" }

// where names the place a flag was given at, for a message about several flags.
func (l *loader) where(name string) string {
	if o := l.origin[name]; o.where != "" {
		return o.where
	}
	return dashed(name) + " (default)"
}

// conflict reports a contradiction at the place of a flag.
func (l *loader) conflict(name, format string, args ...any) {
	l.report(l.where(name), "", fmt.Sprintf(format, args...))
}

// fine reports whether none of the flags has a bad value, so that it makes
// sense to compare what they say.
func (l *loader) fine(names ...string) bool {
	for _, n := range names {
		if l.bad[n] {
			return false
		}
	}
	return true
}

// readCommandLine sorts the occurrences by flag and reports what is unknown.
func (l *loader) readCommandLine() map[string][]setting {
	line := make(map[string][]setting)
	for _, o := range l.in.CommandLine {
		f, ok := l.flags[o.Name]
		switch {
		case !ok:
			l.unknown(dashed(o.Name), o.Name, "flag")
		case o.Missing:
			l.report(dashed(o.Name), "", "has no value; want "+f.Wants())
			l.bad[f.Name] = true
		default:
			line[f.Name] = append(line[f.Name], setting{dashed(o.Name), o.Value})
		}
	}
	for _, w := range l.in.Words {
		l.report("command line", w, fmt.Sprintf("unexpected argument; `knarr %s` takes flags only", l.role))
	}
	return line
}

// unknown reports a name that is no flag of the role; what is "flag" or "key".
func (l *loader) unknown(where, name, what string) {
	if _, ok := l.all[name]; ok {
		l.report(where, "", fmt.Sprintf("a %s of another command; `knarr %s` does not take it", what, l.role))
		return
	}
	text := "unknown " + what
	if hint := nearest(name, l.flags.names()); hint != "" {
		if what == "flag" {
			hint = dashed(hint)
		}
		l.report(where, "", text+", did you mean "+hint+"?")
		return
	}
	l.report(where, "", fmt.Sprintf("%s; `knarr %s --help` lists all", text, l.role))
}

// choose gives the settings of a flag from the strongest source that has any.
func (l *loader) choose(f *Flag, line, files map[string][]setting) []setting {
	settings := line[f.Name]
	if len(settings) == 0 {
		settings = l.env(f)
	}
	if len(settings) == 0 {
		settings = files[f.Name]
	}
	if len(settings) > 0 {
		l.origin[f.Name] = settings[len(settings)-1]
		return settings
	}
	if f.Default == "" {
		return nil
	}
	return []setting{{"default of " + dashed(f.Name), f.Default}}
}

func (l *loader) env(f *Flag) []setting {
	if f.Env == "" || l.in.LookupEnv == nil {
		return nil
	}
	if text, ok := l.in.LookupEnv(f.Env); ok && text != "" {
		return []setting{{f.Env, text}}
	}
	return nil
}

// absolute is a path of the user's, made absolute and clean.
func (in *Input) absolute(name string) string {
	if !path.IsAbs(name) {
		name = path.Join(cmp.Or(in.WorkDir, "/"), name)
	}
	return path.Clean(name)
}

func (in *Input) readFile(name string) ([]byte, error) {
	if in.FS == nil {
		return nil, fs.ErrNotExist
	}
	data, err := fs.ReadFile(in.FS, inFS(name))
	return data, plain(err)
}

func (in *Input) readDir(name string) ([]fs.DirEntry, error) {
	if in.FS == nil {
		return nil, fs.ErrNotExist
	}
	entries, err := fs.ReadDir(in.FS, inFS(name))
	return entries, plain(err)
}

// inFS turns an absolute path into one of Input.FS.
func inFS(name string) string {
	return cmp.Or(strings.TrimPrefix(name, "/"), ".")
}

// plain takes the operation and the path off a file system's error: the message
// around it names the path already, and with its slash.
func plain(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}
