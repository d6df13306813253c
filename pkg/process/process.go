// Package process reads the host's process table and signals processes without
// ever hitting a stranger that got the same pid.
//
// It is not a supervisor: it starts nothing, and it keeps nothing between calls.
// A Process is identified by its pid together with its start time, and signals
// go through a pidfd, so a pid that was reused is noticed. Nothing here runs in
// the background, so there is nothing to stop.
package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Process is one process at the moment it was read.
type Process struct {
	PID, PPID int
	// Start is the start time in clock ticks since boot (proc(5), stat field 22).
	// Together with PID it identifies a process for as long as the host is up.
	Start uint64
	// Comm is the kernel's name for it, at most 15 bytes.
	Comm string
	// State is the one-letter state of proc(5); 'Z' is a zombie.
	State byte
	// Args is the command line; empty for kernel threads and zombies.
	Args []string
	// Exe is the executable's path, "" when it cannot be read. The kernel's
	// " (deleted)" mark is removed: an upgraded executable keeps its name.
	Exe string
}

// Name is what a person calls the process: the base name of its executable, or
// the kernel's name where that is not to be had.
func (p Process) Name() string {
	if p.Exe != "" {
		return filepath.Base(p.Exe)
	}
	return p.Comm
}

// String is "name (pid 12)".
func (p Process) String() string { return fmt.Sprintf("%s (pid %d)", p.Name(), p.PID) }

// Flag returns the value after name in the command line, in the forms
// "-name value", "--name value" and "--name=value"; "" when it is absent.
func (p Process) Flag(name string) string {
	for i, arg := range p.Args {
		if !strings.HasPrefix(arg, "-") {
			continue
		}
		key, value, joined := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch {
		case key != name:
		case joined:
			return value
		case i+1 < len(p.Args):
			return p.Args[i+1]
		}
	}
	return ""
}

// Table reads processes from a proc file system.
type Table struct {
	// Root is where proc is mounted; "" means /proc.
	Root string
}

func (t Table) path(elem ...string) string {
	root := t.Root
	if root == "" {
		root = "/proc"
	}
	return filepath.Join(append([]string{root}, elem...)...)
}

// List returns all processes in order of pid. Processes that end while the
// table is read are left out.
func (t Table) List() ([]Process, error) {
	entries, err := os.ReadDir(t.path())
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var all []Process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		p, err := t.Get(pid)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// Get reads one process. The error is fs.ErrNotExist when there is none.
func (t Table) Get(pid int) (Process, error) {
	dir := strconv.Itoa(pid)
	stat, err := os.ReadFile(t.path(dir, "stat"))
	if err != nil {
		return Process{}, gone(pid, err)
	}
	p, err := parseStat(stat)
	if err != nil {
		return Process{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	p.PID = pid
	cmdline, err := os.ReadFile(t.path(dir, "cmdline"))
	if err != nil {
		return Process{}, gone(pid, err)
	}
	if s := strings.TrimRight(string(cmdline), "\x00"); s != "" {
		p.Args = strings.Split(s, "\x00")
	}
	// Kernel threads and zombies have no executable, and other users' processes
	// hide theirs: all of that is an empty name, not an error.
	if exe, err := os.Readlink(t.path(dir, "exe")); err == nil {
		p.Exe = strings.TrimSuffix(exe, " (deleted)")
	}
	return p, nil
}

// gone turns ESRCH, which reading below /proc/PID gives when the process ends
// meanwhile, into the one error for "there is no such process".
func gone(pid int, err error) error {
	if errors.Is(err, errNoProcess) {
		err = fs.ErrNotExist
	}
	return fmt.Errorf("read process %d: %w", pid, err)
}

// parseStat reads the fields of /proc/PID/stat that Process needs. The name may
// itself hold spaces and parentheses, so fields count from the last ')'.
func parseStat(stat []byte) (Process, error) {
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return Process{}, fmt.Errorf("unexpected stat %q", stat)
	}
	fields := strings.Fields(string(stat[end+1:]))
	const state, ppid, start = 0, 1, 19 // proc(5) fields 3, 4 and 22
	if len(fields) <= start {
		return Process{}, fmt.Errorf("unexpected stat %q", stat)
	}
	parent, err := strconv.Atoi(fields[ppid])
	if err != nil {
		return Process{}, fmt.Errorf("parent in stat: %w", err)
	}
	ticks, err := strconv.ParseUint(fields[start], 10, 64)
	if err != nil {
		return Process{}, fmt.Errorf("start time in stat: %w", err)
	}
	return Process{PPID: parent, Start: ticks, State: fields[state][0], Comm: string(stat[open+1 : end])}, nil
}

// Alive reports whether p still runs: the same pid with the same start time, and
// not a zombie that only waits to be reaped.
func (t Table) Alive(p Process) bool {
	now, err := t.Get(p.PID)
	return err == nil && now.Start == p.Start && now.State != 'Z' && now.State != 'X'
}

// Descendants returns the processes below the given ones, parents first, without
// the given ones themselves.
func Descendants(all []Process, roots ...Process) []Process {
	children := map[int][]Process{}
	for _, p := range all {
		children[p.PPID] = append(children[p.PPID], p)
	}
	var found []Process
	queue := append([]Process(nil), roots...)
	seen := map[int]bool{}
	for _, r := range roots {
		seen[r.PID] = true
	}
	for len(queue) > 0 {
		for _, child := range children[queue[0].PID] {
			if !seen[child.PID] {
				seen[child.PID] = true
				found = append(found, child)
				queue = append(queue, child)
			}
		}
		queue = queue[1:]
	}
	return found
}

// Namespace identifies the namespace of a kind ("net", "mnt", "pid") that a
// process is in, as "net:[4026531840]"; pid may be "self". It is "" when the
// process is gone or may not be looked into.
func (t Table) Namespace(pid, kind string) string {
	link, err := os.Readlink(t.path(pid, "ns", kind))
	if err != nil {
		return ""
	}
	return link
}

// NetFile reads one of the files below /proc/net of this network namespace.
func (t Table) NetFile(name string) ([]byte, error) {
	data, err := os.ReadFile(t.path("net", name))
	if err != nil {
		return nil, fmt.Errorf("read network state: %w", err)
	}
	return data, nil
}
