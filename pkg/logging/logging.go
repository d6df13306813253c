// Package logging is the one log of the process: one [slog.Handler] that
// knarr's own records and those of everything it embeds end up in, as one
// aligned line each.
//
// It is not a bridge: pkg/upstream/globals leads klog, logrus, grpclog and the
// log package here. It chooses no level for them either; [Config] is about
// knarr's own records.
//
// It starts no goroutine. The [io.Closer] that [New] returns writes what is
// still to be said about repeated records and closes the log file.
package logging

import (
	"fmt"
	"io"
	"log/slog"
)

// ComponentKey is the attribute that says whose record it is. In text it is the
// column after the level and not repeated as key=value.
const ComponentKey = "component"

// The values of [Config.Format].
const (
	FormatText = "text"
	FormatJSON = "json"
)

// Config says what is logged and where to.
type Config struct {
	// Debug lets debug records pass; without it Info is the lowest level.
	Debug bool
	// Format is FormatText or FormatJSON; "" is FormatText.
	Format string
	// File is the path of the log file; "" logs to standard error. It is
	// created with mode 0600, appended to, and renamed to File.1 when it has
	// reached 16 MiB. Its directory must exist.
	File string
	// AlsoToStderr logs to standard error as well when File is set.
	AlsoToStderr bool
}

// New opens the log. stderr is asked for its file descriptor (Fd, as *os.File
// has it): a terminal gets the time of day and colours (unless NO_COLOR is
// set), the journal gets priorities instead of times, anything else full
// timestamps.
//
// Identical warnings and errors are written [repeats] times a minute and
// counted beyond that. The handler's Handle may be called for records that its
// Enabled refuses: the bridges have a verbosity of their own.
func New(c Config, stderr io.Writer) (slog.Handler, io.Closer, error) {
	o := &output{}
	if c.File == "" || c.AlsoToStderr {
		o.sinks = append(o.sinks, sink{stderr, styleOf(stderr)})
	}
	if c.File != "" {
		f, err := openFile(c.File)
		if err != nil {
			return nil, nil, err
		}
		o.sinks = append(o.sinks, sink{f, style{stamp: stampFull}})
		o.file = f
	}
	level := slog.LevelInfo
	if c.Debug {
		level = slog.LevelDebug
	}
	var h slog.Handler
	switch c.Format {
	case "", FormatText:
		h = &textHandler{out: o, min: level}
	case FormatJSON:
		h = slog.NewJSONHandler(o, &slog.HandlerOptions{Level: level})
	default:
		return nil, nil, fmt.Errorf("log format %q is unknown; use %s or %s", c.Format, FormatText, FormatJSON)
	}
	l := newLimiter(repeats)
	return &limitHandler{limiter: l, next: h}, &closer{l, o}, nil
}

// closer ends a log.
type closer struct {
	limiter *limiter
	out     *output
}

// Close writes the pending counts of repeated records and closes the log file.
// Records that arrive later go to standard error, if that is part of the log.
func (c *closer) Close() error {
	c.limiter.close()
	return c.out.close()
}
