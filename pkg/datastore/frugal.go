package datastore

import (
	"context"

	"github.com/k3s-io/kine/pkg/server"
	"golang.org/x/sync/semaphore"
)

// maxConnections is how many connections a server has to its database for requests. With the two that kine keeps for
// itself, three servers are content with a hundred, which is PostgreSQL's default.
const maxConnections = 28

// What a request takes of them. A write begins a transaction and inserts by another connection (kine v0.17.5
// pkg/drivers/generic/tx.go, Tx.Insert): with a bound on the pool of connections, kine's way, as many writers as that would
// wait for one another for ever.
const (
	reads  = 1
	writes = 2
)

// frugal is a driver of kine's whose requests wait for connections instead of opening more: a server asks for everything
// at once when it starts.
type frugal struct {
	server.Backend
	free *semaphore.Weighted
}

func newFrugal(b server.Backend) frugal { return frugal{b, semaphore.NewWeighted(maxConnections)} }

// Get is that of the driver.
func (f frugal) Get(ctx context.Context, key string, revision int64, keysOnly bool) (int64, *server.KeyValue, error) {
	if err := f.free.Acquire(ctx, reads); err != nil {
		return 0, nil, err
	}
	defer f.free.Release(reads)
	return f.Backend.Get(ctx, key, revision, keysOnly)
}

// List is that of the driver.
func (f frugal) List(ctx context.Context, key, end string, limit, revision int64, keysOnly bool) (int64, []*server.KeyValue, error) {
	if err := f.free.Acquire(ctx, reads); err != nil {
		return 0, nil, err
	}
	defer f.free.Release(reads)
	return f.Backend.List(ctx, key, end, limit, revision, keysOnly)
}

// Count is that of the driver.
func (f frugal) Count(ctx context.Context, key, end string, revision int64) (int64, int64, error) {
	if err := f.free.Acquire(ctx, reads); err != nil {
		return 0, 0, err
	}
	defer f.free.Release(reads)
	return f.Backend.Count(ctx, key, end, revision)
}

// Watch is that of the driver, which first reads what has happened since revision.
func (f frugal) Watch(ctx context.Context, revision int64) server.WatchResult {
	if err := f.free.Acquire(ctx, reads); err != nil {
		ended, failed := make(chan server.EventBatch), make(chan error, 1)
		close(ended)
		failed <- err
		return server.WatchResult{Eventc: ended, Errorc: failed}
	}
	defer f.free.Release(reads)
	return f.Backend.Watch(ctx, revision)
}

// DbSize is that of the driver.
func (f frugal) DbSize(ctx context.Context) (int64, error) {
	if err := f.free.Acquire(ctx, reads); err != nil {
		return 0, err
	}
	defer f.free.Release(reads)
	return f.Backend.DbSize(ctx)
}

// Create is that of the driver.
func (f frugal) Create(ctx context.Context, key string, value []byte, lease int64) (int64, error) {
	if err := f.free.Acquire(ctx, writes); err != nil {
		return 0, err
	}
	defer f.free.Release(writes)
	return f.Backend.Create(ctx, key, value, lease)
}

// Update is that of the driver.
func (f frugal) Update(ctx context.Context, key string, value []byte, revision, lease int64) (int64, *server.KeyValue, bool, error) {
	if err := f.free.Acquire(ctx, writes); err != nil {
		return 0, nil, false, err
	}
	defer f.free.Release(writes)
	return f.Backend.Update(ctx, key, value, revision, lease)
}

// Delete is that of the driver.
func (f frugal) Delete(ctx context.Context, key string, revision int64) (int64, *server.KeyValue, bool, error) {
	if err := f.free.Acquire(ctx, writes); err != nil {
		return 0, nil, false, err
	}
	defer f.free.Release(writes)
	return f.Backend.Delete(ctx, key, revision)
}

// Compact is that of the driver.
func (f frugal) Compact(ctx context.Context, revision int64) (int64, error) {
	if err := f.free.Acquire(ctx, writes); err != nil {
		return 0, err
	}
	defer f.free.Release(writes)
	return f.Backend.Compact(ctx, revision)
}
