// Package retry tries again until something works or its context ends, and then
// says what was the matter.
//
// It is for what is expected to work soon: a server that is starting, a
// connection that broke. It does not order starts (pkg/lifecycle does), has no
// count of attempts (a deadline is what users understand), starts no goroutine,
// and stops when its context does.
package retry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Defaults of Backoff.
const (
	DefaultFirst = 100 * time.Millisecond
	DefaultMax   = 10 * time.Second
)

// Backoff says how long to wait between attempts. The delay doubles from First
// to Max; each wait is random between half the delay and all of it, so that
// many who lost the same server do not come back at the same moment.
type Backoff struct {
	First time.Duration // default 100 ms
	Max   time.Duration // default 10 s; First if that is longer
}

// Until calls try at once and then again and again until it says done, and
// returns its error: nil for success, otherwise a failure that trying again
// would not mend. As long as try is not done, its error tells what is missing;
// nil is fine.
//
// When ctx ends, Until returns "waited 10s for WHAT: LAST ERROR", which wraps
// both the cause of ctx and the last error that was not merely about ctx.
func Until(ctx context.Context, what string, b Backoff, try func(context.Context) (done bool, err error)) error {
	began := time.Now()
	next := b.delays()
	var last error
	for ctx.Err() == nil {
		done, err := try(ctx)
		if done {
			return err
		}
		if ctx.Err() == nil || !errors.Is(err, ctx.Err()) {
			last = err
		}
		pause(ctx, next())
	}
	waited := time.Since(began).Round(time.Millisecond)
	if last == nil {
		return fmt.Errorf("waited %v for %s: %w", waited, what, context.Cause(ctx))
	}
	return fmt.Errorf("waited %v for %s: %w (%w)", waited, what, last, context.Cause(ctx))
}

// delays returns a function that returns one wait after the other.
func (b Backoff) delays() func() time.Duration {
	delay, limit := b.First, b.Max
	if delay <= 0 {
		delay = DefaultFirst
	}
	if limit <= 0 {
		limit = DefaultMax
	}
	limit = max(delay, limit)
	return func() time.Duration {
		now := delay
		delay = min(delay*2, limit)
		return now/2 + rand.N(now-now/2+1)
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
