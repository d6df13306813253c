package lifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestStatesAreObservedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []string
		var g *Group
		g = NewGroup((&journal{}).logger(), Observer(func(s Status) {
			seen = append(seen, fmt.Sprint(s.Name, " ", s.State, s.WaitingFor))
			if len(g.Status()) != 2 { // must not deadlock
				t.Error("the observer cannot see all components")
			}
		}))
		a := g.Add(&fake{name: "a", startsIn: time.Second})
		g.Add(&fake{name: "b", startsIn: time.Second}, After(a))
		r := run(t, g)
		if err := g.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.stop()
		wantEvents(t, seen,
			"a preparing[]", "a waiting[]", "b preparing[]", "b waiting[a]",
			"a starting[]", "a ready[]", "b starting[]", "b ready[]",
			"b stopping[]", "b stopped[]", "a stopping[]", "a stopped[]")
	})
}

func TestTheObserverIsCalledOneAtATime(t *testing.T) {
	calls := 0
	var inside atomic.Int32
	g := NewGroup((&journal{}).logger(), Observer(func(Status) {
		if inside.Add(1) != 1 {
			t.Error("two calls at a time")
		}
		for range 100 {
			runtime.Gosched() // an invitation to the others
		}
		inside.Add(-1)
		calls++
	}))
	for i := range 20 {
		g.Add(Func(fmt.Sprint("c", i), func(ctx context.Context, ready func()) error {
			ready()
			<-ctx.Done()
			return nil
		}))
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	if err := g.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if want := 20 * len([]State{Starting, Ready, Stopping, Stopped}); calls != want {
		t.Errorf("%d calls, want %d", calls, want)
	}
}

func TestStatusTellsSinceWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup((&journal{}).logger())
		g.Add(&fake{name: "x", startsIn: 7 * time.Second})
		began := time.Now()
		r := run(t, g)
		if err := g.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Minute)
		if got := r.status("x").Since.Sub(began); got != 7*time.Second {
			t.Errorf("ready since %v after the start, want 7s", got)
		}
		r.stop()
	})
}

func TestStatusAsJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup((&journal{}).logger())
		a := g.Add(&fake{name: "a", startsIn: time.Hour})
		g.Add(&fake{name: "b"}, After(a))
		g.Add(Func("c", func(context.Context, func()) error { return errBoom }), Optional())
		r := run(t, g)
		got, err := json.Marshal(g.Status())
		if err != nil {
			t.Fatal(err)
		}
		const want = `[{"name":"a","state":"starting","since":"2000-01-01T00:00:00Z"},` +
			`{"name":"b","state":"waiting","since":"2000-01-01T00:00:00Z","waitingFor":["a"]},` +
			`{"name":"c","state":"failed","since":"2000-01-01T00:00:00Z","lastError":"boom","optional":true}]`
		var statuses []Status
		if err := json.Unmarshal(got, &statuses); err != nil {
			t.Fatal(err)
		}
		for i := range statuses {
			statuses[i].Since = statuses[i].Since.UTC()
		}
		if got, err = json.Marshal(statuses); err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("\n got %s\nwant %s", got, want)
		}
		r.stop()
	})
}

func TestProgressNamesWhatIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := &journal{}
		g := NewGroup(j.logger(), Progress(3*time.Second, 5*time.Second))
		a := g.Add(&fake{name: "a"})
		b := g.Add(&fake{name: "b", startsIn: 9 * time.Second, stopsIn: 4 * time.Second}, After(a))
		g.Add(&fake{name: "c", startsIn: 2 * time.Second}, After(a, b))
		r := run(t, g)
		if err := g.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Hour) // a group that is ready says nothing
		r.stop()

		var got []string
		for _, line := range j.lines("msg=\"still") {
			got = append(got, line[strings.Index(line, "msg="):])
		}
		want := []string{
			`msg="still starting" components="b (starting for 3s), c (waiting for b for 3s)"`,
			`msg="still starting" components="b (starting for 8s), c (waiting for b for 8s)"`,
			`msg="still stopping" components="b (stopping for 3s)"`,
		}
		if !slices.Equal(got, want) {
			t.Errorf("lines:\n got %q\nwant %q", got, want)
		}
	})
}
