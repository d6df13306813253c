package datastore

import (
	"log/slog"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/knarr-io/knarr/pkg/datastore/contract"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
)

// kineTraits are those of kine's SQL drivers.
var kineTraits = contract.Traits{NoVersions: true, TextKeys: true, LooseCompaction: true}

func TestContract(t *testing.T) {
	for _, tc := range []struct {
		name, endpoint string
		traits         contract.Traits
	}{
		{"sqlite", "", contract.Traits{}},
		{"kine-sqlite", "kine-sqlite://", kineTraits},
		{"etcd-embedded", EmbeddedEtcd, contract.Traits{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client := start(t, New(Config{Endpoint: tc.endpoint, Dir: t.TempDir()}, slog.New(slog.DiscardHandler)))
			contract.Run(t, tc.traits, func(*testing.T) *clientv3.Client { return client })
		})
	}
}

// startEtcd runs etcd until the test ends and returns its endpoint.
func startEtcd(t *testing.T) string {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.LogOutputs = t.TempDir(), "fatal", []string{os.DevNull}
	local := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg.ListenClientUrls, cfg.ListenPeerUrls = local, local
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	select {
	case <-e.Server.ReadyNotify():
	case err := <-e.Err():
		t.Fatal(err)
	case <-time.After(30 * time.Second):
		t.Fatal("etcd not ready after 30 s")
	}
	return "http://" + e.Clients[0].Addr().String()
}

// TestContractOfEtcd runs the suite over etcd: it is what says whether the suite asks for the right things.
func TestContractOfEtcd(t *testing.T) {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{startEtcd(t)}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	contract.Run(t, contract.Traits{}, func(*testing.T) *clientv3.Client { return client })
}
