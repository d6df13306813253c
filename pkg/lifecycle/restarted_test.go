package lifecycle

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// lives is a component that behaves differently in each life.
type lives struct {
	runs []func(ctx context.Context, ready func()) error
	at   []time.Time
}

func (*lives) Name() string { return "lives" }

func (l *lives) Run(ctx context.Context, ready func()) error {
	n := len(l.at)
	l.at = append(l.at, time.Now())
	return l.runs[min(n, len(l.runs)-1)](ctx, ready)
}

func TestRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lives{runs: []func(context.Context, func()) error{
			func(context.Context, func()) error { return errBoom },
			func(context.Context, func()) error { panic("ouch") },
			func(ctx context.Context, ready func()) error { ready(); <-time.After(time.Hour); return nil },
			func(ctx context.Context, ready func()) error { ready(); <-ctx.Done(); return nil },
		}}
		j := &journal{}
		r := Restarted(l, j.logger())
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		var readyAfter time.Duration = -1
		done := make(chan error, 1)
		go func() {
			done <- r.Run(ctx, func() {
				if readyAfter < 0 {
					readyAfter = time.Since(start)
				}
			})
		}()
		check := func(want string) {
			t.Helper()
			synctest.Wait()
			err := r.(Checker).Check(ctx)
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("after %v: check says %v, want %q", time.Since(start), err, want)
			}
		}
		check("boom")
		time.Sleep(time.Second)
		check("ouch")
		time.Sleep(2 * time.Second)
		check("")
		time.Sleep(time.Hour)
		check(ErrEnded.Error())
		time.Sleep(time.Second)
		check("")
		cancel()
		if err := <-done; err != nil {
			t.Errorf("a clean stop returns %v", err)
		}
		if readyAfter != 0 {
			t.Errorf("dependents wait for %v", readyAfter)
		}
		var after []time.Duration
		for _, at := range l.at {
			after = append(after, at.Sub(start))
		}
		want := []time.Duration{0, time.Second, 3 * time.Second, 3*time.Second + time.Hour + time.Second}
		if len(after) != len(want) || after[1] != want[1] || after[2] != want[2] || after[3] != want[3] {
			t.Errorf("lives began after %v, want %v", after, want)
		}
		if got := len(j.lines("started again")); got != 3 {
			t.Errorf("%d failures are logged, want 3", got)
		}
	})
}

// What a group makes of a bundled component that always fails: degraded, with the reason, and all others live.
func TestRestartedInAGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		g := NewGroup(j.logger())
		bad := g.Add(Restarted(Func("bad", func(context.Context, func()) error { panic("ouch") }), j.logger()), Optional())
		g.Add(Func("good", func(ctx context.Context, ready func()) error { ready(); <-ctx.Done(); return nil }), After(bad))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- g.Run(ctx) }()
		if err := g.Ready(ctx); err != nil {
			t.Fatal(err)
		}
		if err := g.Check(ctx); err != nil {
			t.Errorf("an optional component makes the process unhealthy: %v", err)
		}
		if s := g.Status()[0]; s.State != Degraded || !strings.Contains(s.LastError, "ouch") {
			t.Errorf("status is %+v", s)
		}
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
