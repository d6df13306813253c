package sqlite

import (
	"context"

	"github.com/k3s-io/kine/pkg/server"
)

// Create makes a key. It returns the new revision, or the newest with server.ErrKeyExists.
func (b *Backend) Create(ctx context.Context, key string, value []byte, lease int64) (int64, error) {
	r, err := b.submit(ctx, &op{kind: opCreate, key: key, value: value, lease: lease})
	return r.rev, err
}

// Update changes a key that is at the given revision. If it is not, Update returns false and the key as it is.
func (b *Backend) Update(ctx context.Context, key string, value []byte, revision, lease int64) (int64, *server.KeyValue, bool, error) {
	return b.change(ctx, op{kind: opUpdate, key: key, value: value, expect: revision, lease: lease})
}

// Delete removes a key that is at the given revision (0: at any) and returns what it was. If it is not at that revision,
// Delete returns false and the key as it is.
func (b *Backend) Delete(ctx context.Context, key string, revision int64) (int64, *server.KeyValue, bool, error) {
	return b.change(ctx, op{kind: opDelete, key: key, expect: revision})
}

// change submits o. When the key is not as expected it is read afterwards; that read then is the point in time at which
// the whole call takes effect, so in the odd case that the key came to be as expected meanwhile, the call starts anew.
func (b *Backend) change(ctx context.Context, o op) (int64, *server.KeyValue, bool, error) {
	for {
		try := o
		r, err := b.submit(ctx, &try)
		if err != nil || r.ok {
			return r.rev, r.kv, r.ok, err
		}
		rev, kv, err := b.Get(ctx, o.key, 0, false)
		if err != nil || kv == nil || o.expect != 0 && kv.ModRevision != o.expect {
			return rev, kv, false, err
		}
	}
}

// Compact makes revision the oldest that can be read, and returns the newest. The space is freed in small steps
// afterwards.
func (b *Backend) Compact(ctx context.Context, revision int64) (int64, error) {
	r, err := b.submit(ctx, &op{kind: opCompact, expect: revision})
	return r.rev, err
}
