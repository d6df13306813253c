package globals

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"go.opentelemetry.io/otel"
	"google.golang.org/grpc/grpclog"
)

// verbosityDebug and verbosityTrace are klog's levels at which logrus's Debug and
// Trace pass.
const (
	verbosityDebug = 4
	verbosityTrace = 6
)

// useLogrus leads the standard logger of logrus, which containerd and kine use, to
// the handler. logrus drops what is below its level before it formats anything.
func (b bridge) useLogrus() {
	level := logrus.WarnLevel
	switch {
	case b.verbosity >= verbosityTrace:
		level = logrus.TraceLevel
	case b.verbosity >= verbosityDebug:
		level = logrus.DebugLevel
	case b.verbosity > 0:
		level = logrus.InfoLevel
	}
	logrus.SetLevel(level)
	logrus.SetOutput(io.Discard)
	logrus.SetFormatter(noFormat{})
	logrus.AddHook(logrusHook{b})
}

// noFormat spares the formatting of lines that nobody reads.
type noFormat struct{}

// Format implements [logrus.Formatter].
func (noFormat) Format(*logrus.Entry) ([]byte, error) { return nil, nil }

type logrusHook struct{ bridge }

// Levels implements [logrus.Hook].
func (logrusHook) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements [logrus.Hook].
func (h logrusHook) Fire(e *logrus.Entry) error {
	pcs := callers("github.com/sirupsen/logrus.", "github.com/containerd/log.")
	r := slog.NewRecord(e.Time, logrusLevel(e.Level), withoutValues(e.Message), pcs[0])
	for _, key := range slices.Sorted(maps.Keys(e.Data)) {
		r.AddAttrs(slog.Any(key, e.Data[key]))
	}
	return h.write(componentOf(pcs), r)
}

// value is that of a key in a request to the datastore, as protobuf writes it.
var value = regexp.MustCompile(`\bvalue:"(?:[^"\\]|\\.)*"`)

// withoutValues takes what may be a Secret out of what kine says of a request that failed (kine v0.17.5
// pkg/server/kv.go:142 and 154).
func withoutValues(message string) string {
	if !strings.HasPrefix(message, "error in txn ") && !strings.HasPrefix(message, "error in put ") {
		return message
	}
	return value.ReplaceAllLiteralString(message, `value:"…"`)
}

func logrusLevel(l logrus.Level) slog.Level {
	switch l {
	case logrus.PanicLevel, logrus.FatalLevel, logrus.ErrorLevel:
		return slog.LevelError
	case logrus.WarnLevel:
		return slog.LevelWarn
	case logrus.InfoLevel:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

// useGRPC leads grpc's own records to the handler. It replaces what
// apiserver/pkg/storage/etcd3/logger.go:27 installs when it is linked.
func (b bridge) useGRPC() { grpclog.SetLoggerV2(grpcLogger{b}) }

// grpcLogger takes grpc's warnings as Info and its Info as V(5): they are about
// single connections, which grpc makes anew, and whoever uses the connection
// reports the failure that matters.
type grpcLogger struct{ bridge }

const (
	grpcInfo    = slog.Level(-5)
	grpcWarning = slog.LevelInfo
)

func (g grpcLogger) log(level slog.Level, text func() string) {
	if !g.passes(level) {
		return
	}
	r := slog.NewRecord(time.Now(), level, strings.TrimSpace(text()), 0)
	_ = g.write("grpc", r) // there is nowhere left to report a failure to write the log
}

func (g grpcLogger) Info(args ...any) { g.log(grpcInfo, func() string { return fmt.Sprint(args...) }) }
func (g grpcLogger) Infoln(args ...any) {
	g.log(grpcInfo, func() string { return fmt.Sprintln(args...) })
}
func (g grpcLogger) Infof(f string, args ...any) {
	g.log(grpcInfo, func() string { return fmt.Sprintf(f, args...) })
}

func (g grpcLogger) Warning(args ...any) {
	g.log(grpcWarning, func() string { return fmt.Sprint(args...) })
}

func (g grpcLogger) Warningln(args ...any) {
	g.log(grpcWarning, func() string { return fmt.Sprintln(args...) })
}

func (g grpcLogger) Warningf(f string, args ...any) {
	g.log(grpcWarning, func() string { return fmt.Sprintf(f, args...) })
}

func (g grpcLogger) Error(args ...any) {
	g.log(slog.LevelError, func() string { return fmt.Sprint(args...) })
}

func (g grpcLogger) Errorln(args ...any) {
	g.log(slog.LevelError, func() string { return fmt.Sprintln(args...) })
}

func (g grpcLogger) Errorf(f string, args ...any) {
	g.log(slog.LevelError, func() string { return fmt.Sprintf(f, args...) })
}

// Fatal and its like are Error here: grpclog ends the process itself.
func (g grpcLogger) Fatal(args ...any)            { g.Error(args...) }
func (g grpcLogger) Fatalln(args ...any)          { g.Errorln(args...) }
func (g grpcLogger) Fatalf(f string, args ...any) { g.Errorf(f, args...) }

// V answers whether grpc's verbosity l is wanted; grpc itself asks for 2 at most.
func (g grpcLogger) V(l int) bool { return g.verbosity >= -int(grpcInfo) && l <= g.verbosity }

// useStandard leads the log package and slog's default logger to the handler.
func (b bridge) useStandard() {
	slog.SetDefault(slog.New(slogHandler{b, b.handler})) // it takes the log package as well, at Info
	log.SetFlags(0)
	log.SetPrefix("")
	log.SetOutput(standardWriter{b})
}

// standardWriter takes the lines of the log package. They have no level; most
// programs use it for what should be seen.
type standardWriter struct{ bridge }

// aboutPeers begins lines of net/http that tell of clients that went away or were
// never TLS clients (net/http/server.go:2013): scanners and health checks do so all
// day. They are Info.
const aboutPeers = "http: TLS handshake error"

// Write implements [io.Writer].
func (w standardWriter) Write(line []byte) (int, error) {
	level := slog.LevelWarn
	if bytes.HasPrefix(line, []byte(aboutPeers)) {
		level = slog.LevelInfo
	}
	if !w.passes(level) {
		return len(line), nil
	}
	pcs := callers("log.")
	r := slog.NewRecord(time.Now(), level, string(bytes.TrimSpace(line)), pcs[0])
	return len(line), w.write(componentOf(pcs), r)
}

// slogHandler is the handler of slog's default logger: upstream's levels.
type slogHandler struct {
	bridge
	next slog.Handler
}

// Enabled implements [slog.Handler].
func (h slogHandler) Enabled(_ context.Context, level slog.Level) bool { return h.passes(level) }

// Handle implements [slog.Handler].
func (h slogHandler) Handle(ctx context.Context, r slog.Record) error {
	c := r.Clone()
	c.AddAttrs(slog.String(componentKey, componentOf([]uintptr{r.PC})))
	return h.next.Handle(ctx, c)
}

// WithAttrs implements [slog.Handler].
func (h slogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return slogHandler{h.bridge, h.next.WithAttrs(attrs)}
}

// WithGroup implements [slog.Handler].
func (h slogHandler) WithGroup(name string) slog.Handler {
	return slogHandler{h.bridge, h.next.WithGroup(name)}
}

// useOTel leads errors of exporters to the handler: by default they go to the log
// package without a word about where they come from.
func (b bridge) useOTel() {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		r := slog.NewRecord(time.Now(), slog.LevelWarn, "export of traces failed", 0)
		r.AddAttrs(slog.Any("err", err))
		_ = b.write("opentelemetry", r) // as in log
	}))
}
