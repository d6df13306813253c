package etcd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.uber.org/zap"
)

const (
	// defragSlack is how much free space the database may have whatever its size; beyond it, half of the file.
	defragSlack = 64 << 20
	// tendInterval is how often that is looked at. Nothing is written or read for it.
	tendInterval = 10 * time.Minute
)

// State is what a member's store looks like.
type State struct {
	Revision, CompactRevision, DiskBytes, FreeBytes int64
}

// State returns the state of the member's store.
func (m *Member) State() State {
	kv, b := m.etcd.Server.KV(), m.etcd.Server.Backend()
	s := State{Revision: kv.Rev(), CompactRevision: max(0, kv.FirstRev()), DiskBytes: b.Size()}
	s.FreeBytes = max(0, s.DiskBytes-b.SizeInUse())
	return s
}

// Tend gives free space back when there is much of it, until ctx ends.
func (m *Member) Tend(ctx context.Context) {
	ticker := time.NewTicker(tendInterval)
	defer ticker.Stop()
	for {
		if fragmented(m.State()) {
			if err := m.Defragment(ctx); err != nil && ctx.Err() == nil {
				m.log.Warn("defragment etcd", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func fragmented(s State) bool { return s.FreeBytes > defragSlack && s.FreeBytes > s.DiskBytes/2 }

// Defragment rewrites this member's database without its free space, which stops its reads and writes meanwhile, and
// ends the alarm of a full database when there is space again.
func (m *Member) Defragment(ctx context.Context) error {
	before, began := m.State(), time.Now()
	if err := m.etcd.Server.Defragment(); err != nil {
		return fmt.Errorf("defragment etcd: %w", err)
	}
	after := m.State()
	m.log.Info("etcd defragmented", "before", before.DiskBytes, "after", after.DiskBytes, "took", time.Since(began).Round(time.Millisecond))
	for _, a := range m.etcd.Server.Alarms() {
		if a.Alarm != etcdserverpb.AlarmType_NOSPACE || a.MemberID != uint64(m.etcd.Server.MemberID()) || after.DiskBytes > m.quota*9/10 {
			continue
		}
		r := &etcdserverpb.AlarmRequest{Action: etcdserverpb.AlarmRequest_DEACTIVATE, MemberID: a.MemberID, Alarm: a.Alarm}
		if _, err := m.etcd.Server.Alarm(ctx, r); err != nil {
			return fmt.Errorf("end etcd's alarm of a full database: %w", err)
		}
	}
	return nil
}

// HasLeader tells whether the cluster has a leader as far as this member knows: without one there is no quorum.
func (m *Member) HasLeader() bool { return m.etcd.Server.Leader() != 0 }

// Alarm says what keeps the member from taking writes; empty when nothing does.
func (m *Member) Alarm() string {
	for _, a := range m.etcd.Server.Alarms() {
		switch a.Alarm {
		case etcdserverpb.AlarmType_NOSPACE:
			return fmt.Sprintf("the database of an etcd member is full (%d MiB): delete objects, then run knarr datastore compact", m.quota>>20)
		case etcdserverpb.AlarmType_CORRUPT:
			return fmt.Sprintf("etcd member %x differs from the others: delete its node, remove its server/db/etcd and join it again", a.MemberID)
		}
	}
	return ""
}

// StartCopy starts a cluster of one with a copy of what a member that does not run has on its disk, in a directory that
// is made for it. It is for reading: the member itself is left as it is.
func StartCopy(ctx context.Context, from, copyTo string, log *slog.Logger) (*Member, error) {
	for _, part := range []string{"snap", "wal"} {
		if err := os.MkdirAll(filepath.Join(copyTo, "member", part), 0o700); err != nil {
			return nil, fmt.Errorf("copy etcd's data: %w", err)
		}
		if err := os.CopyFS(filepath.Join(copyTo, "member", part), os.DirFS(filepath.Join(from, "member", part))); err != nil {
			return nil, fmt.Errorf("copy etcd's data: %w", err)
		}
	}
	return Start(ctx, Config{Dir: copyTo, NodeName: "copy", ForceNewCluster: true}, log)
}

// InUse tells whether a process has a member's database open.
func InUse(dir string) (bool, error) {
	db := filepath.Join(dir, "member", "snap", "db")
	if _, err := os.Stat(db); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return false, fmt.Errorf("find etcd's database: %w", err)
	}
	return locked(db)
}

// RaiseRevision makes a store that does not run go on from a later revision than one it replaces had, so that clients
// that knew that one never see revisions go back: they are told that their revision was compacted and read anew. It is
// what etcdutl's --bump-revision and --mark-compacted do (go.etcd.io/etcd/etcdutl/v3 snapshot/v3_snapshot.go).
func RaiseRevision(dir string, above int64) error {
	cfg := backend.DefaultBackendConfig(zap.NewNop())
	cfg.Path = filepath.Join(dir, "member", "snap", "db")
	be := backend.New(cfg)
	tx := be.BatchTx()
	tx.LockOutsideApply()
	var latest mvcc.BucketKey
	err := tx.UnsafeForEach(schema.Key, func(k, _ []byte) error {
		if rev := mvcc.BytesToBucketKey(k); rev.GreaterThan(latest.Revision) {
			latest = rev
		}
		return nil
	})
	if err == nil && latest.Main <= above {
		key := mvcc.BucketKey{Revision: mvcc.Revision{Main: above + 1}}
		tx.UnsafePut(schema.Key, mvcc.BucketKeyToBytes(key, mvcc.NewRevBytes()), []byte{})
		mvcc.UnsafeSetScheduledCompact(tx, key.Main)
	}
	tx.Unlock()
	be.ForceCommit()
	if err := errors.Join(err, be.Close()); err != nil {
		return fmt.Errorf("raise etcd's revision: %w", err)
	}
	return nil
}
