package datastore

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/drivers/mysql"
	"github.com/k3s-io/kine/pkg/drivers/nats"
	"github.com/k3s-io/kine/pkg/drivers/pgsql"
	kinesqlite "github.com/k3s-io/kine/pkg/drivers/sqlite"
	"github.com/k3s-io/kine/pkg/server"
	kinetls "github.com/k3s-io/kine/pkg/tls"
	"github.com/knarr-io/knarr/pkg/datastore/sqlite"
)

const (
	engineSQLite     = "sqlite"
	engineKineSQLite = "kine-sqlite"
	enginePostgres   = "postgres"
	engineMySQL      = "mysql"
	engineNATS       = "nats"
	engineEtcd       = "etcd"

	engineEmbeddedEtcd = "etcd-embedded"
)

// engine is one kind of store.
type engine struct {
	name string
	// local means that the data is in Config.Dir.
	local bool
	// open starts the engine; ctx ends the attempt, not the engine. Nil for an external etcd, which needs no server of ours.
	open func(context.Context, Config, *slog.Logger) (*backend, error)
}

// engines maps the scheme of an endpoint to its engine.
func engines() map[string]engine {
	etcd := engine{name: engineEtcd}
	return map[string]engine{
		"":              {name: engineSQLite, local: true, open: openSQLite},
		"sqlite":        {name: engineSQLite, local: true, open: openSQLite},
		"etcd-embedded": {name: engineEmbeddedEtcd, local: true},
		"kine-sqlite":   {name: engineKineSQLite, local: true, open: openKine(kinesqlite.New, kineSQLiteDSN)},
		"postgres":      {name: enginePostgres, open: connected(openKine(pgsql.New, nil))},
		"postgresql":    {name: enginePostgres, open: connected(openKine(pgsql.New, nil))},
		"mysql":         {name: engineMySQL, open: connected(openKine(mysql.New, nil))},
		"nats":          {name: engineNATS, open: openKine(nats.New, nil)},
		"http":          etcd, "https": etcd, "unix": etcd, "unixs": etcd,
	}
}

// Engine names the kind of store that a configuration selects; empty if it selects none.
func Engine(c Config) string { return engineFor(c.Endpoint).name }

func engineFor(endpoint string) engine {
	scheme, _ := splitScheme(endpoint)
	return engines()[scheme]
}

func splitScheme(endpoint string) (scheme, rest string) {
	if s, r, ok := strings.Cut(endpoint, "://"); ok {
		return s, r
	}
	if endpoint == "" {
		return "", ""
	}
	return "?", endpoint // no scheme at all: never an engine
}

func schemes() []string {
	var out []string
	for s := range engines() {
		if s != "" {
			out = append(out, s+"://")
		}
	}
	sort.Strings(out)
	return out
}

// redact takes the password out of an endpoint, for messages.
func redact(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		scheme, _ := splitScheme(endpoint)
		return scheme + "://..."
	}
	return u.Redacted()
}

// kineSQLiteDSN is kine's default DSN (kine v0.17.5 pkg/drivers/sqlite/sqlite.go:25) with synchronous=FULL: with
// NORMAL a power cut takes acknowledged writes along. kine-sqlite://?NORMAL asks for that, to compare with.
func kineSQLiteDSN(c Config) string {
	sync := "FULL"
	if strings.HasSuffix(c.Endpoint, "://?NORMAL") {
		sync = "NORMAL"
	}
	return filepath.Join(c.Dir, "state.db") + "?_journal_mode=WAL&_busy_timeout=30000&_synchronous=" + sync +
		"&_txlock=immediate&_stmt_cache_size=20&cache=shared"
}

// openSQLite opens our own engine.
func openSQLite(ctx context.Context, c Config, log *slog.Logger) (*backend, error) {
	b, err := sqlite.Open(c.Dir, sqlite.Options{Log: log})
	if err != nil {
		return nil, err
	}
	if err := b.Start(ctx); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return &backend{
		Backend: b, close: b.Close, compactRevision: b.CompactRevision, failed: b.Failed(), err: b.Err, settled: b.Settled,
	}, nil
}

// openKine opens one of kine's drivers with the values of kine's own command line (kine v0.17.5 pkg/app/app.go:60-230).
// Compaction is left to the apiserver, which asks for it through the etcd API.
func openKine(driver drivers.Constructor, dsn func(Config) string) func(context.Context, Config, *slog.Logger) (*backend, error) {
	return func(attempt context.Context, c Config, log *slog.Logger) (*backend, error) {
		ctx, cancel := context.WithCancel(context.Background())
		// The drivers wait up to five minutes for a server that does not answer.
		giveUp := context.AfterFunc(attempt, cancel)
		defer giveUp()
		wg := new(sync.WaitGroup)
		cfg := &drivers.Config{
			Endpoint:             c.Endpoint,
			ConnectionPoolConfig: generic.ConnectionPoolConfig{MaxIdle: 20, MaxIdleTime: 2 * time.Minute},
			BackendTLSConfig:     kinetls.Config{CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile},
			CompactTimeout:       5 * time.Second,
			CompactMinRetain:     1000,
			CompactBatchSize:     1000,
			PollBatchSize:        500,
			PollInterval:         time.Second,
		}
		cfg.Scheme, cfg.DataSourceName = splitScheme(c.Endpoint)
		if dsn != nil {
			cfg.DataSourceName = dsn(c)
		}
		var (
			b   server.Backend
			err error
		)
		if _, b, err = driver(ctx, wg, cfg); err == nil {
			err = b.Start(ctx)
		}
		if err != nil {
			cancel()
			wg.Wait()
			return nil, err
		}
		log.Info("datastore open", "engine", engineFor(c.Endpoint).name)
		return &backend{Backend: b, close: func() error { cancel(); wg.Wait(); return nil }}, nil
	}
}

// connected is an engine that has connections to a database, which may break or run out.
func connected(open func(context.Context, Config, *slog.Logger) (*backend, error)) func(context.Context, Config, *slog.Logger) (*backend, error) {
	return func(ctx context.Context, c Config, log *slog.Logger) (*backend, error) {
		b, err := open(ctx, c, log)
		if err == nil {
			b.Backend = verified{newFrugal(b.Backend)}
		}
		return b, err
	}
}
