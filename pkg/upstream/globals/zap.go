package globals

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	_ "unsafe" // for go:linkname

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	_ "k8s.io/apiserver/pkg/storage/storagebackend/factory" // has etcd3ClientLogger
)

// etcd3ClientLogger is the logger of all etcd clients in kube-apiserver. Upstream
// makes it in an init function, for JSON on standard error, and offers no way to
// replace it (k8s.io/apiserver/pkg/storage/storagebackend/factory/etcd3.go:90): this
// name is the only way to it. While a datastore is out of reach a client writes forty
// lines a second, which must not go past the counting of repeated records.
//
//go:linkname etcd3ClientLogger k8s.io/apiserver/pkg/storage/storagebackend/factory.etcd3ClientLogger
var etcd3ClientLogger *zap.Logger

// useZap leads the etcd clients' records to the handler. The logger keeps its place:
// what it consists of is exchanged.
func (b bridge) useZap() {
	*etcd3ClientLogger = *zap.New(zapCore{bridge: b, component: "kube-apiserver"}).Named("etcd-client")
}

// zapCore is the end of a zap logger.
type zapCore struct {
	bridge
	component string
	fields    []zapcore.Field
}

// Enabled implements [zapcore.LevelEnabler].
func (c zapCore) Enabled(l zapcore.Level) bool { return c.passes(zapLevel(l)) }

// With implements [zapcore.Core].
func (c zapCore) With(fields []zapcore.Field) zapcore.Core {
	c.fields = slices.Concat(c.fields, fields)
	return c
}

// Check implements [zapcore.Core].
func (c zapCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write implements [zapcore.Core].
func (c zapCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	r := slog.NewRecord(e.Time, zapLevel(e.Level), e.Message, e.Caller.PC)
	if e.LoggerName != "" {
		r.AddAttrs(slog.String("logger", e.LoggerName))
	}
	values := zapcore.NewMapObjectEncoder()
	for _, f := range slices.Concat(c.fields, fields) {
		f.AddTo(values)
	}
	for _, key := range slices.Sorted(maps.Keys(values.Fields)) {
		r.AddAttrs(slog.String(key, fmt.Sprint(values.Fields[key])))
	}
	return c.write(c.component, r)
}

// Sync implements [zapcore.Core]: nothing is buffered.
func (zapCore) Sync() error { return nil }

func zapLevel(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	case l == zapcore.InfoLevel:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}
