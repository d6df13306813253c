package datastore

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
)

// TestMadeByAnother opens a store that another server is making, and ones that cannot be opened.
func TestMadeByAnother(t *testing.T) {
	exists := errors.New(`ERROR: duplicate key value violates unique constraint "pg_type_typname_nsp_index" (SQLSTATE 23505)`)
	for name, tt := range map[string]struct {
		errs     []error // of the attempts; the last stays
		attempts int
	}{
		"made meanwhile": {[]error{exists, exists, nil}, 3},
		"first key":      {[]error{errors.New("rpc error: code = InvalidArgument desc = etcdserver: duplicate key given in txn request"), nil}, 2},
		"never made":     {[]error{exists}, openAttempts},
		"nobody listens": {[]error{errors.New("connection refused")}, 1},
		"there at once":  {[]error{nil}, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			attempts := 0
			c := New(Config{}, slog.New(slog.DiscardHandler))
			c.engine.open = func(context.Context, Config, *slog.Logger) (*backend, error) {
				err := tt.errs[min(attempts, len(tt.errs)-1)]
				attempts++
				if err != nil {
					return nil, err
				}
				return &backend{}, nil
			}
			b, err := c.openEngine(t.Context())
			if last := tt.errs[len(tt.errs)-1]; attempts != tt.attempts || !errors.Is(err, last) || (err == nil) != (b != nil) {
				t.Errorf("%s: %v after %d attempts, want %v after %d", name, err, attempts, last, tt.attempts)
			}
		})
	}
}
