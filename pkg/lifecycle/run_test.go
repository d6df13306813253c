package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestStartsInOrderAndStopsInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		g := NewGroup(j.logger())
		a := g.Add(&fake{name: "a", journal: j, startsIn: time.Second, stopsIn: time.Second})
		b := g.Add(&fake{name: "b", journal: j, startsIn: time.Second, stopsIn: time.Second}, After(a))
		g.Add(&fake{name: "c", journal: j, startsIn: time.Second, stopsIn: time.Second}, After(a, b))

		r := run(t, g)
		if err := g.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.stop()
		wantEvents(t, j.all(),
			"prepare a", "prepare b", "prepare c",
			"start a", "ready a", "start b", "ready b", "start c", "ready c",
			"stop c", "end c", "stop b", "end b", "stop a", "end a")
	})
}

func TestIndependentComponentsStartAndStopTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup((&journal{}).logger())
		base := g.Add(&fake{name: "base", startsIn: time.Second, stopsIn: time.Second})
		for i := range 5 {
			g.Add(&fake{name: fmt.Sprint("leaf", i), startsIn: 2 * time.Second, stopsIn: 2 * time.Second}, After(base))
		}
		r := run(t, g)
		for _, step := range []struct {
			what string
			do   func()
		}{
			{"start", func() {
				if err := g.Ready(t.Context()); err != nil {
					t.Error(err)
				}
			}},
			{"stop", r.stop},
		} {
			began := time.Now()
			step.do()
			if took := time.Since(began); took != 3*time.Second {
				t.Errorf("%s took %v, want 3s: 1s for the base, 2s for all leaves", step.what, took)
			}
		}
	})
}

// Each case is a component that ends without being asked to; base is under it.
func TestFailureOfARequiredComponentEndsTheGroup(t *testing.T) {
	tests := []struct {
		name string
		run  func(ctx context.Context, ready func()) error
		want []string
		is   error
	}{
		{"error before ready", func(context.Context, func()) error { return errBoom }, []string{"component x: boom"}, errBoom},
		{"error after ready", func(_ context.Context, ready func()) error { ready(); return errBoom }, []string{"component x: boom"}, errBoom},
		{"nil before ready", func(context.Context, func()) error { return nil }, []string{"component x: ended unexpectedly"}, ErrEnded},
		{"nil after ready", func(_ context.Context, ready func()) error { ready(); return nil }, []string{"component x: ended unexpectedly"}, ErrEnded},
		{"panic", func(context.Context, func()) error { panic("ouch") }, []string{"component x: panic: ouch", "run_test.go"}, nil},
		{"panic with an error", func(context.Context, func()) error { panic(errBoom) }, []string{"component x: panic: boom"}, errBoom},
		{"goexit", func(context.Context, func()) error { runtime.Goexit(); return nil }, []string{"component x: ", "Goexit"}, errGoexit},
		{"cancelled though nobody did", func(context.Context, func()) error { return context.Canceled }, []string{"component x: context canceled"}, context.Canceled},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := NewGroup((&journal{}).logger())
				base := g.Add(&fake{name: "base"})
				x := g.Add(Func("x", tt.run), After(base))
				g.Add(&fake{name: "top", startsIn: time.Hour}, After(x))
				r := run(t, g)
				err := r.result()
				wantError(t, err, tt.want...)
				if tt.is != nil && !errors.Is(err, tt.is) {
					t.Errorf("error %q is not %q", err, tt.is)
				}
				r.wantState("base", Stopped)
				r.wantState("x", Failed)
				r.wantState("top", Stopped)
				if got := r.status("x").LastError; got == "" || !strings.Contains(err.Error(), got) {
					t.Errorf("last error of x is %q, want what Run returned: %q", got, err)
				}
			})
		})
	}
}

func TestNothingStartsAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		g := NewGroup(j.logger())
		x := g.Add(Func("x", func(context.Context, func()) error { return errBoom }))
		g.Add(&fake{name: "top", journal: j}, After(x))
		wantError(t, run(t, g).result(), "component x: boom")
		wantEvents(t, j.all(), "prepare top")
	})
}

func TestTheFirstFailureIsTheResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		g := NewGroup(j.logger())
		g.Add(&fake{name: "first", failsIn: time.Second, failure: errors.New("first")})
		g.Add(&fake{name: "late", failsIn: 2 * time.Second, failure: errors.New("second"), stopResult: errors.New("third")})
		below := g.Add(&fake{name: "below", failsIn: 3 * time.Second, failure: errors.New("fourth")})
		g.Add(&fake{name: "slow", stopsIn: 5 * time.Second}, After(below))

		err := run(t, g).result()
		if want := "component first: first"; err == nil || err.Error() != want {
			t.Errorf("Run returned %v, want %q", err, want)
		}
		for _, line := range []string{
			`msg="component failed while stopping" component=late error=third`,
			`msg="component failed before it was asked to stop" component=below error=fourth`,
		} {
			if len(j.lines(line)) != 1 {
				t.Errorf("no log line %q in\n%s", line, j.out.String())
			}
		}
	})
}

func TestTheReasonReachesEveryComponent(t *testing.T) {
	errAsked := errors.New("received SIGTERM")
	type key struct{}
	tests := []struct {
		name string
		fail bool
		want string
	}{
		{"asked to stop", false, "received SIGTERM"},
		{"failure", true, "component x: boom"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := NewGroup((&journal{}).logger())
				var cause error
				var value any
				g.Add(Func("witness", func(ctx context.Context, ready func()) error {
					ready()
					<-ctx.Done()
					cause, value = context.Cause(ctx), ctx.Value(key{})
					return cause
				}))
				fail := make(chan struct{})
				g.Add(Func("x", func(ctx context.Context, ready func()) error {
					select {
					case <-ctx.Done():
						return nil
					case <-fail:
						return errBoom
					}
				}))
				ctx, cancel := context.WithCancelCause(context.WithValue(t.Context(), key{}, "value"))
				defer cancel(nil)
				ended := make(chan error, 1)
				go func() { ended <- g.Run(ctx) }()
				synctest.Wait()
				if tt.fail {
					close(fail)
				} else {
					cancel(errAsked)
				}
				if err := <-ended; (err != nil) != tt.fail {
					t.Errorf("Run returned %v", err)
				}
				if cause == nil || cause.Error() != tt.want {
					t.Errorf("cause is %v, want %q", cause, tt.want)
				}
				if value != "value" {
					t.Errorf("the context of a component has lost the values of the context of Run")
				}
			})
		})
	}
}

func TestCleanStopsAreNoFailures(t *testing.T) {
	for _, result := range []error{nil, context.Canceled, fmt.Errorf("serve: %w", context.Canceled)} {
		synctest.Test(t, func(t *testing.T) {
			g := NewGroup((&journal{}).logger())
			g.Add(&fake{name: "x", stopResult: result})
			r := run(t, g)
			r.stop()
			if s := r.status("x"); s.State != Stopped || s.LastError != "" {
				t.Errorf("after returning %v: %+v", result, s)
			}
		})
	}
}

func TestAComponentThatHangsIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		g := NewGroup(j.logger())
		base := g.Add(&fake{name: "base", journal: j})
		release := make(chan struct{})
		defer close(release)
		g.Add(Func("stuck", func(_ context.Context, ready func()) error {
			ready()
			<-release
			return nil
		}), After(base), Grace(4*time.Second))

		r := run(t, g)
		began := time.Now()
		r.stop()
		if took := time.Since(began); took != 4*time.Second {
			t.Errorf("stop took %v, want the grace of 4s", took)
		}
		if s := r.status("stuck"); s.State != Failed || !strings.Contains(s.LastError, "did not stop within 4s") {
			t.Errorf("status of stuck: %+v", s)
		}
		if len(j.lines("left behind")) != 1 || !strings.Contains(j.lines("left behind")[0], "component=stuck") {
			t.Errorf("the log does not name what was left behind:\n%s", j.out.String())
		}
		wantEvents(t, j.all(), "prepare base", "start base", "ready base", "stop base", "end base")
	})
}

func TestCancelWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		g := NewGroup(j.logger())
		slow := g.Add(&fake{name: "slow", journal: j, startsIn: time.Hour})
		g.Add(&fake{name: "waits", journal: j}, After(slow))
		r := run(t, g)
		if got := r.status("waits").WaitingFor; !slices.Equal(got, []string{"slow"}) {
			t.Errorf("waits for %q, want slow", got)
		}
		r.stop()
		r.wantState("slow", Stopped)
		r.wantState("waits", Stopped)
		wantEvents(t, j.all(), "prepare slow", "prepare waits", "start slow", "end slow")
	})
}

func TestReadyTwiceAndTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var states []State
		g := NewGroup((&journal{}).logger(), Observer(func(s Status) { states = append(states, s.State) }))
		g.Add(Func("eager", func(ctx context.Context, ready func()) error {
			ready()
			ready()
			<-ctx.Done()
			ready()
			return nil
		}))
		run(t, g).stop()
		if want := []State{Starting, Ready, Stopping, Stopped}; !slices.Equal(states, want) {
			t.Errorf("states %q, want %q", states, want)
		}
	})
}

func TestReadyOnlyAfterCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		g := NewGroup(j.logger())
		late := g.Add(Func("late", func(ctx context.Context, ready func()) error {
			<-ctx.Done()
			ready()
			return nil
		}))
		g.Add(&fake{name: "top", journal: j}, After(late))
		r := run(t, g)
		r.stop()
		r.wantState("late", Stopped)
		wantEvents(t, j.all(), "prepare top")
		if err := g.Ready(t.Context(), late); err == nil {
			t.Error("late is said to have been ready")
		}
	})
}

func TestOptionalComponents(t *testing.T) {
	tests := []struct {
		name      string
		failure   error
		wantState State
		wantError string
	}{
		{"error", errBoom, Failed, "boom"},
		{"nil", nil, Stopped, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := NewGroup((&journal{}).logger())
				extra := g.Add(Func("extra", func(context.Context, func()) error { return tt.failure }), Optional())
				g.Add(&fake{name: "main"}, After(extra))
				r := run(t, g)
				if err := g.Ready(t.Context()); err != nil {
					t.Errorf("an optional component prevents the start: %v", err)
				}
				wantError(t, g.Ready(t.Context(), extra), "component extra", "ended before it was ready")
				s := r.status("extra")
				if s.State != tt.wantState || s.LastError != tt.wantError || !s.Optional {
					t.Errorf("status of extra: %+v", s)
				}
				r.wantState("main", Ready)
				r.stop()
				r.wantState("extra", tt.wantState)
			})
		})
	}
}

func TestReadyNamesWhatIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup((&journal{}).logger())
		quick := g.Add(&fake{name: "quick"})
		slow := g.Add(&fake{name: "slow", startsIn: time.Minute}, After(quick))
		r := run(t, g)
		if err := g.Ready(t.Context(), quick); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := g.Ready(ctx)
		wantError(t, err, "wait for component slow")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %q hides the end of the context", err)
		}
		r.cancel(errBoom)
		wantError(t, g.Ready(t.Context(), slow), "wait for component slow: stopping: boom")
		r.stop()
		if err := g.Ready(t.Context(), quick); err != nil {
			t.Errorf("quick had become ready: %v", err)
		}
	})
}

func TestAnEmptyGroupLivesUntilAskedToStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := run(t, NewGroup((&journal{}).logger()))
		select {
		case <-r.ended:
			t.Error("Run has returned")
		default:
		}
		r.stop()
	})
}

func TestCancelledBeforeRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		g := NewGroup(j.logger())
		g.Add(&fake{name: "x", journal: j})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := g.Run(ctx); err != nil {
			t.Errorf("Run returned %v", err)
		}
		wantEvents(t, j.all())
	})
}
