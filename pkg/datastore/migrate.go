package datastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/k3s-io/kine/pkg/server"
	"github.com/knarr-io/knarr/pkg/datastore/sqlite"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// migrateWriters is how many writes are under way to the new store at a time.
const migrateWriters = 32

// Migrate copies what one store holds into another, which must be empty, and compares the two by number and hash. No
// server may use either of them. The old store is only read.
//
// Into SQLite, keys keep their revisions. Other stores give them new ones, as for a restored backup: clients that were
// running find out by themselves, since servers were stopped.
func Migrate(ctx context.Context, from, to Config, log *slog.Logger) (Sum, error) {
	if e := engineFor(from.Endpoint); from.Dir == to.Dir && (from.Endpoint == to.Endpoint || e.local && e.name == engineFor(to.Endpoint).name) {
		return Sum{}, errors.New("migrate datastore: old and new are the same")
	}
	if engineFor(from.Endpoint).name == engineSQLite {
		if info, err := sqlite.Inspect(from.Dir); err != nil {
			return Sum{}, err
		} else if info.InUse {
			return Sum{}, fmt.Errorf("migrate datastore: %w: stop it first", sqlite.ErrInUse)
		}
	}
	want, err := Check(ctx, from, log)
	if err != nil {
		return Sum{}, fmt.Errorf("check old datastore: %w", err)
	}
	log.Info("migrating", "keys", want.Keys, "bytes", want.Bytes)
	var got Sum
	err = while(ctx, from, log, func(ctx context.Context, _ *Component, source *clientv3.Client) error {
		switch engineFor(to.Endpoint).name {
		case engineSQLite:
			return migrateToSQLite(ctx, source, to.Dir)
		case engineEmbeddedEtcd:
			got, err = migrateToMember(ctx, source, to, want, log)
			return err
		}
		return while(ctx, to, log, func(ctx context.Context, _ *Component, target *clientv3.Client) error {
			return migrateTo(ctx, source, target)
		})
	})
	if err != nil {
		return Sum{}, fmt.Errorf("migrate datastore: %w", err)
	}
	if engineFor(to.Endpoint).name == engineEmbeddedEtcd {
		return got, nil // verified before it was put in place
	}
	if got, err = Check(ctx, to, log); err != nil {
		return Sum{}, fmt.Errorf("check new datastore: %w", err)
	}
	if err := same(got, want); err != nil {
		return Sum{}, fmt.Errorf("migrate datastore: %w", err)
	}
	return got, nil
}

// Export writes what a store holds, as of one revision, into a new SQLite store in dir, and returns what that is. Servers
// may be using the store meanwhile.
func Export(ctx context.Context, from Config, dir string, log *slog.Logger) (Sum, error) {
	var err error
	if engineFor(from.Endpoint).name == engineSQLite {
		_, err = sqlite.CopyDatabase(ctx, filepath.Join(from.Dir, sqlite.FileName()), filepath.Join(dir, sqlite.FileName()))
	} else {
		err = while(ctx, from, log, func(ctx context.Context, _ *Component, source *clientv3.Client) error {
			return migrateToSQLite(ctx, source, dir)
		})
	}
	if err != nil {
		return Sum{}, fmt.Errorf("export datastore: %w", err)
	}
	return Check(ctx, Config{Dir: dir}, log)
}

func migrateToSQLite(ctx context.Context, source *clientv3.Client, dir string) error {
	im, err := sqlite.NewImporter(dir)
	if err != nil {
		return err
	}
	rev, err := eachKey(ctx, source, func(kv *mvccpb.KeyValue) error {
		if isRecord(kv) {
			return nil
		}
		return im.Add(&server.KeyValue{
			Key: string(kv.Key), Value: kv.Value, Version: kv.Version, Lease: kv.Lease,
			CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision,
		})
	})
	if err != nil {
		return errors.Join(err, im.Abort())
	}
	return im.Finish(rev)
}

// isRecord tells that a key is the store's own record of compactions.
func isRecord(kv *mvccpb.KeyValue) bool { return string(kv.Key) == "compact_rev_key" }

func migrateTo(ctx context.Context, source, target *clientv3.Client) error {
	var found []string
	if _, err := eachKey(ctx, target, func(kv *mvccpb.KeyValue) error {
		if !isRecord(kv) && string(kv.Key) != server.HealthKey {
			found = append(found, string(kv.Key))
		}
		return nil
	}); err != nil {
		return err
	}
	if len(found) > 0 {
		return fmt.Errorf("the new store is not empty: it has %d keys, the first is %s", len(found), found[0])
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	slots := make(chan struct{}, migrateWriters)
	leases := leaseKeeper{ctx: ctx, client: target, ids: map[int64]clientv3.LeaseID{}}
	_, err := eachKey(ctx, source, func(kv *mvccpb.KeyValue) error {
		if isRecord(kv) {
			return nil
		}
		opts, err := leases.option(kv.Lease)
		if err != nil {
			return err
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if _, err := target.Put(ctx, string(kv.Key), string(kv.Value), opts...); err != nil {
				cancel(fmt.Errorf("write key %s: %w", kv.Key, err))
			}
		})
		return nil
	})
	wg.Wait()
	return errors.Join(err, context.Cause(ctx))
}

// leaseKeeper grants leases in a new store for those of the old one, where a lease that comes from kine's server is its
// own time to live.
type leaseKeeper struct {
	ctx    context.Context
	client *clientv3.Client
	ids    map[int64]clientv3.LeaseID
}

// longestLease is what the apiserver asks for at most unless told otherwise: the time events are kept.
const longestLease = 3600

func (l *leaseKeeper) option(lease int64) ([]clientv3.OpOption, error) {
	if lease == 0 {
		return nil, nil
	}
	id, ok := l.ids[lease]
	if !ok {
		g, err := l.client.Grant(l.ctx, min(lease, longestLease)) // etcd's own lease IDs are larger than any time
		if err != nil {
			return nil, fmt.Errorf("grant lease: %w", err)
		}
		id, l.ids[lease] = g.ID, g.ID
	}
	return []clientv3.OpOption{clientv3.WithLease(id)}, nil
}
