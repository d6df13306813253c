package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Check calls the Check of every ready component that has one, all at once and
// each with a time-out, and records the outcome in the status: a component that
// fails becomes Degraded, and Ready again when it passes. It returns the errors
// of the required components, joined, each naming its component.
//
// A check that ignores its time-out is reported as failed and not called again
// until it returns; concurrent calls share one check.
func (g *Group) Check(ctx context.Context) error {
	nodes := g.members()
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() {
			err := g.checkOne(ctx, n)
			if err != nil && !n.optional {
				errs[i] = fmt.Errorf("component %s: %w", n.name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (g *Group) checkOne(ctx context.Context, n *node) error {
	t := g.joinCheck(n)
	if t == nil {
		return nil
	}
	overdue := fmt.Errorf("check has not answered within %v", g.checkTimeout)
	patience, cancel := context.WithTimeoutCause(ctx, g.checkTimeout, overdue)
	defer cancel()
	var err error
	select {
	case <-t.done:
		err = t.err
	case <-patience.Done():
		err = context.Cause(patience)
	}
	switch {
	case err == nil:
		g.move(n, Ready, nil, Degraded)
		return nil
	case ctx.Err() != nil: // the caller gave up: that says nothing about the component
		return fmt.Errorf("check: %w", err)
	case !g.move(n, Degraded, err, Ready, Degraded): // it ends, which is not for Check to report
		return nil
	}
	return err
}

// joinCheck returns the running check of n or starts one; nil if there is none
// to run.
func (g *Group) joinCheck(n *node) *task {
	c, ok := n.component.(Checker)
	if !ok {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if n.state != Ready && n.state != Degraded {
		return nil
	}
	if n.check != nil {
		select {
		case <-n.check.done:
		default:
			return n.check
		}
	}
	// Within the life of the component, not of the caller: others may join.
	ctx, cancel := context.WithTimeout(n.ctx, g.checkTimeout)
	n.check = spawn(func() error {
		defer cancel()
		return c.Check(ctx)
	})
	return n.check
}

// awaitCheck waits for the check that may have been running when n ended. None
// starts any more.
func (g *Group) awaitCheck(ctx context.Context, n *node) {
	g.mu.Lock()
	t := n.check
	g.mu.Unlock()
	if t != nil && !t.wait(ctx, n.grace) {
		g.log.Error("check of a component did not stop in time and was left behind", "component", n.name)
	}
}
