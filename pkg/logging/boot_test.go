package logging

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/tests/golden"
)

// screen is a terminal that knows what Boot uses: newline, return, erase, colours.
type screen struct {
	mu      sync.Mutex
	columns int // 0 for no terminal
	lines   []string
	bad     []string
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lines) == 0 {
		s.lines = []string{""}
	}
	for rest := string(p); rest != ""; {
		last := &s.lines[len(s.lines)-1]
		switch {
		case strings.HasPrefix(rest, "\r\x1b[K") && s.columns > 0:
			*last, rest = "", rest[4:]
		case rest[0] == '\n':
			s.lines, rest = append(s.lines, ""), rest[1:]
		case colour.MatchString(rest) && s.columns > 0:
			c := colour.FindString(rest)
			*last, rest = *last+"‹"+c[2:len(c)-1]+"›", rest[len(c):]
		case rest[0] < ' ':
			s.bad, rest = append(s.bad, fmt.Sprintf("%q", rest[0])), rest[1:]
		default:
			_, n := utf8.DecodeRuneInString(rest)
			*last, rest = *last+rest[:n], rest[n:]
		}
	}
	open := s.lines[len(s.lines)-1] // only this one must never be wrapped
	if n := utf8.RuneCountInString(open); s.columns > 0 && n >= s.columns {
		s.bad = append(s.bad, fmt.Sprintf("a last line of %d columns: %s", n, open))
	}
	return len(p), nil
}

var colour = regexp.MustCompile(`^\x1b\[[0-9]*m`)

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

// fake is a component of a test: after its time it is ready, or fails.
type fake struct {
	name  string
	takes time.Duration
	err   error
	after []string
	opts  []lifecycle.Option
}

// No time is a multiple of redrawEvery: what happens at once happens in any order.
var healthy = []fake{
	{name: "datastore", takes: 130 * time.Millisecond},
	{name: "containerd", takes: 250 * time.Millisecond},
	{name: "kube-apiserver", takes: 800 * time.Millisecond, after: []string{"datastore"}},
	{name: "cloud-controller-manager", takes: 150 * time.Millisecond, after: []string{"kube-apiserver"}},
	{name: "kubelet", takes: 410 * time.Millisecond, after: []string{"kube-apiserver", "containerd"}},
	{name: "network-policy", takes: 45 * time.Millisecond, after: []string{"kubelet"}},
}

// with replaces the component of the same name.
func with(all []fake, f fake) []fake {
	changed := make([]fake, len(all))
	for i, a := range all {
		changed[i] = a
		if a.name == f.name {
			f.after = a.after
			changed[i] = f
		}
	}
	return changed
}

// build makes a group of fakes.
func build(g *lifecycle.Group, fakes []fake) {
	refs := map[string]lifecycle.Ref{}
	for _, f := range fakes {
		opts := f.opts
		for _, a := range f.after {
			opts = append(opts, lifecycle.After(refs[a]))
		}
		refs[f.name] = g.Add(lifecycle.Func(f.name, func(ctx context.Context, ready func()) error {
			select {
			case <-time.After(f.takes):
			case <-ctx.Done():
				return nil
			}
			if f.err != nil {
				return f.err
			}
			ready()
			<-ctx.Done()
			return nil
		}), opts...)
	}
}

// bootOf boots fakes on a screen and returns it as seen from time to time.
func bootOf(t *testing.T, columns int, paint bool, fakes []fake, looks []time.Duration) string {
	s := &screen{columns: columns}
	b := NewBoot(BootConfig{
		Version: "v1.37.1+knarr1", Role: "server", Node: "lab1", Started: time.Now(),
		Facts:  []Fact{{"data-dir", "/var/lib/knarr"}, {"datastore", "SQLite"}, {"API", "https://10.0.0.5:6443"}, {"unset", ""}},
		Result: []Fact{{"kubeconfig", "/etc/knarr/knarr.yaml"}, {"try", "knarr kubectl get nodes"}},
		Help:   []string{"Nothing was lost. Start again with --debug to see more."},
	}, s)
	b.tty, b.style.colour, b.width = columns > 0, paint, func() int { return columns }
	h, closer, err := New(Config{}, b)
	if err != nil {
		t.Fatal(err)
	}
	g := lifecycle.NewGroup(slog.New(b.Handler(h)), lifecycle.Observer(b.Observe))
	build(g, fakes)
	if err := b.Begin(g.Status); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()

	var seen strings.Builder
	at := time.Duration(0)
	for _, l := range looks {
		<-time.After(l - at)
		at = l
		synctest.Wait()
		fmt.Fprintf(&seen, "--- after %v\n%s⏎\n", l, s)
	}
	log := slog.New(h).With("component", "kubelet")
	log.Warn("a warning")
	synctest.Wait()
	cancel()
	if err := <-ended; err != nil {
		log.Error("knarr ended", "err", err)
	}
	b.End()
	b.End()
	if err := closer.Close(); err != nil {
		t.Fatal(err)
	}
	for _, bad := range s.bad {
		t.Error(bad)
	}
	fmt.Fprintf(&seen, "--- in the end\n%s⏎\n", s)
	return seen.String()
}

