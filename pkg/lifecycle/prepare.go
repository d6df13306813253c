package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Prepare calls the Prepare of every component that has one, in Add order, and
// returns all their errors joined, each naming its component. Run calls it;
// check-config calls only it. It panics once the group runs.
func (g *Group) Prepare(ctx context.Context) error {
	g.mu.Lock()
	started := g.started
	g.mu.Unlock()
	if started {
		panic("lifecycle: Prepare of a group that runs already")
	}
	return g.prepareAll(ctx)
}

func (g *Group) prepareAll(ctx context.Context) error {
	var errs []error
	for _, n := range g.members() {
		p, ok := n.component.(Preparer)
		if !ok {
			continue
		}
		if ctx.Err() != nil {
			errs = append(errs, fmt.Errorf("stop before preparing component %s: %w", n.name, context.Cause(ctx)))
			break
		}
		g.move(n, Preparing, nil)
		err := prepare(ctx, p, n.grace)
		if err == nil {
			g.move(n, Waiting, nil)
			continue
		}
		g.move(n, Failed, err)
		errs = append(errs, fmt.Errorf("prepare component %s: %w", n.name, err))
	}
	return errors.Join(errs...)
}

func prepare(ctx context.Context, p Preparer, grace time.Duration) error {
	t := spawn(func() error { return p.Prepare(ctx) })
	if !t.wait(ctx, grace) {
		return fmt.Errorf("still busy %v after it was asked to stop: %w", grace, context.Cause(ctx))
	}
	return t.err
}
