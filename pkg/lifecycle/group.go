package lifecycle

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Defaults of what the options set.
const (
	DefaultGrace         = 10 * time.Second
	DefaultCheckTimeout  = 5 * time.Second
	DefaultProgressFirst = 3 * time.Second
	DefaultProgressEvery = 5 * time.Second
)

// Group owns components. Add them, then call Run once. All methods may be
// called from any goroutine.
type Group struct {
	log           *slog.Logger
	observe       func(Status)
	progressFirst time.Duration
	progressEvery time.Duration
	checkTimeout  time.Duration

	// stopping ends when the group begins to stop; its cause is the reason.
	stopping context.Context
	stop     context.CancelCauseFunc
	ending   sync.Once
	failure  error // what Run returns; written in ending, before stopping ends

	// observing serialises the observer. It is taken before mu, which is free
	// while the observer runs, so that it may ask for the status.
	observing sync.Mutex

	mu      sync.Mutex // guards what follows, and the marked fields of each node
	nodes   []*node    // in Add order, hence every node after its dependencies
	started bool
}

// node is a component with its place in the group.
type node struct {
	name       string
	component  Component
	grace      time.Duration
	optional   bool
	after      []*node
	dependents []*node // complete before Run, constant afterwards

	ready   chan struct{} // closed when the component has become ready
	settled chan struct{} // closed when it is ready or has ended: dependents go on
	settle  func()        // closes settled, once
	done    chan struct{} // closed when it has ended or was left behind

	// Guarded by Group.mu.
	state     State
	since     time.Time
	lastError string
	left      bool            // behind: it outlived its grace
	ctx       context.Context // of the component, nil until it starts
	check     *task           // the latest Check, nil before the first
}

// GroupOption sets something of a whole Group.
type GroupOption func(*Group)

// Observer has fn called after every change of state with the component's new
// status: one call at a time, in order, from the goroutine that made the
// change. fn must return soon, may call Status, and must not call Prepare or
// Check, which change states themselves.
func Observer(fn func(Status)) GroupOption { return func(g *Group) { g.observe = fn } }

// Progress sets how long a start or a stop may take until one line in the log
// names what is waited for, and the interval of the lines that follow.
// Default 3 s and 5 s.
func Progress(first, every time.Duration) GroupOption {
	return func(g *Group) { g.progressFirst, g.progressEvery = first, every }
}

// CheckTimeout bounds each Check. Default 5 s.
func CheckTimeout(d time.Duration) GroupOption { return func(g *Group) { g.checkTimeout = d } }

// NewGroup returns an empty group that logs to log.
func NewGroup(log *slog.Logger, opts ...GroupOption) *Group {
	g := &Group{
		log:           log,
		observe:       func(Status) {},
		progressFirst: DefaultProgressFirst,
		progressEvery: DefaultProgressEvery,
		checkTimeout:  DefaultCheckTimeout,
	}
	g.stopping, g.stop = context.WithCancelCause(context.Background())
	for _, opt := range opts {
		opt(g)
	}
	return g
}

// Ref stands for a component of a group. Only Add makes one, so what a
// component depends on always exists, and a cycle cannot be written.
type Ref struct {
	group *Group
	node  *node
}

// Option sets something of one component in its group.
type Option func(*placement)

type placement struct {
	after    []Ref
	grace    time.Duration
	optional bool
}

// After lets the component start when all of refs are ready, and has them
// outlive it. An optional component is waited for until it is ready or has
// ended: it orders the start, it cannot prevent it.
func After(refs ...Ref) Option { return func(p *placement) { p.after = append(p.after, refs...) } }

// Grace is how long the component may take to stop before it is left behind.
// Default 10 s.
func Grace(d time.Duration) Option { return func(p *placement) { p.grace = d } }

// Optional lets the group live on when the component ends: its status tells,
// nothing else does. It is not started again.
func Optional() Option { return func(p *placement) { p.optional = true } }

// Add makes c a component of the group. It panics on what only a programmer can
// have got wrong: no name or one taken, a Ref of another group, a group that
// runs already.
func (g *Group) Add(c Component, opts ...Option) Ref {
	p := placement{grace: DefaultGrace}
	for _, opt := range opts {
		opt(&p)
	}
	n := &node{
		name:      c.Name(),
		component: c,
		grace:     p.grace,
		optional:  p.optional,
		ready:     make(chan struct{}),
		settled:   make(chan struct{}),
		done:      make(chan struct{}),
		state:     Waiting,
		since:     time.Now(),
	}
	n.settle = sync.OnceFunc(func() { close(n.settled) })

	g.mu.Lock()
	defer g.mu.Unlock()
	g.admit(n, p.after)
	for _, ref := range p.after {
		n.after = append(n.after, ref.node)
		ref.node.dependents = append(ref.node.dependents, n)
	}
	g.nodes = append(g.nodes, n)
	return Ref{group: g, node: n}
}

// admit panics if n cannot be added; mu is held.
func (g *Group) admit(n *node, after []Ref) {
	if g.started {
		panic(fmt.Sprintf("lifecycle: component %q added to a group that runs already", n.name))
	}
	if n.name == "" {
		panic(fmt.Sprintf("lifecycle: a component of type %T has no name", n.component))
	}
	for _, other := range g.nodes {
		if other.name == n.name {
			panic(fmt.Sprintf("lifecycle: two components are named %q", n.name))
		}
	}
	for _, ref := range after {
		g.mustOwn(ref, n.name)
	}
}

// mustOwn panics if ref, used for what is named, is not of this group.
func (g *Group) mustOwn(ref Ref, use string) {
	switch {
	case ref.node == nil:
		panic(fmt.Sprintf("lifecycle: %q waits for the zero Ref; use one that Add returned", use))
	case ref.group != g:
		panic(fmt.Sprintf("lifecycle: %q waits for %q, a component of another group", use, ref.node.name))
	}
}
