package lifecycle

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errBoom = errors.New("boom")

// journal is an append-only list of what happened, and a log to write to.
type journal struct {
	mu     sync.Mutex
	events []string
	out    bytes.Buffer
}

func (j *journal) add(event string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = append(j.events, event)
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.events)
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.out.Write(p)
}

// lines returns what was logged and contains part.
func (j *journal) lines(part string) (found []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for line := range strings.Lines(j.out.String()) {
		if strings.Contains(line, part) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

func (j *journal) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// fake is a component whose every step can be given. The zero steps are those
// of a good component that takes no time.
type fake struct {
	name       string
	journal    *journal
	startsIn   time.Duration // until it calls ready
	stopsIn    time.Duration // after its context was cancelled
	failsIn    time.Duration // after ready, 0 for never
	failure    error         // what it ends with after failsIn
	stopResult error         // what it returns when stopped
	prepare    func(context.Context) error
	check      func(context.Context) error
}

func (f *fake) Name() string { return f.name }

func (f *fake) Run(ctx context.Context, ready func()) error {
	f.note("start")
	defer f.note("end")
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(f.startsIn):
	}
	f.note("ready")
	ready()
	var failed <-chan time.Time
	if f.failsIn > 0 {
		failed = time.After(f.failsIn)
	}
	select {
	case <-failed:
		return f.failure
	case <-ctx.Done():
	}
	f.note("stop")
	<-time.After(f.stopsIn)
	return f.stopResult
}

func (f *fake) note(event string) {
	if f.journal != nil {
		f.journal.add(event + " " + f.name)
	}
}

func (f *fake) Prepare(ctx context.Context) error {
	f.note("prepare")
	if f.prepare == nil {
		return nil
	}
	return f.prepare(ctx)
}

func (f *fake) Check(ctx context.Context) error {
	if f.check == nil {
		return nil
	}
	return f.check(ctx)
}

// running is a group whose Run is under way inside a synctest bubble.
type running struct {
	t      *testing.T
	group  *Group
	cancel context.CancelCauseFunc
	ended  chan struct{}
	err    error
}

// run starts the group and returns when nothing more happens without time
// passing.
func run(t *testing.T, g *Group) *running {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	r := &running{t: t, group: g, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		r.err = g.Run(ctx)
	}()
	synctest.Wait()
	return r
}

// result waits for the end of Run.
func (r *running) result() error {
	<-r.ended
	return r.err
}

// stop asks the group to stop and expects it to do so cleanly.
func (r *running) stop() {
	r.t.Helper()
	r.cancel(errors.New("end of test"))
	if err := r.result(); err != nil {
		r.t.Errorf("Run returned %q after it was asked to stop, want nil", err)
	}
}

func (r *running) status(name string) Status {
	r.t.Helper()
	for _, s := range r.group.Status() {
		if s.Name == name {
			return s
		}
	}
	r.t.Fatalf("no status of %s", name)
	return Status{}
}

func (r *running) wantState(name string, want State) {
	r.t.Helper()
	if got := r.status(name).State; got != want {
		r.t.Errorf("%s is %s, want %s", name, got, want)
	}
}

func wantEvents(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("events:\n got %q\nwant %q", got, want)
	}
}

// wantError checks that err is there and says each of parts.
func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}
