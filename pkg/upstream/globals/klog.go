package globals

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

// Context returns a context whose klog records are those of a component: for the
// libraries that several components use, above all client-go's informers, nothing else
// tells. It has an effect once [Apply] was called.
func Context(ctx context.Context, component string) context.Context {
	return klog.NewContext(ctx, klog.LoggerWithValues(klog.Background(), componentKey, component))
}

// useKlog leads klog's records, structured or not, to the handler. klog keeps
// deciding about -v and -vmodule.
func (b bridge) useKlog(verbosity int, vmodule []string) error {
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	for name, value := range map[string]string{
		"v":       strconv.Itoa(verbosity),
		"vmodule": strings.Join(vmodule, ","),
	} {
		if err := flags.Set(name, value); err != nil {
			return fmt.Errorf("set klog's -%s: %w", name, err)
		}
	}
	// It would wake up every five seconds for files that klog does not write here.
	klog.StopFlushDaemon()
	klog.EnableContextualLogging(true)
	klog.SetLoggerWithOptions(logr.New(&sink{bridge: b}),
		klog.ContextualLogger(true),
		// Without it a Warningf would arrive as Info (klog.go:901).
		klog.WriteKlogBuffer(b.writeKlogLine),
	)
	return nil
}

// sink takes the structured records: klog.InfoS, klog.FromContext and the like.
type sink struct {
	bridge
	depth     int
	name      string
	component string // "" to find out by the caller
	attrs     []slog.Attr
}

// Init implements [logr.LogSink].
func (s *sink) Init(info logr.RuntimeInfo) { s.depth = info.CallDepth }

// Enabled implements [logr.LogSink]. klog looks at the caller only if there is a
// -vmodule, and remembers the answer for each place.
func (s *sink) Enabled(level int) bool {
	return s.verbosity > 0 && (level == 0 || klog.VDepth(s.depth+1, klog.Level(level)).Enabled())
}

// Info implements [logr.LogSink]. klog's own functions come here without asking
// Enabled.
func (s *sink) Info(level int, message string, pairs ...any) {
	if s.verbosity > 0 {
		s.log(slog.Level(-level), message, nil, pairs)
	}
}

// Error implements [logr.LogSink].
func (s *sink) Error(err error, message string, pairs ...any) {
	s.log(slog.LevelError, message, err, pairs)
}

func (s *sink) log(level slog.Level, message string, err error, pairs []any) {
	var pc [1]uintptr
	runtime.Callers(s.depth+3, pc[:]) // without Callers, log, and Info or Error
	r := slog.NewRecord(time.Now(), level, message, pc[0])
	component := s.component
	if component == "" {
		component = componentOf(callers("k8s.io/klog/v2.", "github.com/go-logr/logr.", ownSink))
	}
	if s.name != "" {
		r.AddAttrs(slog.String("logger", s.name))
	}
	if err != nil {
		r.AddAttrs(slog.Any("err", err))
	}
	r.AddAttrs(s.attrs...)
	r.Add(readable(pairs)...)
	_ = s.write(component, r) // there is nowhere left to report a failure to write the log
}

// readable makes klog's references to objects the "namespace/name" that klog shows
// and people search for; to slog they are groups.
func readable(pairs []any) []any {
	for i, v := range pairs {
		if ref, ok := v.(klog.ObjectRef); ok {
			pairs = slices.Clone(pairs)
			pairs[i] = ref.String()
		}
	}
	return pairs
}

// WithName implements [logr.LogSink].
func (s *sink) WithName(name string) logr.LogSink {
	c := *s
	if c.name != "" {
		c.name += "/"
	}
	c.name += name
	return &c
}

// WithValues implements [logr.LogSink].
func (s *sink) WithValues(pairs ...any) logr.LogSink {
	c := *s
	r := slog.Record{}
	r.Add(readable(pairs)...)
	c.attrs = slices.Clip(c.attrs)
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == componentKey {
			c.component = a.Value.String()
		} else {
			c.attrs = append(c.attrs, a)
		}
		return true
	})
	return &c
}

// WithCallDepth implements [logr.CallDepthLogSink].
func (s *sink) WithCallDepth(depth int) logr.LogSink {
	c := *s
	c.depth += depth
	return &c
}

// ownSink begins the names of sink's methods.
const ownSink = "github.com/knarr-io/knarr/pkg/upstream/globals.(*sink)."

// klogLevels are the first letters of klog's lines.
var klogLevels = map[byte]slog.Level{'I': slog.LevelInfo, 'W': slog.LevelWarn, 'E': slog.LevelError, 'F': slog.LevelError}

// writeKlogLine takes the unstructured records as klog would have written them:
// "W0102 15:04:05.000000    1234 file.go:56] message\n" (klog.go:640). klog's lock is
// held: nothing in here may log by klog.
func (b bridge) writeKlogLine(line []byte) {
	if len(line) == 0 {
		return
	}
	level, ok := klogLevels[line[0]]
	if ok && !b.passes(level) {
		return
	}
	_, message, found := bytes.Cut(line, []byte("] "))
	if !ok || !found {
		level, message = slog.LevelWarn, line // not as expected, but said all the same
	}
	pcs := callers("k8s.io/klog/v2.")
	r := slog.NewRecord(time.Now(), level, string(bytes.TrimSpace(message)), pcs[0])
	_ = b.write(componentOf(pcs), r) // as in log
}
