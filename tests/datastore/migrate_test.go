package datastore_test

import (
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"

	"github.com/knarr-io/knarr/pkg/datastore"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestMigrateBetweenEngines moves a store from engine to engine, so that each is the old one and the new one once, and
// compares what it holds with what was written at first. Migrate itself verifies each step.
func TestMigrateBetweenEngines(t *testing.T) {
	files := makeTLS(t)
	socket, port := postgres(t, files)
	maria := mariadb(t)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	stops := []struct {
		name   string
		config datastore.Config
	}{
		{"SQLite", datastore.Config{Dir: t.TempDir()}},
		{"PostgreSQL", datastore.Config{Endpoint: fmt.Sprintf("postgres://postgres@/move?host=%s&port=%d&sslmode=disable", url.QueryEscape(socket), port)}},
		{"MariaDB", datastore.Config{Endpoint: "mysql://root@unix(" + maria + ")/move"}},
		{"embedded etcd", datastore.Config{Endpoint: datastore.EmbeddedEtcd, Dir: t.TempDir(), Etcd: datastore.Etcd{NodeName: "box"}}},
		{"PostgreSQL with TLS", datastore.Config{
			Endpoint: fmt.Sprintf("postgres://postgres@127.0.0.1:%d/again?sslmode=verify-full", port),
			CAFile:   files.ca, CertFile: files.clientCert, KeyFile: files.clientKey,
		}},
		{"kine's SQLite", datastore.Config{Endpoint: "kine-sqlite://", Dir: t.TempDir()}},
		{"MariaDB, another database", datastore.Config{Endpoint: "mysql://root@unix(" + maria + ")/again"}},
		{"SQLite again", datastore.Config{Dir: t.TempDir()}},
	}
	const keys = 1200 // more than two pages
	t.Run("fill", func(t *testing.T) {
		client := runStore(t, stops[0].config)
		lease, err := client.Grant(t.Context(), 3600)
		if err != nil {
			t.Fatal(err)
		}
		for i := range keys {
			var opts []clientv3.OpOption
			if i%7 == 0 {
				opts = append(opts, clientv3.WithLease(lease.ID))
			}
			value := strings.Repeat("\x00\xff\x80k8s", i%300)
			if _, err := client.Put(t.Context(), fmt.Sprintf("/registry/things/%05d", i), value, opts...); err != nil {
				t.Fatal(err)
			}
		}
	})
	want, err := datastore.Check(t.Context(), stops[0].config, log)
	if err != nil || want.Keys < keys {
		t.Fatalf("the first store: %+v, %v", want, err)
	}
	for i, next := range stops[1:] {
		got, err := datastore.Migrate(t.Context(), stops[i].config, next.config, log)
		if err != nil || got.Keys != want.Keys || got.Hash != want.Hash {
			t.Fatalf("from %s to %s: %+v, %v; want %d keys with hash %s", stops[i].name, next.name, got, err, want.Keys, want.Hash)
		}
		if i == 0 {
			continue
		}
		if _, err := datastore.Migrate(t.Context(), stops[0].config, next.config, log); err == nil || !strings.Contains(err.Error(), "not empty") {
			t.Errorf("to %s, which is not empty: %v", next.name, err)
		}
	}
}
