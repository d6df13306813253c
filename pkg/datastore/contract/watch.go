package contract

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// watcher gives the events of a watch one by one.
type watcher struct {
	ch     clientv3.WatchChan
	events []*clientv3.Event
	cancel context.CancelFunc
}

// watch starts a watch as the apiserver does and waits until the server has it.
func (s *suite) watch(t *testing.T, prefix string, opts ...clientv3.OpOption) *watcher {
	t.Helper()
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(t.Context()))
	t.Cleanup(cancel)
	opts = append(opts, clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithProgressNotify(), clientv3.WithCreatedNotify())
	w := &watcher{ch: s.c.Watch(ctx, prefix, opts...), cancel: cancel}
	if r := w.response(t); !r.Created {
		t.Fatalf("first response of a watch: %v", r)
	}
	return w
}

func (w *watcher) response(t *testing.T) clientv3.WatchResponse {
	t.Helper()
	r, ok := w.within(t, patience)
	if !ok {
		t.Fatal("no event came")
	}
	return r
}

// within waits for a response for some time.
func (w *watcher) within(t *testing.T, d time.Duration) (clientv3.WatchResponse, bool) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case r, ok := <-w.ch:
		if !ok {
			t.Fatal("watch ended")
		}
		return r, true
	case <-timer.C:
		return clientv3.WatchResponse{}, false
	}
}

func (w *watcher) next(t *testing.T) *clientv3.Event {
	t.Helper()
	for len(w.events) == 0 {
		r := w.response(t)
		if err := r.Err(); err != nil {
			t.Fatal(err)
		}
		for _, e := range r.Events {
			if e.Kv.ModRevision > r.Header.Revision {
				t.Errorf("event of revision %d in a response of revision %d", e.Kv.ModRevision, r.Header.Revision)
			}
		}
		w.events = r.Events
	}
	e := w.events[0]
	w.events = w.events[1:]
	return e
}

func (w *watcher) expect(t *testing.T, kind mvccpb.Event_EventType, key string, rev int64) *clientv3.Event {
	t.Helper()
	e := w.next(t)
	if e.Type != kind || string(e.Kv.Key) != key || e.Kv.ModRevision != rev {
		t.Fatalf("event %v %q at %d, want %v %q at %d", e.Type, e.Kv.Key, e.Kv.ModRevision, kind, key, rev)
	}
	return e
}

// life makes, changes and deletes a key and returns the revisions.
func (s *suite) life(t *testing.T, key string) (create, update, remove int64) {
	t.Helper()
	create = s.ok(t, key, "1", 0)
	update = s.ok(t, key, "2", create)
	return create, update, s.deleted(t, key, update)
}

// expectLife checks the three events of life.
func (s *suite) expectLife(t *testing.T, w *watcher, key string, create, update, remove int64) {
	t.Helper()
	e := w.expect(t, mvccpb.PUT, key, create)
	s.kv(t, e.Kv, key, "1", create, create, 1)
	if e.PrevKv != nil || !e.IsCreate() {
		t.Errorf("event of a creation: create %v, previous %v", e.IsCreate(), e.PrevKv)
	}
	e = w.expect(t, mvccpb.PUT, key, update)
	s.kv(t, e.Kv, key, "2", create, update, 2)
	if e.PrevKv == nil || !e.IsModify() {
		t.Fatalf("event of an update: %v", e)
	}
	s.kv(t, e.PrevKv, key, "1", create, create, 1)
	e = w.expect(t, mvccpb.DELETE, key, remove)
	if e.PrevKv == nil || string(e.PrevKv.Value) != "2" || e.PrevKv.ModRevision != update {
		t.Errorf("previous value of a deletion: %v", e.PrevKv)
	}
}

func testWatch(t *testing.T, s *suite) {
	w := s.watch(t, s.p+"x/")
	s.ok(t, s.p+"other", "1", 0)
	s.ok(t, s.p+"x", "1", 0)
	c, u, d := s.life(t, s.p+"x/a")
	s.expectLife(t, w, s.p+"x/a", c, u, d)
	c, u, d = s.life(t, s.p+"x/a") // again: it is a creation again
	s.ok(t, s.p+"x0", "1", 0)
	s.expectLife(t, w, s.p+"x/a", c, u, d)
}

