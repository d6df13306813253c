// Package lifecycle is the contract of everything in knarr that lives long,
// and the one owner of those lives: a [Group] prepares its components, starts
// each as soon as what it depends on is ready, and stops them in reverse.
//
// It is not a supervisor: a component runs once per process, because most of
// what knarr embeds keeps process-wide state and cannot run twice. When a
// required component ends, the group ends, and whoever started the process
// starts it again. It is not an event bus either: components learn about each
// other through what their constructors are given.
//
// How it stops: when the context of [Group.Run] ends or a required component
// fails, each component has its context cancelled, with the reason as cause,
// once all that depend on it are gone. A component that outlives its grace is
// named in the log and left behind, so Run always returns.
package lifecycle

import "context"

// Component is something that lives as long as the process does.
// Constructing one does no I/O and starts nothing.
type Component interface {
	// Name is unique in its group, constant, and what users read in the log
	// and in the status: lower-case, upstream's spelling for upstream's things.
	Name() string

	// Run blocks until ctx is cancelled, then returns nil, or until the
	// component fails. context.Cause(ctx) tells why it was asked to stop.
	//
	// It calls ready once, when dependents may start: ready is what a client
	// observes, not what the component intends. Further calls, and calls
	// after ctx is cancelled, do nothing.
	Run(ctx context.Context, ready func()) error
}

// Preparer is a Component that has something to do or to verify before
// anything starts.
type Preparer interface {
	// Prepare writes files and checks what can be checked. It starts no
	// goroutine and needs no other component. It may be called more than once
	// and by a process that runs nothing afterwards (check-config).
	Prepare(ctx context.Context) error
}

// Checker is a Component that can tell whether it is still alive.
type Checker interface {
	// Check returns an error that says what is wrong. It is called only while
	// the component is ready, from any goroutine, never twice at a time, and
	// must return soon after ctx ends.
	Check(ctx context.Context) error
}

// Func is a Component made of a name and its Run.
func Func(name string, run func(ctx context.Context, ready func()) error) Component {
	return function{name: name, run: run}
}

type function struct {
	name string
	run  func(ctx context.Context, ready func()) error
}

func (f function) Name() string { return f.name }

func (f function) Run(ctx context.Context, ready func()) error { return f.run(ctx, ready) }
