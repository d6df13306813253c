package logging

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

const (
	// repeats is how many identical warnings or errors a window has room for.
	repeats = 5
	// window is the time in which identical records are counted together.
	window = time.Minute
	// maxWindows bounds the memory of the limiter. When so many different
	// records are open, further ones are not counted.
	maxWindows = 1000
)

// limiter counts identical records so that a loop of retries cannot fill a
// disk. Identical are records of one component whose messages differ in their
// numbers only; attributes do not matter.
type limiter struct {
	max int

	mu      sync.Mutex
	windows map[string]*repetition
	closed  bool
}

// repetition is one kind of record during one window.
type repetition struct {
	count int // records so far
	left  int // records not written
	// The latest one that was not written, to tell of when the window ends.
	last slog.Record
	next slog.Handler
	end  *time.Timer
}

func newLimiter(max int) *limiter {
	return &limiter{max: max, windows: map[string]*repetition{}}
}

// admit counts r and says whether it is to be written.
func (l *limiter) admit(component string, r slog.Record, next slog.Handler) bool {
	key := kind(component, r.Message)
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.windows[key]
	if w == nil {
		if l.closed || len(l.windows) >= maxWindows {
			return true
		}
		w = &repetition{}
		w.end = time.AfterFunc(window, func() { l.expire(key, w) })
		l.windows[key] = w
	}
	w.count++
	if w.count <= l.max {
		return true
	}
	w.left++
	w.last, w.next = r.Clone(), next
	return false
}

// kind is what identical records have in common.
func kind(component, message string) string {
	var b strings.Builder
	b.Grow(len(component) + 1 + len(message))
	b.WriteString(component)
	b.WriteByte(0)
	number := false
	for i := range len(message) {
		digit := '0' <= message[i] && message[i] <= '9'
		if !digit || !number {
			if digit {
				b.WriteByte('0')
			} else {
				b.WriteByte(message[i])
			}
		}
		number = digit
	}
	return b.String()
}

// expire ends a window. If w is not the window of its key any more, close was
// faster and has told of it.
func (l *limiter) expire(key string, w *repetition) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.windows[key] == w {
		delete(l.windows, key)
		w.summarise()
	}
}

// summarise writes how many records were left out. The lock of the limiter is
// held, so that nothing is written after close has returned.
func (w *repetition) summarise() {
	if w.left == 0 {
		return
	}
	r := slog.NewRecord(time.Now(), w.last.Level, fmt.Sprintf("%s (repeated %d times)", w.last.Message, w.left), w.last.PC)
	w.last.Attrs(func(a slog.Attr) bool { r.AddAttrs(a); return true })
	// There is nowhere left to report a failure to write the log.
	_ = w.next.Handle(context.Background(), r)
}

// close summarises all windows. Afterwards nothing is counted.
func (l *limiter) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for key, w := range l.windows {
		w.end.Stop()
		delete(l.windows, key)
		w.summarise()
	}
}

// limitHandler asks the limiter about warnings and errors.
type limitHandler struct {
	limiter   *limiter
	next      slog.Handler
	component string
	grouped   bool // inside a group no attribute is the component
}

// Enabled implements [slog.Handler].
func (h *limitHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// Handle implements [slog.Handler].
func (h *limitHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn && !h.limiter.admit(h.componentOf(r), r, h.next) {
		return nil
	}
	return h.next.Handle(ctx, r)
}

func (h *limitHandler) componentOf(r slog.Record) string {
	c := h.component
	if !h.grouped {
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == ComponentKey {
				c = a.Value.String()
			}
			return true
		})
	}
	return c
}

// WithAttrs implements [slog.Handler].
func (h *limitHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.next = h.next.WithAttrs(attrs)
	for _, a := range attrs {
		if !h.grouped && a.Key == ComponentKey {
			c.component = a.Value.String()
		}
	}
	return &c
}

// WithGroup implements [slog.Handler].
func (h *limitHandler) WithGroup(name string) slog.Handler {
	c := *h
	c.next, c.grouped = h.next.WithGroup(name), h.grouped || name != ""
	return &c
}
