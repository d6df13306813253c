package datastore

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// fillStore writes what a store may hold, and returns how many keys.
func fillStore(t *testing.T, config Config) int64 {
	t.Helper()
	const n = 700 // more than a page
	t.Run("fill", func(t *testing.T) {
		comp := New(config, slog.New(slog.DiscardHandler))
		if comp.Access().Dial == nil {
			client, err := comp.Access().client()
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			putAll(t, client, n)
			return
		}
		putAll(t, start(t, comp), n)
	})
	return n
}

func putAll(t *testing.T, client *clientv3.Client, n int) {
	t.Helper()
	lease, err := client.Grant(t.Context(), 3600)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		key := fmt.Sprintf("/registry/things/%04d", i)
		var opts []clientv3.OpOption
		if i%10 == 0 {
			opts = append(opts, clientv3.WithLease(lease.ID))
		}
		if _, err := client.Put(t.Context(), key, strings.Repeat("\x00\xffk8s", i), opts...); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.Put(t.Context(), "compact_rev_key", "5"); err != nil {
		t.Fatal(err)
	}
}

func TestMigrateInEveryDirection(t *testing.T) {
	kinds := map[string]func(t *testing.T) Config{
		"sqlite":      func(t *testing.T) Config { return Config{Dir: t.TempDir()} },
		"kine-sqlite": func(t *testing.T) Config { return Config{Endpoint: "kine-sqlite://", Dir: t.TempDir()} },
		"etcd":        func(t *testing.T) Config { return Config{Endpoint: startEtcd(t)} },
	}
	log := slog.New(slog.DiscardHandler)
	for from, source := range kinds {
		for to, target := range kinds {
			t.Run(from+" to "+to, func(t *testing.T) {
				old, next := source(t), target(t)
				n := fillStore(t, old)
				before, err := Check(t.Context(), old, log)
				if err != nil || before.Keys != n {
					t.Fatalf("old store: %+v, %v", before, err)
				}
				sum, err := Migrate(t.Context(), old, next, log)
				if err != nil || sum.Keys != n || sum.Hash != before.Hash {
					t.Fatalf("migrated %+v, %v; want %+v", sum, err, before)
				}
				if after, err := Check(t.Context(), old, log); err != nil || after.Hash != before.Hash {
					t.Errorf("the old store is now %+v, %v", after, err)
				}
				if to == "sqlite" && sum.Revision <= before.Revision {
					t.Errorf("SQLite is at revision %d, the old store was at %d", sum.Revision, before.Revision)
				}
				// Never into a store that has something.
				if _, err := Migrate(t.Context(), old, next, log); err == nil {
					t.Error("migrated a second time into the same store")
				}
			})
		}
	}
}

func TestMigrateRefuses(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	config := Config{Dir: t.TempDir()}
	start(t, New(config, log))
	if _, err := Migrate(t.Context(), config, config, log); err == nil || !strings.Contains(err.Error(), "the same") {
		t.Errorf("onto itself: %v", err)
	}
	if _, err := Migrate(t.Context(), config, Config{Dir: t.TempDir()}, log); err == nil || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("from a store in use: %v", err)
	}
}