func TestBootScreen(t *testing.T) {
	broken := errors.New("open /var/lib/kubelet/config.yaml: permission denied;\nrun knarr as root")
	ms := time.Millisecond
	for _, test := range []struct {
		name    string
		columns int
		colour  bool
		fakes   []fake
		looks   []time.Duration
	}{
		{name: "tty-80", columns: 80, fakes: healthy, looks: []time.Duration{50 * ms, 150 * ms, 320 * ms, 1010 * ms, 2000 * ms}},
		{name: "tty-40", columns: 40, fakes: healthy, looks: []time.Duration{150 * ms, 1010 * ms, 2000 * ms}},
		{name: "tty-colour", columns: 80, colour: true, fakes: healthy, looks: []time.Duration{2000 * ms}},
		{name: "tty-asked-to-stop", columns: 80, fakes: healthy, looks: []time.Duration{1010 * ms}},
		{name: "tty-failure", columns: 80, colour: true, looks: []time.Duration{2000 * ms},
			fakes: with(healthy, fake{name: "kubelet", takes: 300 * ms, err: broken})},
		{name: "plain", fakes: healthy, looks: []time.Duration{150 * ms, 2000 * ms}},
		{name: "plain-slow", looks: []time.Duration{70 * time.Second},
			fakes: with(healthy, fake{name: "kube-apiserver", takes: time.Minute})},
		{name: "plain-failure", looks: []time.Duration{2000 * ms},
			fakes: with(healthy, fake{name: "kubelet", takes: 300 * ms, err: broken})},
		{name: "plain-optional-failure", looks: []time.Duration{2000 * ms},
			fakes: with(healthy, fake{name: "cloud-controller-manager", takes: 300 * ms, err: broken, opts: []lifecycle.Option{lifecycle.Optional()}})},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got := bootOf(t, test.columns, test.colour, test.fakes, test.looks)
				golden.Check(t, filepath.Join("testdata", "boot-"+test.name+".txt"), got)
			})
		})
	}
}

// TestBootKeepsTheLogWhole has everything speak at once; the race detector and the
// screen look for what is torn.
func TestBootKeepsTheLogWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &screen{columns: 80}
		b := NewBoot(BootConfig{Started: time.Now()}, s)
		b.tty, b.width = true, func() int { return 80 }
		h, _, err := New(Config{}, b)
		if err != nil {
			t.Fatal(err)
		}
		g := lifecycle.NewGroup(slog.New(b.Handler(h)), lifecycle.Observer(b.Observe))
		build(g, healthy)
		if err := b.Begin(g.Status); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := g.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		const writers, records = 4, 40
		for range writers {
			wg.Go(func() {
				for i := range records {
					<-time.After(37 * time.Millisecond)
					slog.New(h).Info("a record that is whole", "n", i)
				}
			})
		}
		<-time.After(5 * time.Second)
		cancel()
		wg.Wait()
		b.End()
		whole := regexp.MustCompile(`(?m)^20.* INFO  knarr            a record that is whole n=\d+$`)
		if n := len(whole.FindAllString(s.String(), -1)); n != writers*records {
			t.Errorf("%d records of %d:\n%s", n, writers*records, s)
		}
		for _, bad := range s.bad {
			t.Error(bad)
		}
	})
}

func TestBootHandlerLeavesOutInfoWhileShown(t *testing.T) {
	for _, debug := range []bool{false, true} {
		b := NewBoot(BootConfig{}, &bytes.Buffer{})
		h, _, err := New(Config{Debug: debug}, b)
		if err != nil {
			t.Fatal(err)
		}
		g := b.Handler(h).WithAttrs([]slog.Attr{slog.Int("a", 1)}).WithGroup("g")
		check := func(when string, want bool) {
			t.Helper()
			if got := g.Enabled(t.Context(), slog.LevelInfo); got != want {
				t.Errorf("debug %v, %s: Info is enabled: %v", debug, when, got)
			}
			if !g.Enabled(t.Context(), slog.LevelWarn) {
				t.Errorf("debug %v, %s: Warn is not enabled", debug, when)
			}
		}
		check("before Begin", true)
		if err := b.Begin(func() []lifecycle.Status { return nil }); err != nil {
			t.Fatal(err)
		}
		check("shown", debug)
		b.End()
		check("after End", true)
	}
}

func TestBootIsNoTerminalWithoutOne(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b := NewBoot(BootConfig{}, f); b.tty || b.Fd() != f.Fd() || b.style.colour {
		t.Errorf("a file: tty %v, fd %d", b.tty, b.Fd())
	}
	b := NewBoot(BootConfig{}, &bytes.Buffer{})
	if b.tty || styleOf(b) != (style{stamp: stampFull}) {
		t.Errorf("a buffer: tty %v, %+v", b.tty, styleOf(b))
	}
	b.Observe(lifecycle.Status{Name: "early", State: lifecycle.Ready}) // nothing to show, nothing to break
	b.End()
	if n := b.out.(*bytes.Buffer).Len(); n != 0 {
		t.Errorf("%d bytes without Begin", n)
	}
}

// TestReadyLinesWrap has more components ready at once than a line has room for.
func TestReadyLinesWrap(t *testing.T) {
	b := NewBoot(BootConfig{Started: time.Unix(0, 0)}, io.Discard)
	for i := range 9 {
		b.ready = append(b.ready, lifecycle.Status{Name: fmt.Sprintf("component-%d", i), Since: time.Unix(1, int64(i)*1e8)})
	}
	const want = `ready      1.8 s  component-0, component-1, component-2, component-3,
                  component-4, component-5, component-6, component-7,
                  component-8
`
	if got := b.takeReady(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if got := b.takeReady(); got != "" {
		t.Errorf("they are shown twice: %s", got)
	}
}
