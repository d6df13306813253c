package logging

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// noon is a moment whose clock time is easy to see.
var noon = time.Date(2026, 1, 2, 12, 0, 0, 5e6, time.UTC)

// logAt sends a record of a known time.
func logAt(h slog.Handler, level slog.Level, message string, args ...any) error {
	r := slog.NewRecord(noon, level, message, 0)
	r.Add(args...)
	return h.Handle(context.Background(), r)
}

func TestText(t *testing.T) {
	for _, test := range []struct {
		name string
		with func(slog.Handler) slog.Handler
		text string
		args []any
		want string
	}{
		{name: "no component", text: "hello", want: "knarr            hello"},
		{name: "component of the record", text: "up", args: []any{"component", "kubelet", "n", 1},
			want: "kubelet          up n=1"},
		{name: "long component", text: "up", args: []any{"component", "cloud-controller-manager"},
			want: "cloud-controller-manager up"},
		{name: "component of the logger", text: "up", args: []any{"n", 1},
			with: func(h slog.Handler) slog.Handler {
				return h.WithAttrs([]slog.Attr{slog.String("component", "a"), slog.Bool("b", true)})
			},
			want: "a                up b=true n=1"},
		{name: "groups", text: "up", args: []any{"n", 1, "component", "inner", slog.Group("h", "i", 2), slog.Group("", "j", 3)},
			with: func(h slog.Handler) slog.Handler { return h.WithGroup("g").WithGroup("") },
			want: "knarr            up g.n=1 g.component=inner g.h.i=2 g.j=3"},
		{name: "quoting", text: `it's "done"`,
			args: []any{"err", errors.New("no such file"), "empty", "", "eq", "a=b", "path", "/a/b", "took", 1500 * time.Millisecond, "at", noon},
			want: `knarr            it's "done" err="no such file" empty="" eq="a=b" path=/a/b took=1.5s at=2026-01-02T12:00:00.005Z`},
		{name: "one line without control characters", text: "two\nlines\x1b[2J\n", args: []any{"v", "a\nb", "k\x00", 1},
			want: `knarr            two\nlines\x1b[2J v="a\nb" k\x00=1`},
		{name: "empty attribute", text: "up", args: []any{slog.Attr{}}, want: "knarr            up"},
		{name: "a value that hides itself", text: "up", args: []any{"token", hidden{}}, want: "knarr            up token=***"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var b bytes.Buffer
			h, closer, err := New(Config{}, &b)
			if err != nil {
				t.Fatal(err)
			}
			if test.with != nil {
				h = test.with(h)
			}
			if err := logAt(h, slog.LevelInfo, test.text, test.args...); err != nil {
				t.Fatal(err)
			}
			if err := closer.Close(); err != nil {
				t.Fatal(err)
			}
			if want := "2026-01-02T12:00:00.005Z INFO  " + test.want + "\n"; b.String() != want {
				t.Errorf("got\n%swant\n%s", b.String(), want)
			}
		})
	}
}

type hidden struct{}

func (hidden) LogValue() slog.Value { return slog.StringValue("***") }

func TestLoggersDoNotShareAttributes(t *testing.T) {
	var b bytes.Buffer
	h, _, err := New(Config{}, &b)
	if err != nil {
		t.Fatal(err)
	}
	base := slog.New(h).With("a", 1, "b", 2, "c", 3)
	one, two := base.With("one", 1), base.With("two", 2)
	one.Info("x")
	two.Info("x")
	lines := strings.Split(b.String(), "\n")
	if !strings.HasSuffix(lines[0], "x a=1 b=2 c=3 one=1") || !strings.HasSuffix(lines[1], "x a=1 b=2 c=3 two=2") {
		t.Errorf("got\n%s", b.String())
	}
}

