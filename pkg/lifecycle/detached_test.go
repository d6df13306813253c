package lifecycle

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Each case is asked to stop after a minute.
func TestDetached(t *testing.T) {
	untilDone := func(err error) func(context.Context) error {
		return func(ctx context.Context) error { <-ctx.Done(); return err }
	}
	release := make(chan struct{})
	tests := []struct {
		name  string
		grace time.Duration
		fn    func(context.Context) error
		takes time.Duration
		want  string // part of the error, "" for nil
	}{
		{"keeps the contract", time.Second, untilDone(nil), time.Minute, ""},
		{"error on a clean stop", time.Second, untilDone(errBoom), time.Minute, ""},
		{"slow stop", time.Hour, func(ctx context.Context) error { <-ctx.Done(); <-time.After(time.Second); return errBoom }, time.Minute + time.Second, ""},
		{"never returns", 3 * time.Second, func(context.Context) error { <-release; return nil }, time.Minute + 3*time.Second, ""},
		{"never returns, no grace", 0, func(context.Context) error { <-release; return nil }, time.Minute, ""},
		{"fails", time.Second, func(context.Context) error { return errBoom }, 0, "boom"},
		{"ends", time.Second, func(context.Context) error { return nil }, 0, "ended unexpectedly"},
		{"panics", time.Second, func(context.Context) error { panic("ouch") }, 0, "panic: ouch"},
		{"panics when stopped", time.Second, func(ctx context.Context) error { <-ctx.Done(); panic("ouch") }, time.Minute, "panic: ouch"},
		{"cancelled though nobody did", time.Second, func(context.Context) error { return context.Canceled }, 0, "context canceled"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release = make(chan struct{})
				defer close(release)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				began := time.Now()
				err := Detached(ctx, tt.grace, tt.fn)
				if took := time.Since(began); took != tt.takes {
					t.Errorf("took %v, want %v", took, tt.takes)
				}
				if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
					t.Errorf("returned %v, want %q", err, tt.want)
				}
			})
		})
	}
}

func TestDetachedKeepsTheError(t *testing.T) {
	if err := Detached(t.Context(), 0, func(context.Context) error { return errBoom }); !errors.Is(err, errBoom) {
		t.Errorf("returned %v, want %v", err, errBoom)
	}
}
