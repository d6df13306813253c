package lifecycle

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestCrew(t *testing.T) {
	wait := func(ctx context.Context) error { <-ctx.Done(); return nil }
	tests := []struct {
		name string
		fn   func(context.Context) error
		want string // part of the error, "" for nil
	}{
		{"all end well", func(context.Context) error { return nil }, ""},
		{"one fails", func(context.Context) error { return errBoom }, "boom"},
		{"one panics", func(context.Context) error { panic("ouch") }, "panic: ouch"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			crew, ctx := NewCrew(t.Context())
			if tt.want != "" {
				crew.Go(func() error { return wait(ctx) }) // ends only if the failure ends it
			}
			crew.Go(func() error { return tt.fn(ctx) })
			err := crew.Wait()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if ctx.Err() == nil {
				t.Error("the context lives on")
			}
			if err != nil && !errors.Is(context.Cause(ctx), err) {
				t.Errorf("cause is %v", context.Cause(ctx))
			}
		})
	}
}
