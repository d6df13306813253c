package retry

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

var errRefused = errors.New("connection refused")

func TestUntilDone(t *testing.T) {
	errForbidden := errors.New("forbidden")
	for _, want := range []error{nil, errForbidden} {
		synctest.Test(t, func(t *testing.T) {
			calls := 0
			err := Until(t.Context(), "it", Backoff{}, func(context.Context) (bool, error) {
				calls++
				if calls < 4 {
					return false, errRefused
				}
				return true, want
			})
			if err != want || calls != 4 {
				t.Errorf("%d calls, error %v; want 4, %v", calls, err, want)
			}
		})
	}
}

func TestUntilTriesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		err := Until(t.Context(), "it", Backoff{First: time.Hour}, func(context.Context) (bool, error) { return true, nil })
		if took := time.Since(began); err != nil || took != 0 {
			t.Errorf("took %v, error %v", took, err)
		}
	})
}

func TestUntilTheContextEnds(t *testing.T) {
	errAsked := errors.New("received SIGTERM")
	deadline := func(ctx context.Context) (context.Context, context.CancelFunc) {
		return context.WithTimeout(ctx, 10*time.Second)
	}
	asked := func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancelCause(ctx)
		timer := time.AfterFunc(3*time.Second, func() { cancel(errAsked) })
		return ctx, func() { timer.Stop(); cancel(nil) }
	}
	refused := func(context.Context) (bool, error) { return false, errRefused }
	tests := []struct {
		name  string
		limit func(context.Context) (context.Context, context.CancelFunc)
		try   func(context.Context) (bool, error)
		want  string
		is    []error
	}{
		{"deadline", deadline, refused,
			"waited 10s for the apiserver: connection refused (context deadline exceeded)", []error{errRefused, context.DeadlineExceeded}},
		{"cause", asked, refused,
			"waited 3s for the apiserver: connection refused (received SIGTERM)", []error{errRefused, errAsked}},
		{"nothing known", deadline, func(context.Context) (bool, error) { return false, nil },
			"waited 10s for the apiserver: context deadline exceeded", []error{context.DeadlineExceeded}},
		{"the attempt hangs", deadline, func(ctx context.Context) (bool, error) { <-ctx.Done(); return false, ctx.Err() },
			"waited 10s for the apiserver: context deadline exceeded", []error{context.DeadlineExceeded}},
		{"the last attempt hangs", deadline, refusedThenHangs(),
			"waited 10s for the apiserver: connection refused (context deadline exceeded)", []error{errRefused, context.DeadlineExceeded}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := tt.limit(t.Context())
				defer cancel()
				err := Until(ctx, "the apiserver", Backoff{}, tt.try)
				if err == nil || err.Error() != tt.want {
					t.Errorf("\n got %v\nwant %s", err, tt.want)
				}
				for _, is := range tt.is {
					if !errors.Is(err, is) {
						t.Errorf("%q is not %v", err, is)
					}
				}
			})
		})
	}
}

func refusedThenHangs() func(context.Context) (bool, error) {
	calls := 0
	return func(ctx context.Context) (bool, error) {
		if calls++; calls < 3 {
			return false, errRefused
		}
		<-ctx.Done()
		return false, fmt.Errorf("get: %w", ctx.Err())
	}
}

func TestUntilOfAnEndedContextDoesNotTry(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Until(ctx, "it", Backoff{}, func(context.Context) (bool, error) {
		t.Error("tried")
		return true, nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestBackoff(t *testing.T) {
	const ms = time.Millisecond
	tests := []struct {
		name    string
		backoff Backoff
		want    []time.Duration // the longest each wait may be
	}{
		{"defaults", Backoff{}, []time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms, 6400 * ms, 10000 * ms, 10000 * ms}},
		{"both given", Backoff{First: 10 * ms, Max: 25 * ms}, []time.Duration{10 * ms, 20 * ms, 25 * ms, 25 * ms}},
		{"constant", Backoff{First: 50 * ms, Max: 50 * ms}, []time.Duration{50 * ms, 50 * ms, 50 * ms}},
		{"first above the limit", Backoff{First: 50 * ms, Max: 20 * ms}, []time.Duration{50 * ms, 50 * ms}},
		{"first above the default limit", Backoff{First: time.Minute}, []time.Duration{time.Minute, time.Minute}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var called []time.Time
				err := Until(t.Context(), "it", tt.backoff, func(context.Context) (bool, error) {
					called = append(called, time.Now())
					return len(called) > len(tt.want), nil
				})
				if err != nil {
					t.Fatal(err)
				}
				for i, longest := range tt.want {
					if wait := called[i+1].Sub(called[i]); wait < longest/2 || wait > longest {
						t.Errorf("wait %d took %v, want %v to %v", i, wait, longest/2, longest)
					}
				}
			})
		})
	}
}

func TestWaitsAreSpread(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 100 {
		seen[Backoff{First: time.Second}.delays()()] = true
	}
	if len(seen) < 50 {
		t.Errorf("%d different waits in 100", len(seen))
	}
}