func TestLevels(t *testing.T) {
	for _, test := range []struct {
		config Config
		lowest slog.Level
	}{
		{Config{}, slog.LevelInfo},
		{Config{Debug: true}, slog.LevelDebug},
		{Config{Format: FormatJSON}, slog.LevelInfo},
		{Config{Format: FormatJSON, Debug: true}, slog.LevelDebug},
	} {
		h, _, err := New(test.config, &bytes.Buffer{})
		if err != nil {
			t.Fatal(err)
		}
		if !h.Enabled(t.Context(), test.lowest) || h.Enabled(t.Context(), test.lowest-1) {
			t.Errorf("%+v: the lowest level is not %v", test.config, test.lowest)
		}
	}
}

func TestHandleIgnoresEnabled(t *testing.T) {
	for _, format := range []string{FormatText, FormatJSON} {
		var b bytes.Buffer
		h, _, err := New(Config{Format: format}, &b)
		if err != nil {
			t.Fatal(err)
		}
		if err := logAt(h, slog.LevelDebug, "below"); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(b.String(), "below") || !strings.Contains(b.String(), "DEBUG") {
			t.Errorf("%s: got %q", format, b.String())
		}
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	h, closer, err := New(Config{Format: FormatJSON}, &b)
	if err != nil {
		t.Fatal(err)
	}
	for range repeats + 2 {
		slog.New(h).Warn("again", "component", "kubelet")
	}
	if err := closer.Close(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	var last struct{ Level, Msg, Component string }
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
		t.Fatal(err)
	}
	if len(lines) != repeats+1 || last.Level != "WARN" || last.Component != "kubelet" || last.Msg != "again (repeated 2 times)" {
		t.Errorf("%d lines, the last one %+v", len(lines), last)
	}
}

func TestUnknownFormat(t *testing.T) {
	if _, _, err := New(Config{Format: "xml"}, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "xml") {
		t.Errorf("error %v, want one that names the format", err)
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "knarr.log")
	for _, test := range []struct {
		also bool
		want int // lines on standard error
	}{{false, 0}, {true, 1}} {
		var b bytes.Buffer
		h, closer, err := New(Config{File: path, AlsoToStderr: test.also}, &b)
		if err != nil {
			t.Fatal(err)
		}
		if err := logAt(h, slog.LevelInfo, "hello"); err != nil {
			t.Fatal(err)
		}
		if err := closer.Close(); err != nil {
			t.Fatal(err)
		}
		if err := logAt(h, slog.LevelInfo, "after the end"); err != nil {
			t.Errorf("a record after Close: %v", err)
		}
		if n := strings.Count(b.String(), "hello\n"); n != test.want {
			t.Errorf("also %v: %d lines on standard error", test.also, n)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	line := "2026-01-02T12:00:00.005Z INFO  knarr            hello\n"
	if string(text) != line+line {
		t.Errorf("the file holds\n%s", text)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
}

func TestFileInNoDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none", "knarr.log")
	_, _, err := New(Config{File: path}, &bytes.Buffer{})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "--log") {
		t.Errorf("error %v, want one that names the file and --log", err)
	}
}

func TestFileIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "knarr.log")
	l, err := openFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.max = 100
	write := func(s string) {
		t.Helper()
		if _, err := l.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when, name, want string) {
		t.Helper()
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s: %s holds %q, want %q", when, filepath.Base(name), got, want)
		}
	}
	line := func(c string) string { return strings.Repeat(c, 59) + "\n" }

	write(line("a"))
	write(line("b"))
	check("full", path+".1", line("a"))
	check("full", path, line("b"))

	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	write(line("c"))
	check("truncated by another program", path+".1", line("a"))
	check("truncated by another program", path, line("c"))

	if err := os.Rename(path, path+".2"); err != nil {
		t.Fatal(err)
	}
	write(line("d"))
	check("renamed by another program", path+".1", line("a"))
	check("renamed by another program", path+".2", line("c"))
	check("renamed by another program", path, line("d"))
}

