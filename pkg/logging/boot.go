package logging

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/knarr-io/knarr/pkg/lifecycle"
)

// How often what is waited for is told.
const (
	redrawEvery   = 100 * time.Millisecond // on a terminal
	progressFirst = 3 * time.Second        // elsewhere; each time twice as long,
	progressMost  = time.Minute            // at most
	// gather is how long a component that is ready waits for others to share its line.
	gather = 200 * time.Millisecond
)

// BootConfig is what a [Boot] shows besides components.
type BootConfig struct {
	// Version is knarr's, Role "server" or "agent", Node the node's name.
	Version string
	Role    string
	Node    string
	// Facts are lines below the title, such as the data-dir; those without a
	// value are left out.
	Facts []Fact
	// Result are lines at the end, such as the path of the kubeconfig and a
	// command to try; those without a value are left out.
	Result []Fact
	// Help says what to do when a component fails; one sentence a line.
	Help []string
	// Started is when the process was executed; times are counted from it.
	Started time.Time
}

// Fact is a line of a [Boot]: a name of up to ten letters and its value.
type Fact struct{ Name, Value string }

// Boot shows the start of the process on one screen: who starts, the components
// as they are ready, those of about the same moment in one line, what is waited
// for meanwhile, and what to do at the end. On a terminal the last line tells at
// each moment what is waited for; anywhere else there are plain lines only.
//
// The log goes through it ([Boot.Write]) so that both share a terminal. When all
// components are ready, or one has failed, or the process is asked to stop, Boot is
// over: from then on it passes the log on, and the log alone tells.
type Boot struct {
	config BootConfig
	out    io.Writer
	style  style
	tty    bool
	width  func() int // columns; only asked on a terminal

	mu     sync.Mutex
	status func() []lifecycle.Status // of all components; constant while on
	on     bool                      // between Begin and the end of the boot
	line   string                    // the last line, without newline
	timer  *time.Timer               // calls tick
	pause  time.Duration             // until the next tick
	ready  []lifecycle.Status        // ready and not shown yet
	gather *time.Timer               // shows them
}

// NewBoot makes a Boot that writes to out, normally standard error. What out is
// decides the form, as for [New].
func NewBoot(c BootConfig, out io.Writer) *Boot {
	b := &Boot{config: c, out: out, style: styleOf(out)}
	if f, ok := out.(interface{ Fd() uintptr }); ok && term.IsTerminal(int(f.Fd())) {
		b.tty = true
		b.width = func() int { return widthOf(f.Fd()) }
	}
	return b
}

// widthOf is 80 for a terminal that does not say.
func widthOf(fd uintptr) int {
	if w, _, err := term.GetSize(int(fd)); err == nil && w > 0 {
		return w
	}
	return 80
}

// errNoFile says that there is no file descriptor behind a Boot.
const errNoFile = ^uintptr(0)

// Fd is the file descriptor behind it, so that [New] finds out that a Boot is a
// terminal if its output is one.
func (b *Boot) Fd() uintptr {
	if f, ok := b.out.(interface{ Fd() uintptr }); ok {
		return f.Fd()
	}
	return errNoFile
}

// Write writes lines of the log, above the line that tells what is waited for.
func (b *Boot) Write(lines []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.line == "" {
		return b.out.Write(lines)
	}
	return len(lines), b.put(string(lines), b.line)
}

// Begin shows the title. status is the Status of the group whose observer Observe
// is. Begin comes before the group runs; without it nothing is shown.
func (b *Boot) Begin(status func() []lifecycle.Status) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status, b.on = status, true
	b.pause = progressFirst
	if b.tty {
		b.pause = redrawEvery
	}
	b.timer = time.AfterFunc(b.pause, b.tick)
	b.gather = time.AfterFunc(gather, b.flush)
	return b.put(b.title(), "")
}

// Observe is the observer of the group; see [lifecycle.Observer].
func (b *Boot) Observe(s lifecycle.Status) {
	if !b.shows() {
		return
	}
	all := b.status() // without the lock: the group has one of its own
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.on {
		return
	}
	text, broken := "", false
	switch s.State {
	case lifecycle.Ready:
		if b.ready = append(b.ready, s); len(b.ready) == 1 {
			b.gather.Reset(gather)
		}
	case lifecycle.Failed:
		text = b.takeReady() + b.failed(s)
		broken = !s.Optional
	case lifecycle.Stopping, lifecycle.Stopped:
		broken = !s.Optional // the group is asked to stop
	}
	over := broken || settled(all)
	if over {
		text = b.takeReady() + text
	}
	if over && !broken {
		text += b.result(all)
	}
	if text != "" {
		// A screen that cannot be written to is no reason to fail: the log, which
		// goes the same way, is not either. The last line comes back with the tick.
		_ = b.put(text, "")
	}
	if over {
		b.end()
	}
}

// End takes the last line away, whatever has become of the boot. It may be called
// more than once.
func (b *Boot) End() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.end()
}

func (b *Boot) end() {
	if !b.on {
		return
	}
	b.on = false
	b.timer.Stop()
	b.gather.Stop()
	_ = b.put("", "") // as in Observe
}

// flush shows what is ready.
func (b *Boot) flush() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.on && len(b.ready) > 0 {
		_ = b.put(b.takeReady(), "") // as in Observe
	}
}

// settled reports whether there is nothing left to wait for.
func settled(all []lifecycle.Status) bool {
	return !slices.ContainsFunc(all, pending)
}

func pending(s lifecycle.Status) bool {
	return slices.Contains([]lifecycle.State{lifecycle.Waiting, lifecycle.Preparing, lifecycle.Starting}, s.State)
}

// tick tells what is waited for.
func (b *Boot) tick() {
	all := b.status() // as in Observe
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.on || settled(all) {
		return
	}
	var err error
	if b.tty {
		err = b.put("", b.waiting(all, b.width()-1))
	} else {
		b.pause = min(2*b.pause, progressMost)
		err = b.put(b.waiting(all, 0)+"\n", "")
	}
	if err == nil { // else nobody looks any more
		b.timer.Reset(b.pause)
	}
}

// put writes whole lines in place of the last line, and a new last line, which the
// cursor stays on. It is one write, so that nothing flickers.
func (b *Boot) put(lines, last string) error {
	text := lines + last
	if b.line != "" {
		text = "\r\x1b[K" + text
	}
	b.line = last
	if text == "" {
		return nil
	}
	_, err := io.WriteString(b.out, text)
	return err
}

// Handler is for the logger of the group: as long as the boot is shown, it leaves
// out what the screen tells anyway, that is Info. With debug records in the log
// nothing is left out.
func (b *Boot) Handler(next slog.Handler) slog.Handler { return &bootHandler{b, next} }

type bootHandler struct {
	boot *Boot
	next slog.Handler
}

// Enabled implements [slog.Handler].
func (h *bootHandler) Enabled(ctx context.Context, level slog.Level) bool {
	if level < slog.LevelWarn && h.boot.shows() && !h.next.Enabled(ctx, slog.LevelDebug) {
		return false
	}
	return h.next.Enabled(ctx, level)
}

func (b *Boot) shows() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.on
}

// Handle implements [slog.Handler].
func (h *bootHandler) Handle(ctx context.Context, r slog.Record) error { return h.next.Handle(ctx, r) }

// WithAttrs implements [slog.Handler].
func (h *bootHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &bootHandler{h.boot, h.next.WithAttrs(attrs)}
}

// WithGroup implements [slog.Handler].
func (h *bootHandler) WithGroup(name string) slog.Handler {
	return &bootHandler{h.boot, h.next.WithGroup(name)}
}
