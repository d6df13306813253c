package lifecycle

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken error
		g := NewGroup((&journal{}).logger())
		check := func(context.Context) error { return broken }
		g.Add(&fake{name: "a", check: check})
		g.Add(&fake{name: "b", check: check})
		g.Add(&fake{name: "extra", check: check}, Optional())
		g.Add(&fake{name: "slow", startsIn: time.Hour, check: func(context.Context) error {
			return errors.New("checked before it was ready")
		}})
		r := run(t, g)
		if err := g.Check(t.Context()); err != nil {
			t.Errorf("all is well, but Check says %v", err)
		}

		broken = errBoom
		degradedAt := time.Now()
		for range 2 {
			err := g.Check(t.Context())
			if want := "component a: boom\ncomponent b: boom"; err == nil || err.Error() != want {
				t.Errorf("Check says %v, want %q", err, want)
			}
			for _, name := range []string{"a", "b", "extra"} {
				if s := r.status(name); s.State != Degraded || s.LastError != "boom" || !s.Since.Equal(degradedAt) {
					t.Errorf("status of %s: %+v", name, s)
				}
			}
			<-time.After(time.Second)
		}

		broken = nil
		if err := g.Check(t.Context()); err != nil {
			t.Errorf("all is well again, but Check says %v", err)
		}
		if s := r.status("a"); s.State != Ready || s.LastError != "" {
			t.Errorf("status of a: %+v", s)
		}
		r.stop()
	})
}

func TestChecksPanicAndTimeOut(t *testing.T) {
	tests := []struct {
		name  string
		check func(context.Context) error
		takes time.Duration
		want  string
	}{
		{"panics", func(context.Context) error { panic("ouch") }, 0, "component x: panic: ouch"},
		{"obeys its context", func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }, 2 * time.Second, "component x: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := NewGroup((&journal{}).logger(), CheckTimeout(2*time.Second))
				g.Add(&fake{name: "x", check: tt.check})
				r := run(t, g)
				began := time.Now()
				wantError(t, g.Check(t.Context()), tt.want)
				if took := time.Since(began); took != tt.takes {
					t.Errorf("Check took %v, want %v", took, tt.takes)
				}
				r.wantState("x", Degraded)
				r.stop()
			})
		})
	}
}

func TestACheckThatHangsIsNotCalledAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		g := NewGroup(j.logger(), CheckTimeout(2*time.Second))
		var calls atomic.Int32
		release := make(chan struct{})
		g.Add(&fake{name: "x", check: func(context.Context) error { calls.Add(1); <-release; return nil }}, Grace(time.Second))
		r := run(t, g)
		for range 3 {
			wantError(t, g.Check(t.Context()), "component x: check has not answered within 2s")
		}
		if n := calls.Load(); n != 1 {
			t.Errorf("%d calls at a time, want 1", n)
		}
		r.stop()
		if len(j.lines("check of a component did not stop in time")) != 1 {
			t.Errorf("the log does not tell about the check left behind:\n%s", j.out.String())
		}
		close(release)
	})
}

func TestConcurrentChecksShareOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup((&journal{}).logger())
		var calls atomic.Int32
		g.Add(&fake{name: "x", check: func(context.Context) error { calls.Add(1); <-time.After(time.Second); return errBoom }})
		r := run(t, g)

		impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		results := make(chan error, 3)
		go func() { results <- g.Check(t.Context()) }()
		go func() { results <- g.Check(t.Context()) }()
		go func() { results <- g.Check(impatient) }()

		if err := <-results; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the impatient caller got %v", err)
		}
		r.wantState("x", Ready) // that a caller gave up says nothing about x
		for range 2 {
			wantError(t, <-results, "component x: boom")
		}
		if n := calls.Load(); n != 1 {
			t.Errorf("%d calls, want 1", n)
		}
		r.stop()
	})
}

func TestStoppingEndsACheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup((&journal{}).logger(), CheckTimeout(time.Hour))
		g.Add(&fake{name: "x", check: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }})
		r := run(t, g)
		result := make(chan error, 1)
		go func() { result <- g.Check(t.Context()) }()
		synctest.Wait()
		began := time.Now()
		r.stop()
		if err := <-result; err != nil {
			t.Errorf("Check reports a component that was asked to stop: %v", err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("stop waited %v for the check", took)
		}
		if s := r.status("x"); s.State != Stopped || strings.Contains(s.LastError, "canceled") {
			t.Errorf("status of x: %+v", s)
		}
	})
}
