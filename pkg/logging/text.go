package logging

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// componentWidth fits nearly all names; a longer one shifts its own line.
	componentWidth = 16
	// anonymous is the component of a record that names none.
	anonymous = "knarr"
)

// textHandler writes "LEVEL component message key=value ..." lines.
type textHandler struct {
	out *output
	min slog.Level

	component string
	group     string // of attributes to come: "" or "name." for each
	attrs     []byte // of earlier WithAttrs: " key=value" for each
}

// Enabled implements [slog.Handler].
func (h *textHandler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.min }

// WithAttrs implements [slog.Handler].
func (h *textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.attrs = slices.Clip(c.attrs)
	for _, a := range attrs {
		c.add(c.group, a)
	}
	return &c
}

// WithGroup implements [slog.Handler].
func (h *textHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	c := *h
	c.group += name + "."
	return &c
}

// Handle implements [slog.Handler].
func (h *textHandler) Handle(_ context.Context, r slog.Record) error {
	l := *h
	l.attrs = slices.Clip(l.attrs)
	r.Attrs(func(a slog.Attr) bool { l.add(l.group, a); return true })
	if l.component == "" {
		l.component = anonymous
	}

	line := make([]byte, 0, 200)
	line = appendEscaped(line, l.component)
	for n := utf8.RuneCountInString(l.component); n < componentWidth; n++ {
		line = append(line, ' ')
	}
	line = append(line, ' ')
	line = appendEscaped(line, strings.TrimSpace(r.Message))
	line = append(line, l.attrs...)
	line = append(line, '\n')
	return h.out.line(r.Time, r.Level, line)
}

// add renders one attribute, or keeps it as the component.
func (h *textHandler) add(group string, a slog.Attr) {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			group += a.Key + "."
		}
		for _, inner := range v.Group() {
			h.add(group, inner)
		}
		return
	}
	if a.Equal(slog.Attr{}) {
		return
	}
	if group == "" && a.Key == ComponentKey {
		h.component = v.String()
		return
	}
	h.attrs = append(h.attrs, ' ')
	h.attrs = appendEscaped(h.attrs, group+a.Key)
	h.attrs = append(h.attrs, '=')
	h.attrs = appendValue(h.attrs, v)
}

func appendValue(b []byte, v slog.Value) []byte {
	s := ""
	switch v.Kind() {
	case slog.KindTime:
		s = v.Time().Format(time.RFC3339Nano)
	default:
		s = v.String()
	}
	if s == "" || strings.ContainsAny(s, " =\"") || strings.ContainsFunc(s, unprintable) {
		return strconv.AppendQuote(b, s)
	}
	return append(b, s...)
}

// appendEscaped keeps a record on one line and terminals unharmed: what is said
// in a message may come from a container.
func appendEscaped(b []byte, s string) []byte {
	if !strings.ContainsFunc(s, unprintable) {
		return append(b, s...)
	}
	q := strconv.Quote(s)
	return append(b, strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)...)
}

func unprintable(r rune) bool { return r == utf8.RuneError || !strconv.IsPrint(r) }

// label is the level in five letters, slog's or klog's between two steps too.
func label(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return "ERROR"
	case l >= slog.LevelWarn:
		return "WARN "
	case l >= slog.LevelInfo:
		return "INFO "
	default:
		return "DEBUG"
	}
}