func TestStyleOfJournal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "stream"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	t.Setenv("JOURNAL_STREAM", "1:2")
	if got := styleOf(f); got != (style{stamp: stampFull}) {
		t.Errorf("redirected away from the journal: %+v", got)
	}
	t.Setenv("JOURNAL_STREAM", deviceAndInode(t, f))
	if got := styleOf(f); got != (style{priority: true}) {
		t.Errorf("journal: %+v", got)
	}
	h, _, err := New(Config{}, f)
	if err != nil {
		t.Fatal(err)
	}
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if err := logAt(h, level, "x"); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	want := ""
	for _, head := range []string{"<7>DEBUG", "<6>INFO ", "<4>WARN ", "<3>ERROR"} {
		want += head + " knarr            x\n"
	}
	if string(text) != want {
		t.Errorf("got\n%swant\n%s", text, want)
	}
}

func TestRepeatsAreSummarised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b buffer
		h, closer, err := New(Config{}, &b)
		if err != nil {
			t.Fatal(err)
		}
		lines := func() (texts []string) {
			synctest.Wait()
			for l := range strings.Lines(b.take()) {
				_, text, _ := strings.Cut(l, " ")
				texts = append(texts, strings.TrimSpace(text))
			}
			return texts
		}
		log := slog.New(h).With("component", "kubelet")

		for i := range repeats + 57 {
			log.Warn(fmt.Sprintf("no route to 10.0.0.%d", i), "try", i)
			<-time.After(time.Second / 2)
		}
		log.Info("info is not counted")
		for range repeats {
			log.With("component", "kube-proxy").Warn("no route to 10.0.0.1")
		}
		got := lines()
		if len(got) != repeats+1+repeats {
			t.Errorf("in the first minute %d lines:\n%s", len(got), strings.Join(got, "\n"))
		}

		<-time.After(window)
		want := "WARN  kubelet          no route to 10.0.0.61 (repeated 57 times) try=61"
		if got := lines(); len(got) != 1 || got[0] != want {
			t.Errorf("at the end of the minute %q, want %q", got, want)
		}

		for range repeats + 2 {
			log.Error("down")
		}
		if got := lines(); len(got) != repeats {
			t.Errorf("in a later minute %d lines", len(got))
		}
		if err := closer.Close(); err != nil {
			t.Fatal(err)
		}
		if got := lines(); len(got) != 1 || !strings.HasSuffix(got[0], "down (repeated 2 times)") {
			t.Errorf("at Close %q", got)
		}
		for range repeats + 2 {
			log.Error("down")
		}
		if got := lines(); len(got) != repeats+2 {
			t.Errorf("after Close %d lines", len(got))
		}
	})
}

func TestLimiterIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b buffer
		h, closer, err := New(Config{}, &b)
		if err != nil {
			t.Fatal(err)
		}
		name := func(i int) string { return strings.Repeat("x", i) }
		for i := range maxWindows + 10 {
			slog.New(h).Warn(name(i))
		}
		if n := open(h); n != maxWindows {
			t.Errorf("%d windows", n)
		}
		if n := strings.Count(b.take(), "\n"); n != maxWindows+10 {
			t.Errorf("%d lines", n)
		}
		<-time.After(window)
		synctest.Wait()
		if n := open(h); n != 0 {
			t.Errorf("%d windows after a minute", n)
		}
		if err := closer.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestWriteErrorsAreReturned(t *testing.T) {
	broken := errors.New("broken")
	h, _, err := New(Config{}, writerFunc(func([]byte) (int, error) { return 0, broken }))
	if err != nil {
		t.Fatal(err)
	}
	if err := logAt(h, slog.LevelInfo, "x"); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func deviceAndInode(t *testing.T, f *os.File) string {
	t.Helper()
	dev, ino, err := identity(f.Fd())
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d", dev, ino)
}

// open counts the windows of a handler's limiter.
func open(h slog.Handler) int {
	l := h.(*limitHandler).limiter
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.windows)
}

// buffer is for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// take returns what was written since the last call.
func (b *buffer) take() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.b.Reset()
	return b.b.String()
}