func testWatchPast(t *testing.T, s *suite) {
	const n = 5
	var lives [n][3]int64
	for i := range n {
		lives[i][0], lives[i][1], lives[i][2] = s.life(t, fmt.Sprint(s.p, "k", i))
	}
	var watchers [n]*watcher
	for from := range n {
		watchers[from] = s.watch(t, s.p, clientv3.WithRev(lives[from][0]))
		for i := from; i < n; i++ {
			s.expectLife(t, watchers[from], fmt.Sprint(s.p, "k", i), lives[i][0], lives[i][1], lives[i][2])
		}
	}
	c, u, d := s.life(t, s.p+"now")
	for _, w := range watchers { // on from there without a gap
		s.expectLife(t, w, s.p+"now", c, u, d)
	}
	// In the middle of a key's life.
	w := s.watch(t, s.p+"k1", clientv3.WithRev(lives[1][1]))
	e := w.expect(t, mvccpb.PUT, s.p+"k1", lives[1][1])
	s.kv(t, e.Kv, s.p+"k1", "2", lives[1][0], lives[1][1], 2)
	w.expect(t, mvccpb.DELETE, s.p+"k1", lives[1][2])
}

// testWatchMany has several watchers follow several writers, some from the beginning and some from the past: all must
// see the same, in the order of revisions.
func testWatchMany(t *testing.T, s *suite) {
	writers, each := 6, 30
	if s.traits.KeyHistory {
		each = 8
	}
	start := s.ok(t, s.p+"start", "1", 0)
	var watchers []*watcher
	for range 5 {
		watchers = append(watchers, s.watch(t, s.p, clientv3.WithRev(start+1)))
	}
	var wg sync.WaitGroup
	errs := make(chan error, writers)
	for w := range writers {
		wg.Go(func() {
			rev := int64(0)
			for i := range each {
				r, err := s.tryPut(t.Context(), fmt.Sprint(s.p, "k", w), strconv.Itoa(i), rev)
				if err != nil || !r.Succeeded {
					errs <- fmt.Errorf("writer %d, write %d: %v, %w", w, i, r, err)
					return
				}
				rev = r.Header.Revision
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Fatal(err)
	}
	watchers = append(watchers, s.watch(t, s.p, clientv3.WithRev(start+1)))
	var want []string
	for i, w := range watchers {
		var got []string
		last := int64(0)
		for range writers * each {
			e := w.next(t)
			if e.Kv.ModRevision <= last {
				t.Fatalf("watcher %d: revision %d after %d", i, e.Kv.ModRevision, last)
			}
			last = e.Kv.ModRevision
			got = append(got, fmt.Sprintf("%s=%s@%d", e.Kv.Key, e.Kv.Value, last))
		}
		if i == 0 {
			want = got
		} else if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("watcher %d saw other events than watcher 0", i)
		}
	}
}

// testWatchProgress asks for progress as the apiserver's cache does before it answers a consistent read.
func testWatchProgress(t *testing.T, s *suite) {
	w := s.watch(t, s.p+"quiet/")
	rev := s.ok(t, s.p+"loud", "1", 0)
	for range 100 { // kine's server drops a request while the watch is not up to date: the apiserver asks every 100 ms
		if err := s.c.RequestProgress(clientv3.WithRequireLeader(t.Context())); err != nil {
			t.Fatal(err)
		}
		r, ok := w.within(t, patience/100)
		if !ok {
			continue
		}
		if !r.IsProgressNotify() {
			t.Fatalf("response %v, want a progress notification", r)
		}
		if r.Header.Revision >= rev {
			return
		}
	}
	t.Errorf("no progress notification told of revision %d", rev)
}

func testCompaction(t *testing.T, s *suite) {
	a, b, gone := s.p+"a", s.p+"b", s.p+"gone"
	a1 := s.ok(t, a, "1", 0)
	b1 := s.ok(t, b, "1", 0)
	g1 := s.ok(t, gone, "1", 0)
	a2 := s.ok(t, a, "2", a1)
	g2 := s.deleted(t, gone, g1)
	a3 := s.ok(t, a, "3", a2)
	a4 := s.ok(t, a, "4", a3)
	if _, err := s.c.Compact(t.Context(), a3); err != nil {
		t.Fatal(err)
	}
	for _, rev := range []int64{a1, b1, a2, g2, a3 - 1} {
		if _, err := s.c.Get(t.Context(), a, clientv3.WithRev(rev)); !errors.Is(err, rpctypes.ErrCompacted) {
			t.Errorf("get at revision %d after compaction at %d: %v, want ErrCompacted", rev, a3, err)
		}
		if _, err := s.c.Get(t.Context(), s.p, clientv3.WithPrefix(), clientv3.WithRev(rev)); !errors.Is(err, rpctypes.ErrCompacted) {
			t.Errorf("list at revision %d after compaction at %d: %v, want ErrCompacted", rev, a3, err)
		}
	}
	s.kv(t, s.get(t, a, clientv3.WithRev(a3)).Kvs[0], a, "3", a1, a3, 3)
	s.kv(t, s.get(t, a).Kvs[0], a, "4", a1, a4, 4)
	s.kv(t, s.get(t, b, clientv3.WithRev(a3)).Kvs[0], b, "1", b1, b1, 1)
	if n := s.get(t, s.p, clientv3.WithPrefix(), clientv3.WithRev(a3)).Count; n != 2 {
		t.Errorf("%d keys at the compacted revision, want 2", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r := <-s.c.Watch(ctx, s.p, clientv3.WithPrefix(), clientv3.WithRev(a3-1))
	if !errors.Is(r.Err(), rpctypes.ErrCompacted) || r.CompactRevision != a3 {
		t.Errorf("watch from before the compaction: %v, compact revision %d, want ErrCompacted and %d", r.Err(), r.CompactRevision, a3)
	}
	w := s.watch(t, s.p, clientv3.WithRev(a3))
	if e := w.expect(t, mvccpb.PUT, a, a3); e.PrevKv != nil {
		t.Errorf("event at the compacted revision has a previous value: %v", e.PrevKv)
	}
	if e := w.expect(t, mvccpb.PUT, a, a4); e.PrevKv == nil || string(e.PrevKv.Value) != "3" {
		t.Errorf("event after the compacted revision: previous value %v", e.PrevKv)
	}
	// A key that was deleted before can be made again.
	g3 := s.ok(t, gone, "new", 0)
	s.kv(t, s.get(t, gone).Kvs[0], gone, "new", g3, g3, 1)
	w.expect(t, mvccpb.PUT, gone, g3)
}

func testCompactionErrors(t *testing.T, s *suite) {
	rev := s.ok(t, s.p+"a", "1", 0)
	if _, err := s.c.Compact(t.Context(), rev+1_000_000); !errors.Is(err, rpctypes.ErrFutureRev) {
		t.Errorf("compaction at a future revision: %v, want ErrFutureRev", err)
	}
	if s.traits.LooseCompaction {
		return
	}
	if _, err := s.c.Compact(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
	for _, r := range []int64{rev, rev - 1} {
		if _, err := s.c.Compact(t.Context(), r); !errors.Is(err, rpctypes.ErrCompacted) {
			t.Errorf("compaction at %d after one at %d: %v, want ErrCompacted", r, rev, err)
		}
	}
}

// testCompactRevKey is the transaction with which several apiservers agree on who compacts
// (k8s.io/apiserver v0.37 pkg/storage/etcd3/compact.go).
func testCompactRevKey(t *testing.T, s *suite) {
	const key = "compact_rev_key"
	txn := func(version int64, value string) *clientv3.TxnResponse {
		return must(s.c.Txn(t.Context()).If(clientv3.Compare(clientv3.Version(key), "=", version)).
			Then(clientv3.OpPut(key, value)).Else(clientv3.OpGet(key)).Commit())(t)
	}
	r := txn(0, "10")
	version := int64(1)
	if !r.Succeeded { // another test's compaction may have made it
		version = r.Responses[0].GetResponseRange().Kvs[0].Version
		if r = txn(version, "10"); !r.Succeeded {
			t.Fatalf("put with the version that was told did not succeed: %v", r)
		}
		version++
	}
	if r := txn(version-1, "20"); r.Succeeded {
		t.Error("put with an old version succeeded")
	} else if kv := r.Responses[0].GetResponseRange().Kvs[0]; kv.Version != version || string(kv.Value) != "10" {
		t.Errorf("conflict tells version %d and value %q, want %d and 10", kv.Version, kv.Value, version)
	}
	w := s.watch(t, key)
	if r := txn(version, "30"); !r.Succeeded {
		t.Error("put with the right version did not succeed")
	}
	if e := w.next(t); string(e.Kv.Key) != key || string(e.Kv.Value) != "30" {
		t.Errorf("event %q = %q", e.Kv.Key, e.Kv.Value)
	}
	g := s.get(t, key)
	if len(g.Kvs) != 1 || string(g.Kvs[0].Value) != "30" || g.Kvs[0].Version != version+1 {
		t.Errorf("get: %v", g.Kvs)
	}
}
