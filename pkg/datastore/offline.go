package datastore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/knarr-io/knarr/pkg/datastore/etcd"
	"github.com/knarr-io/knarr/pkg/datastore/sqlite"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// Exists tells whether there is a store that holds something. Of an external one that is taken for granted.
func Exists(config Config) (bool, error) {
	switch engineFor(config.Endpoint).name {
	case engineSQLite:
	case engineEmbeddedEtcd:
		return HasEtcd(config.Dir)
	default:
		return true, nil
	}
	_, err := os.Stat(filepath.Join(config.Dir, sqlite.FileName()))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("find database: %w", err)
	}
	return true, nil
}

// Inspect returns the state of a store whether a server is using it or not.
func Inspect(ctx context.Context, config Config, log *slog.Logger) (st Status, err error) {
	if engineFor(config.Endpoint).name == engineSQLite {
		info, err := sqlite.Inspect(config.Dir)
		if err != nil {
			return Status{}, err
		}
		return Status{
			Engine: engineSQLite, Revision: info.Revision, CompactRevision: info.CompactRevision,
			DiskBytes: info.FileBytes + info.LogBytes, FreeBytes: info.FreeBytes, Running: &info.InUse,
		}, nil
	}
	err = while(ctx, config, log, func(ctx context.Context, c *Component, _ *clientv3.Client) error {
		st, err = c.Status(ctx)
		return err
	})
	if err == nil && engineFor(config.Endpoint).name == engineEmbeddedEtcd {
		st.Engine, st.Members = engineEmbeddedEtcd, nil // a copy has only itself
		running, ierr := etcd.InUse(config.etcdDir())
		st.Running, err = &running, ierr
	}
	return st, err
}

// Compact deletes all history of a store and gives the free space back. Nobody needs that: the apiserver compacts every
// five minutes. It is for a store that is to be copied or was used by something that does not compact.
//
// A SQLite store must not be in use ([sqlite.ErrInUse]); of other stores compacting can be asked while servers use them.
func Compact(ctx context.Context, config Config, log *slog.Logger) error {
	if engineFor(config.Endpoint).name == engineEmbeddedEtcd {
		return fmt.Errorf("compact datastore: %w: an embedded etcd is compacted by the server that runs it", ErrNotRunning)
	}
	if engineFor(config.Endpoint).name == engineSQLite {
		if _, err := sqlite.Inspect(config.Dir); err != nil {
			return err
		}
		return sqlite.Shrink(ctx, config.Dir, log)
	}
	return while(ctx, config, log, func(ctx context.Context, c *Component, client *clientv3.Client) error {
		return c.compact(ctx, client)
	})
}

// Sum is what a store holds, in short: two stores with the same keys and values have equal sums.
type Sum struct {
	Revision int64  `json:"revision"`
	Keys     int64  `json:"keys"`
	Bytes    int64  `json:"bytes"`
	Hash     string `json:"hash"`
}

// Check reads everything in a store. Of a SQLite store it verifies the structure and all checksums, too, and returns a
// [*sqlite.DamageError] when something is wrong. The store may be in use.
func Check(ctx context.Context, config Config, log *slog.Logger) (sum Sum, err error) {
	if engineFor(config.Endpoint).name == engineSQLite {
		s, err := sqlite.SumFile(ctx, filepath.Join(config.Dir, sqlite.FileName()))
		return Sum{Revision: s.Revision, Keys: s.Keys, Bytes: s.Bytes, Hash: fmt.Sprintf("%016x", s.Content)}, err
	}
	err = while(ctx, config, log, func(ctx context.Context, _ *Component, client *clientv3.Client) error {
		var err error
		sum, err = sumOf(ctx, client)
		return err
	})
	return sum, err
}

// sumOf reads everything.
func sumOf(ctx context.Context, client *clientv3.Client) (Sum, error) {
	var s sqlite.Sum
	rev, err := eachKey(ctx, client, func(kv *mvccpb.KeyValue) error {
		s.Add(string(kv.Key), kv.Value)
		return nil
	})
	return Sum{Revision: rev, Keys: s.Keys, Bytes: s.Bytes, Hash: fmt.Sprintf("%016x", s.Content)}, err
}

// same returns an error when two stores do not hold the same.
func same(got, want Sum) error {
	if got.Keys != want.Keys || got.Hash != want.Hash {
		return fmt.Errorf("the new store has %d keys with hash %s, the old one %d with %s: was something writing? do not use the new one",
			got.Keys, got.Hash, want.Keys, want.Hash)
	}
	return nil
}

// while opens a store for as long as f takes and gives it a client. An embedded etcd is only read.
func while(ctx context.Context, config Config, log *slog.Logger, f func(context.Context, *Component, *clientv3.Client) error) error {
	config.Listen = ""
	if engineFor(config.Endpoint).name != engineEmbeddedEtcd {
		return run(ctx, New(config, log), f)
	}
	c, done, err := attach(config, log)
	if err != nil {
		return err
	}
	return errors.Join(run(ctx, c, f), done())
}

// run runs a store for as long as f takes and gives it a client.
func run(ctx context.Context, c *Component, f func(context.Context, *Component, *clientv3.Client) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	up, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- c.Run(ctx, func() { close(up) }) }()
	select {
	case err := <-done:
		return errors.Join(err, context.Cause(ctx))
	case <-up:
	}
	client, err := c.Access().client()
	if err == nil {
		err = errors.Join(f(ctx, c, client), client.Close())
	}
	cancel()
	return errors.Join(err, <-done)
}

// client connects.
func (a Access) client() (*clientv3.Client, error) {
	cfg := clientv3.Config{Endpoints: a.Endpoints, DialTimeout: 5 * time.Second, Logger: zap.NewNop()}
	if a.Dial != nil {
		cfg.DialOptions = []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return a.Dial(ctx, "tcp", addr)
		})}
	}
	var err error
	if cfg.TLS, err = a.tls(); err != nil {
		return nil, err
	}
	c, err := clientv3.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to datastore: %w", err)
	}
	return c, nil
}

// pageKeys is how many keys are read at a time when all are.
const pageKeys = 500

// eachKey calls f for every key of the store, as of one revision, which it returns: every key that begins with a
// printable ASCII character, as all of the apiserver's do; not every store understands borders beyond those.
func eachKey(ctx context.Context, c *clientv3.Client, f func(*mvccpb.KeyValue) error) (int64, error) {
	from, rev := " ", int64(0)
	for {
		r, err := c.Get(ctx, from, clientv3.WithRange("\x7f"), clientv3.WithLimit(pageKeys), clientv3.WithRev(rev))
		if err != nil {
			return 0, fmt.Errorf("read datastore from key %q: %w", from, err)
		}
		if rev == 0 {
			rev = r.Header.Revision
		}
		for _, kv := range r.Kvs {
			if err := f(kv); err != nil {
				return 0, err
			}
		}
		if !r.More || len(r.Kvs) == 0 {
			return rev, nil
		}
		from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
}
