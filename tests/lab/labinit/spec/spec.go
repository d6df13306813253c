// Package spec is what a lab tells the pid 1 of a new host: one line of JSON on
// its standard input, which stays open for as long as the host shall live.
package spec

// Ready is what init writes to its standard output, before it closes it, when
// the host is arranged; anything else is an error message.
const Ready = "ready\n"

// Spec describes a host's view of the world.
type Spec struct {
	Hostname string
	// Root is the directory of the machine that becomes the host's root.
	Root string
	// Overlays are mounted below Root before anything else.
	Overlays []Overlay
	// Cgroups are the trees to be mounted below /sys/fs/cgroup.
	Cgroups []Cgroup
	Binds   []Bind
}

// Overlay shows Lower at Target (below the root), changes kept in Upper.
type Overlay struct{ Target, Lower, Upper, Work string }

// Cgroup is one tree: its mount point, "cgroup" or "cgroup2", and mount options.
type Cgroup struct {
	Target, Type, Options string
	// Slice is the host's cgroup in a v2 tree, as a path of the machine.
	Slice string
}

// Bind shows Source of the machine, a file or a directory, at Target.
type Bind struct {
	Source, Target string
	Writable       bool
}
