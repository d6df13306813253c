package logging

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"
)

// Layouts of the time in front of a line.
const (
	stampClock = "15:04:05.000"
	stampFull  = "2006-01-02T15:04:05.000Z07:00"
)

// style is what a sink wants in front of a line.
type style struct {
	stamp    string // "" for no time
	colour   bool
	priority bool // "<4>" as sd-daemon(3) has it
}

// sink is a place that lines go to.
type sink struct {
	w io.Writer
	style
}

// output writes whole lines to all its sinks, one at a time.
type output struct {
	mu    sync.Mutex
	sinks []sink
	file  *logFile // one of the sinks; nil without a log file
}

// line writes rest behind the time and the level. A zero time is left out.
func (o *output) line(at time.Time, level slog.Level, rest []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	for _, s := range o.sinks {
		b := make([]byte, 0, len(rest)+50)
		b = s.appendHead(b, at, level)
		b = append(b, rest...)
		if _, err := s.w.Write(b); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Write is for lines that are complete, as JSON's are.
func (o *output) Write(line []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	for _, s := range o.sinks {
		if _, err := s.w.Write(line); err != nil {
			errs = append(errs, err)
		}
	}
	return len(line), errors.Join(errs...)
}

func (o *output) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file == nil {
		return nil
	}
	f := o.file
	o.file = nil
	kept := o.sinks[:0]
	for _, s := range o.sinks {
		if s.w != io.Writer(f) {
			kept = append(kept, s)
		}
	}
	o.sinks = kept
	return f.Close()
}

func (s style) appendHead(b []byte, at time.Time, level slog.Level) []byte {
	if s.priority {
		b = append(b, '<', priority(level), '>')
	}
	if s.stamp != "" && !at.IsZero() {
		b = at.AppendFormat(b, s.stamp)
		b = append(b, ' ')
	}
	on, off := "", ""
	if s.colour {
		on, off = colours(level)
	}
	b = append(b, on...)
	b = append(b, label(level)...)
	b = append(b, off...)
	return append(b, ' ')
}

// priority is syslog(3)'s number for a level.
func priority(l slog.Level) byte {
	switch {
	case l >= slog.LevelError:
		return '3'
	case l >= slog.LevelWarn:
		return '4'
	case l >= slog.LevelInfo:
		return '6'
	default:
		return '7'
	}
}

// The terminal's control sequences.
const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	faint  = "\x1b[2m"
	bold   = "\x1b[1m"
	plain  = "\x1b[0m"
)

func colours(l slog.Level) (on, off string) {
	switch {
	case l >= slog.LevelError:
		return red, plain
	case l >= slog.LevelWarn:
		return yellow, plain
	case l >= slog.LevelInfo:
		return "", ""
	default:
		return faint, plain
	}
}

// styleOf finds out what w is.
func styleOf(w io.Writer) style {
	f, ok := w.(interface{ Fd() uintptr })
	switch {
	case ok && term.IsTerminal(int(f.Fd())):
		return style{stamp: stampClock, colour: os.Getenv("NO_COLOR") == ""}
	case ok && isJournal(f.Fd()):
		return style{priority: true}
	default:
		return style{stamp: stampFull}
	}
}

// isJournal compares a file with what systemd says standard error was when it
// started the service; see JOURNAL_STREAM in systemd.exec(5). The variable
// alone says nothing: it is inherited by what runs in a redirection.
func isJournal(fd uintptr) bool {
	want := os.Getenv("JOURNAL_STREAM")
	if want == "" {
		return false
	}
	dev, ino, err := identity(fd)
	return err == nil && want == fmt.Sprintf("%d:%d", dev, ino)
}

// identity is a file's device and inode.
func identity(fd uintptr) (dev, ino uint64, err error) {
	var st syscall.Stat_t
	err = syscall.Fstat(int(fd), &st)
	return uint64(st.Dev), st.Ino, err
}
