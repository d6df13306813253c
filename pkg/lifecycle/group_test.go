package lifecycle

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
)

func TestMisusePanics(t *testing.T) {
	newGroup := func() *Group { return NewGroup((&journal{}).logger()) }
	ran := func(t *testing.T) *Group {
		g := newGroup()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := g.Run(ctx); err != nil {
			t.Fatal(err)
		}
		return g
	}
	tests := []struct {
		name string
		do   func(t *testing.T)
		want string
	}{
		{"ref of another group", func(*testing.T) {
			newGroup().Add(&fake{name: "x"}, After(newGroup().Add(&fake{name: "other"})))
		}, `"x" waits for "other", a component of another group`},
		{"zero ref", func(*testing.T) { newGroup().Add(&fake{name: "x"}, After(Ref{})) }, `"x" waits for the zero Ref`},
		{"ready on a foreign ref", func(t *testing.T) {
			if err := newGroup().Ready(t.Context(), newGroup().Add(&fake{name: "other"})); err != nil {
				t.Error(err)
			}
		}, `"Ready" waits for "other", a component of another group`},
		{"no name", func(*testing.T) { newGroup().Add(&fake{}) }, "*lifecycle.fake has no name"},
		{"same name", func(*testing.T) {
			g := newGroup()
			g.Add(&fake{name: "x"})
			g.Add(&fake{name: "x"})
		}, `two components are named "x"`},
		{"add to a running group", func(t *testing.T) { ran(t).Add(&fake{name: "x"}) }, `"x" added to a group that runs already`},
		{"prepare a running group", func(t *testing.T) {
			if err := ran(t).Prepare(t.Context()); err != nil {
				t.Error(err)
			}
		}, "Prepare of a group that runs already"},
		{"run twice", func(t *testing.T) {
			if err := ran(t).Run(t.Context()); err != nil {
				t.Error(err)
			}
		}, "a group runs only once"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			defer func() {
				if got, _ := recover().(string); !strings.Contains(got, tt.want) {
					t.Errorf("panic with %q, want %q", got, tt.want)
				}
			}()
			tt.do(t)
		})
	}
}

// A group that was refused a component is as it was before.
func TestARefusedAddChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup((&journal{}).logger())
		a := g.Add(&fake{name: "a"})
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			g.Add(&fake{name: "b"}, After(a, Ref{}))
		}()
		r := run(t, g)
		if got := len(g.Status()); got != 1 {
			t.Errorf("%d components, want 1", got)
		}
		r.stop()
	})
}
