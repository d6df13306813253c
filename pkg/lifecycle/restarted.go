package lifecycle

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Pauses of [Restarted]: the first, and the longest. A life of at least restartLong is a success, after which the
// pauses begin anew.
const (
	restartFirst = time.Second
	restartLong  = 5 * time.Minute
)

// Restarted is c, whose Run may be called again, started anew whenever it fails: after a second at first, then after
// twice as long each time, up to five minutes. It is for what knarr bundles beyond Kubernetes itself, whose failure
// must neither end the process nor go unnoticed: add it as [Optional]. Between two lives, Check tells the reason; after
// the first failure dependents start all the same. A panic counts as a failure if it is in the goroutine of Run or in
// one of a [Crew].
func Restarted(c Component, log *slog.Logger) Component { return &restarted{component: c, log: log} }

type restarted struct {
	component Component
	log       *slog.Logger

	mu   sync.Mutex
	last error // of the life before this one, until this one is ready
}

func (r *restarted) Name() string { return r.component.Name() }

// Prepare is that of the component, if it has one.
func (r *restarted) Prepare(ctx context.Context) error {
	if p, ok := r.component.(Preparer); ok {
		return p.Prepare(ctx)
	}
	return nil
}

// Check tells why the component does not run, or asks the component.
func (r *restarted) Check(ctx context.Context) error {
	r.mu.Lock()
	last := r.last
	r.mu.Unlock()
	if last != nil {
		return last
	}
	if c, ok := r.component.(Checker); ok {
		return c.Check(ctx)
	}
	return nil
}

func (r *restarted) Run(ctx context.Context, ready func()) error {
	pause := restartFirst
	for ctx.Err() == nil {
		began := time.Now()
		life := spawn(func() error {
			return r.component.Run(ctx, func() { r.note(nil); ready() })
		})
		<-life.done
		if ctx.Err() != nil {
			return life.err
		}
		err := life.err
		if err == nil {
			err = ErrEnded
		}
		if time.Since(began) >= restartLong {
			pause = restartFirst
		}
		r.note(fmt.Errorf("failed, is started again after %v: %w", pause, err))
		r.log.Error("bundled component failed and is started again", "component", r.Name(), "after", pause, "error", err)
		ready()
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		pause = min(2*pause, restartLong)
	}
	return nil
}

func (r *restarted) note(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = err
}
