package lifecycle

import (
	"context"
	"errors"
	"time"
)

// ErrEnded is the failure of a component that returned nil although nobody had
// asked it to stop.
var ErrEnded = errors.New("ended unexpectedly")

// Detached runs fn, an upstream Run that does not keep the contract of
// [Component], and keeps it on its behalf:
//
//   - before ctx is done, the end of fn is a failure: its error, [ErrEnded] if
//     that is nil, a [PanicError] if it panicked;
//   - after ctx is done, it waits for fn for at most grace and returns nil,
//     whatever fn returns (the scheduler reports a clean stop as an error) and
//     whether it returns at all (kube-proxy never does: give it no grace). Only
//     a panic is still an error.
//
// What fn started may therefore outlive Detached; the process is about to exit.
// Keep grace below the component's own [Grace]. For a Run that returns nil at
// once and lives on in its goroutines, let fn wait for ctx.Done() afterwards.
func Detached(ctx context.Context, grace time.Duration, fn func(ctx context.Context) error) error {
	t := spawn(func() error { return fn(ctx) })
	if !t.wait(ctx, grace) {
		return nil
	}
	var panicked *PanicError
	switch {
	case ctx.Err() == nil && t.err == nil:
		return ErrEnded
	case ctx.Err() == nil, errors.As(t.err, &panicked):
		return t.err
	default:
		return nil
	}
}
