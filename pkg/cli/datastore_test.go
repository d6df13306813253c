package cli

import (
	"context"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/knarr-io/knarr/pkg/datastore"
)

// makeStore makes a SQLite store in the command's data directory.
func (c *command) makeStore(t *testing.T) {
	t.Helper()
	store := datastore.New(datastore.Config{Dir: filepath.Join(c.root, "var/lib/knarr/server/db")}, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := store.Run(ctx, cancel); err != nil {
		t.Fatal(err)
	}
}

func TestDatastoreCommands(t *testing.T) {
	c := newCommand(t)
	if code := c.run(t, datastoreCommand, "status"); code != exitFailed || !strings.Contains(c.stderr.String(), "find database") {
		t.Errorf("status without a store: %d, %s", code, c.stderr.String())
	}
	c.makeStore(t)
	for _, args := range [][]string{{"status"}, {"check"}, {"compact"}, {"migrate", "--to", "sqlite://", "--to-dir", t.TempDir()}} {
		code := c.run(t, datastoreCommand, args...)
		var got struct {
			Revision int64 `json:"revision"`
		}
		if err := json.Unmarshal(c.stdout.Bytes(), &got); code != 0 || err != nil || got.Revision < 1 {
			t.Errorf("%v: exit code %d, %v: %s %s", args, code, err, c.stdout.String(), c.stderr.String())
		}
	}
}

func TestDatastoreUsage(t *testing.T) {
	for _, tc := range []struct {
		want string
		args []string
	}{
		{"unexpected argument", []string{"status", "now"}},
		{"scheme \"oracle\" is not supported", []string{"serve", "--datastore-endpoint", "oracle://x"}},
		{"to", []string{"migrate"}},
	} {
		c := newCommand(t)
		if code := c.run(t, datastoreCommand, tc.args...); code == 0 || !strings.Contains(c.stderr.String(), tc.want) {
			t.Errorf("%v: exit code %d, %s", tc.args, code, c.stderr.String())
		}
	}
}
