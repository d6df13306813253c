package cli

import (
	"context"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/knarr-io/knarr/pkg/control"
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

// TestMigrateToEtcdAndBack moves the store of a server to etcd in the same directory, and back: the server then finds
// only the one it is to use.
func TestMigrateToEtcdAndBack(t *testing.T) {
	c := newCommand(t)
	c.makeStore(t)
	for _, to := range []string{"etcd-embedded", "sqlite"} {
		if code := c.run(t, datastoreCommand, "migrate", "--to", to+"://"); code != 0 || !strings.Contains(c.stderr.String(), ".migrated-") {
			t.Fatalf("migrate to %s: exit code %d, %s", to, code, c.stderr.String())
		}
		code := c.run(t, datastoreCommand, "status")
		var got datastore.Status
		if err := json.Unmarshal(c.stdout.Bytes(), &got); code != 0 || err != nil || got.Engine != to {
			t.Errorf("status after migrating to %s: exit code %d, %+v, %v, %s", to, code, got, err, c.stderr.String())
		}
	}
}

// TestCompactAsksTheServer has a server on this host that uses the store.
func TestCompactAsksTheServer(t *testing.T) {
	c := newCommand(t)
	c.makeStore(t)
	asked := 0
	status := func() control.Status {
		return control.Status{DataDir: "/var/lib/knarr", Datastore: &control.Datastore{Kind: "sqlite"}}
	}
	server := control.New(control.Config{
		Dir: filepath.Join(c.root, "run/knarr"), Status: status, Logger: slog.New(slog.DiscardHandler),
		Compact: func(context.Context) error {
			asked++
			return nil
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- server.Run(ctx, func() { close(ready) }) }()
	<-ready
	if code := c.run(t, datastoreCommand, "compact"); code != 0 || asked != 1 {
		t.Errorf("compact: exit code %d, asked %d times, %s", code, asked, c.stderr.String())
	}
	if code := c.run(t, datastoreCommand, "compact", "--data-dir", "/other"); code != exitFailed || asked != 1 {
		t.Errorf("compact of another store: exit code %d, asked %d times", code, asked)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
