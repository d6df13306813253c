package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync/atomic"

	"go.uber.org/zap/zapcore"
)

// core is the end of etcd's logger.
type core struct {
	log *slog.Logger
	// closing is set when the member is being stopped, which etcd calls an error several times over.
	closing *atomic.Bool
	fields  []zapcore.Field
}

// Enabled implements [zapcore.LevelEnabler].
func (c core) Enabled(l zapcore.Level) bool { return c.log.Enabled(context.Background(), level(l)) }

// With implements [zapcore.Core].
func (c core) With(fields []zapcore.Field) zapcore.Core {
	c.fields = slices.Concat(c.fields, fields)
	return c
}

// Check implements [zapcore.Core].
func (c core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// harmless are warnings that every start of a member brings and that say nothing about it.
func harmless() []string {
	return []string{
		"Running http and grpc server on single port. This is not recommended for production.", // the HTTP part is not used
		"simple token is not cryptographically signed",                                         // there are no users and so no tokens
		"etcdserver: failed to register grpc metrics",                                          // of the server in memory: the other one's are there
	}
}

// Write implements [zapcore.Core].
func (c core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	if e.Level == zapcore.WarnLevel && slices.Contains(harmless(), e.Message) || c.closing.Load() && e.Level <= zapcore.ErrorLevel {
		return nil
	}
	values := zapcore.NewMapObjectEncoder()
	for _, f := range slices.Concat(c.fields, fields) {
		f.AddTo(values)
	}
	r := slog.NewRecord(e.Time, level(e.Level), "etcd: "+e.Message, e.Caller.PC)
	for _, key := range slices.Sorted(maps.Keys(values.Fields)) {
		r.AddAttrs(slog.String(key, fmt.Sprint(values.Fields[key])))
	}
	return c.log.Handler().Handle(context.Background(), r)
}

// Sync implements [zapcore.Core]: nothing is buffered.
func (core) Sync() error { return nil }

func level(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	default:
		return slog.LevelDebug
	}
}

// fatalHook takes the place of zap's end of the process: the member fails, and the goroutine that cannot go on ends.
type fatalHook struct{ m *Member }

// OnWrite implements [zapcore.CheckWriteHook].
func (h fatalHook) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := errors.New(e.Message)
	for _, f := range fields {
		if cause, ok := f.Interface.(error); ok {
			err = fmt.Errorf("%s: %w", e.Message, cause)
		}
	}
	h.m.fail(err)
	runtime.Goexit()
}
