package datastore

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/knarr-io/knarr/pkg/retry"
)

// openAttempts bounds how often a store is opened that another server is making at the same moment.
const openAttempts = 5

// openEngine opens the store. Two servers that start at the same moment on an empty database both make kine's table, which
// fails for one of them: "create if not exists" is not atomic in PostgreSQL, nor are kine's statements together. Again, it
// is there.
func (c *Component) openEngine(ctx context.Context) (b *backend, err error) {
	attempts := 0
	waitErr := retry.Until(ctx, "the datastore to be made", retry.Backoff{First: 200 * time.Millisecond, Max: 2 * time.Second}, func(ctx context.Context) (bool, error) {
		attempts++
		b, err = c.engine.open(ctx, c.config, c.log)
		return err == nil || attempts == openAttempts || !madeByAnother(err), err
	})
	if err == nil && waitErr != nil {
		err = waitErr
	}
	return b, err
}

// madeByAnother tells whether an error is that something exists that was about to be made.
func madeByAnother(err error) bool {
	text := err.Error()
	return slices.ContainsFunc([]string{
		"SQLSTATE 23505", "SQLSTATE 42P07", "SQLSTATE 42710", "SQLSTATE 42P04", "tuple concurrently updated", // PostgreSQL: row of a catalogue, table, object, database
		"Error 1007", "Error 1050", "Error 1061", // MySQL: database, table, index
		"duplicate key given in txn request", // kine: its own first key (pkg/logstructured/sqllog/sql.go)
	}, func(code string) bool { return strings.Contains(text, code) })
}
