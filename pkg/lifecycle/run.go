package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Run prepares and starts the components and blocks until all have stopped.
//
// It returns nil if it stopped because ctx ended. Otherwise it returns why it
// stopped: the errors of Prepare, or the first failure of a required component,
// in the form "component X: ...". What goes wrong while stopping is logged and
// kept in the status; it does not change the result.
//
// No goroutine outlives Run but those of components that outlived their grace.
// It panics when called twice.
func (g *Group) Run(ctx context.Context) error {
	g.begin()
	var wg sync.WaitGroup
	wg.Go(g.narrate)
	switch err := g.prepareAll(ctx); {
	case ctx.Err() != nil: // before anything starts, lest it start for nothing
		g.end(context.Cause(ctx), nil)
		if err != nil {
			g.log.Warn("asked to stop while preparing", "error", err)
		}
	case err != nil:
		g.end(err, err)
	}
	for _, n := range g.members() {
		wg.Go(func() { g.supervise(ctx, n) })
	}
	select {
	case <-ctx.Done():
		g.end(context.Cause(ctx), nil)
	case <-g.stopping.Done():
	}
	wg.Wait()
	return g.failure
}

func (g *Group) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.started {
		panic("lifecycle: a group runs only once")
	}
	g.started = true
}

// members returns the nodes in Add order; no node is ever removed or replaced.
func (g *Group) members() []*node {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.nodes[:len(g.nodes):len(g.nodes)]
}

// end begins the stop for reason, with failure as the result of Run. The first
// call decides; end reports whether this was it. The reason is logged at once:
// Run returns it only after the stop, which may take long or be cut short.
func (g *Group) end(reason, failure error) (first bool) {
	g.ending.Do(func() {
		first = true
		g.failure = failure
		g.log.Info("stopping", "reason", reason)
		g.stop(reason)
	})
	return first
}

// supervise is the whole life of one component.
func (g *Group) supervise(ctx context.Context, n *node) {
	defer close(n.done)
	defer n.settle()
	if !n.awaitDependencies(g.stopping) {
		g.move(n, Stopped, nil, Waiting)
		return
	}
	// The end of ctx reaches a component when its turn has come, not before.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	g.mu.Lock()
	n.ctx = ctx
	g.mu.Unlock()

	g.move(n, Starting, nil)
	life := spawn(func() error {
		return n.component.Run(ctx, func() { g.becomeReady(n) })
	})
	if n.awaitTurn(g.stopping, life) {
		g.move(n, Stopping, nil)
		cancel(context.Cause(g.stopping))
		g.awaitStop(ctx, n, life)
	} else {
		g.endedEarly(n, life.err)
		cancel(ErrEnded)
	}
	g.awaitCheck(ctx, n)
}

// awaitDependencies reports whether n may start; it may not once the group stops.
func (n *node) awaitDependencies(stopping context.Context) bool {
	for _, d := range n.after {
		select {
		case <-d.settled:
		case <-stopping.Done():
			return false
		}
	}
	return stopping.Err() == nil
}

// becomeReady is the ready of Component.Run.
func (g *Group) becomeReady(n *node) {
	if g.move(n, Ready, nil, Starting) {
		close(n.ready)
		n.settle()
	}
}

// awaitTurn blocks until the group stops and all dependents of n are gone. It
// returns false if the component ended before.
func (n *node) awaitTurn(stopping context.Context, life *task) bool {
	gates := []<-chan struct{}{stopping.Done()}
	for _, d := range n.dependents {
		gates = append(gates, d.done)
	}
	for _, gate := range gates {
		select {
		case <-gate:
		case <-life.done:
			return false
		}
	}
	return true
}

// awaitStop takes leave of a component whose context was cancelled. Returning
// the error of its context, or the cause, is as good as returning nil.
func (g *Group) awaitStop(ctx context.Context, n *node, life *task) {
	ended := life.wait(ctx, n.grace)
	switch {
	case !ended:
		err := fmt.Errorf("did not stop within %v and was left behind", n.grace)
		g.mu.Lock()
		n.left = true
		g.mu.Unlock()
		g.move(n, Failed, err)
		g.log.Error("component did not stop in time and was left behind", "component", n.name, "grace", n.grace)
	case life.err == nil, errors.Is(life.err, context.Canceled), errors.Is(life.err, context.Cause(ctx)):
		g.move(n, Stopped, nil)
	default:
		g.move(n, Failed, life.err)
		g.log.Error("component failed while stopping", "component", n.name, "error", life.err)
	}
}

// LeftBehind names the components that outlived their grace: something of them may run still.
func (g *Group) LeftBehind() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var names []string
	for _, n := range g.nodes {
		if n.left {
			names = append(names, n.name)
		}
	}
	return names
}

// endedEarly handles the end of a component that was not asked to stop.
func (g *Group) endedEarly(n *node, err error) {
	if n.optional && err == nil {
		g.move(n, Stopped, nil)
		g.log.Info("optional component has ended", "component", n.name)
		return
	}
	if err == nil {
		err = ErrEnded
	}
	g.move(n, Failed, err)
	if n.optional {
		g.log.Error("optional component failed; continuing without it", "component", n.name, "error", err)
		return
	}
	failure := fmt.Errorf("component %s: %w", n.name, err)
	if !g.end(failure, failure) {
		g.log.Error("component failed before it was asked to stop", "component", n.name, "error", err)
	}
}

// Ready blocks until all of refs, or with none given all required components,
// have become ready. It returns an error that names what is missing if ctx ends
// or the group stops before.
func (g *Group) Ready(ctx context.Context, refs ...Ref) error {
	var wanted []*node
	for _, ref := range refs {
		g.mustOwn(ref, "Ready")
		wanted = append(wanted, ref.node)
	}
	if len(refs) == 0 {
		for _, n := range g.members() {
			if !n.optional {
				wanted = append(wanted, n)
			}
		}
	}
	for _, n := range wanted {
		if err := n.awaitReady(ctx, g.stopping); err != nil {
			return fmt.Errorf("wait for component %s: %w", n.name, err)
		}
	}
	return nil
}

func (n *node) awaitReady(ctx, stopping context.Context) error {
	select {
	case <-n.settled:
	case <-stopping.Done():
	case <-ctx.Done():
	}
	select {
	case <-n.ready: // even if something else has happened since
		return nil
	default:
	}
	switch {
	case stopping.Err() != nil:
		return fmt.Errorf("stopping: %w", context.Cause(stopping))
	case ctx.Err() != nil:
		return context.Cause(ctx)
	default:
		return errors.New("it ended before it was ready")
	}
}
