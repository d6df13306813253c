package lifecycle

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestPrepareJoinsAllErrors(t *testing.T) {
	errBad := errors.New("bad certificate")
	newGroup := func(j *journal) *Group {
		g := NewGroup(j.logger())
		g.Add(&fake{name: "a", journal: j, prepare: func(context.Context) error { return errBoom }})
		g.Add(&fake{name: "b", journal: j})
		g.Add(&fake{name: "c", journal: j, prepare: func(context.Context) error { return errBad }})
		g.Add(&fake{name: "d", journal: j, prepare: func(context.Context) error { panic("ouch") }})
		return g
	}
	for name, prepare := range map[string]func(*Group, context.Context) error{
		"Prepare": (*Group).Prepare,
		"Run":     (*Group).Run,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := &journal{}
				g := newGroup(j)
				err := prepare(g, t.Context())
				wantError(t, err, "prepare component a: boom", "prepare component c: bad certificate", "prepare component d: panic: ouch")
				if !errors.Is(err, errBoom) || !errors.Is(err, errBad) {
					t.Errorf("error %q hides what it is made of", err)
				}
				wantEvents(t, j.all(), "prepare a", "prepare b", "prepare c", "prepare d")
				if s := g.Status()[0]; s.State != Failed || s.LastError != "boom" {
					t.Errorf("status of a: %+v", s)
				}
			})
		})
	}
}

func TestPrepareThenRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup((&journal{}).logger())
		g.Add(&fake{name: "x"})
		if err := g.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		r := run(t, g)
		r.wantState("x", Ready)
		r.stop()
	})
}

func TestCancelWhilePreparing(t *testing.T) {
	release := make(chan struct{})
	tests := []struct {
		name    string
		prepare func(context.Context) error
		takes   time.Duration
		logged  string
	}{
		{"obeys", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, 0, "context canceled"},
		{"hangs", func(context.Context) error { <-release; return nil }, 2 * time.Second, "still busy 2s after it was asked to stop"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release = make(chan struct{})
				defer close(release)
				j := &journal{}
				g := NewGroup(j.logger())
				g.Add(&fake{name: "slow", journal: j, prepare: tt.prepare}, Grace(2*time.Second))
				g.Add(&fake{name: "next", journal: j})
				r := run(t, g)
				r.wantState("slow", Preparing)
				began := time.Now()
				r.stop()
				if took := time.Since(began); took != tt.takes {
					t.Errorf("stop took %v, want %v", took, tt.takes)
				}
				wantEvents(t, j.all(), "prepare slow")
				if lines := j.lines("asked to stop while preparing"); len(lines) != 1 || !strings.Contains(lines[0], tt.logged) {
					t.Errorf("log lines %q, want one with %q", lines, tt.logged)
				}
			})
		})
	}
}
