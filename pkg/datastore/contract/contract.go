// Package contract is the one suite that every store behind the etcd API has to pass: what the apiserver, as etcd's
// client, relies on. etcd itself is the reference.
//
// It is a test helper: it is imported by tests only and keeps nothing. It speaks to the store through a real etcd
// client, so it covers the server layer too.
package contract

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Traits tell in what a store is known to differ from etcd without the apiserver minding.
type Traits struct {
	// NoVersions: KeyValue.Version is not kept (kine's SQL drivers).
	NoVersions bool
	// TextKeys: keys and the ends of ranges must be valid UTF-8 without NUL (databases that keep keys as text).
	TextKeys bool
	// ASCIIKeys: keys must be printable ASCII, upper and lower case are the same, which decides the order of keys, too, and spaces
	// at the end do not count (kine's MySQL driver).
	ASCIIKeys bool
	// LooseCompaction: the last revisions before the newest stay readable whatever is compacted (kine's SQL drivers
	// keep a thousand), and the oldest readable revision cannot be told exactly.
	LooseCompaction bool
	// KeyHistory: not the store's last revisions are kept but the last ten of each key. A key is found at a revision of its
	// own only, a watch that begins in the past sees what there still is, and begins with the next write when the last one
	// was a deletion; compaction is not answered as etcd does (kine's NATS driver).
	KeyHistory bool
	// KeysWithValues: who asks for keys only gets the values, too (kine's NATS driver).
	KeysWithValues bool
	// BackwardRanges: a range that ends before it begins holds its first key (kine's NATS driver).
	BackwardRanges bool
}

// patience is how long a test waits for something that should come at once.
const patience = 30 * time.Second

// Run runs the suite against a store. client must return a client of an open store; it is called once for each test,
// and tests use keys of their own, so it may be the same store every time.
func Run(t *testing.T, traits Traits, client func(t *testing.T) *clientv3.Client) {
	for _, tc := range []struct {
		name string
		f    func(*testing.T, *suite)
		skip bool
	}{
		{"create", testCreate, false},
		{"update", testUpdate, false},
		{"delete", testDelete, false},
		{"create again after delete", testRecreate, false},
		{"update of a missing key creates", testOptimisticPutZero, false},
		{"get at old revisions", testHistory, traits.KeyHistory},
		{"future revision", testFutureRevision, false},
		{"list in order with limit and continue", testPagination, false},
		{"list at a revision does not change", testListAtRevision, false},
		{"count", testCount, false},
		{"range borders", testRangeBorders, false},
		{"unusual keys", testUnusualKeys, false},
		{"large and empty values", testValues, false},
		{"watch", testWatch, false},
		{"watch from the past", testWatchPast, traits.KeyHistory},
		{"watch many", testWatchMany, false},
		{"watch progress", testWatchProgress, false},
		{"compaction", testCompaction, traits.LooseCompaction},
		{"compaction errors", testCompactionErrors, traits.KeyHistory},
		{"the apiserver's compaction record", testCompactRevKey, traits.KeyHistory},
		{"lease", testLease, false},
		{"conflicts", testConflicts, false},
		{"status", testStatus, false},
	} {
		if tc.skip {
			continue
		}
		t.Run(tc.name, func(t *testing.T) {
			s := &suite{c: client(t), traits: traits, p: "/registry/" + strings.ReplaceAll(t.Name(), " ", "-") + "/"}
			tc.f(t, s)
		})
	}
}

// suite is what one test works with.
type suite struct {
	c      *clientv3.Client
	traits Traits
	p      string // prefix of the test's keys
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// put makes the transaction with which the apiserver creates (rev 0) and updates.
func (s *suite) put(t *testing.T, key, value string, rev int64, opts ...clientv3.OpOption) *clientv3.TxnResponse {
	t.Helper()
	return must(s.tryPut(t.Context(), key, value, rev, opts...))(t)
}

func (s *suite) tryPut(ctx context.Context, key, value string, rev int64, opts ...clientv3.OpOption) (*clientv3.TxnResponse, error) {
	txn := s.c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", rev)).
		Then(clientv3.OpPut(key, value, opts...))
	if rev != 0 {
		txn = txn.Else(clientv3.OpGet(key))
	}
	return txn.Commit()
}

// ok requires that put succeeds and returns its revision.
func (s *suite) ok(t *testing.T, key, value string, rev int64, opts ...clientv3.OpOption) int64 {
	t.Helper()
	r := s.put(t, key, value, rev, opts...)
	if !r.Succeeded {
		t.Fatalf("put %q at %d did not succeed: %v", key, rev, r)
	}
	return r.Header.Revision
}

func (s *suite) delete(t *testing.T, key string, rev int64) *clientv3.TxnResponse {
	t.Helper()
	return must(s.c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", rev)).
		Then(clientv3.OpDelete(key)).Else(clientv3.OpGet(key)).Commit())(t)
}

func (s *suite) deleted(t *testing.T, key string, rev int64) int64 {
	t.Helper()
	r := s.delete(t, key, rev)
	if !r.Succeeded {
		t.Fatalf("delete %q at %d did not succeed: %v", key, rev, r)
	}
	return r.Header.Revision
}

func (s *suite) get(t *testing.T, key string, opts ...clientv3.OpOption) *clientv3.GetResponse {
	t.Helper()
	return must(s.c.Get(t.Context(), key, opts...))(t)
}

// kv checks one key of a response.
func (s *suite) kv(t *testing.T, kv *mvccpb.KeyValue, key, value string, create, mod, version int64) {
	t.Helper()
	if string(kv.Key) != key || string(kv.Value) != value || kv.ModRevision != mod || kv.CreateRevision != create {
		t.Errorf("got key %q value %.40q created %d modified %d, want %q %.40q %d %d",
			kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, key, value, create, mod)
	}
	if !s.traits.NoVersions && kv.Version != version {
		t.Errorf("version of %q is %d, want %d", key, kv.Version, version)
	}
}

func testCreate(t *testing.T, s *suite) {
	key := s.p + "a"
	before := s.get(t, key)
	if len(before.Kvs) != 0 || before.Count != 0 || before.Header.Revision < 1 {
		t.Fatalf("get of a missing key: %v", before)
	}
	rev := s.ok(t, key, "1", 0)
	if rev <= before.Header.Revision {
		t.Errorf("created at revision %d, the newest was %d before", rev, before.Header.Revision)
	}
	r := s.put(t, key, "2", 0)
	if r.Succeeded || r.Header.Revision < rev {
		t.Errorf("second create: succeeded %v at %d", r.Succeeded, r.Header.Revision)
	}
	g := s.get(t, key)
	if g.Count != 1 || g.Header.Revision < rev {
		t.Errorf("get: count %d, revision %d", g.Count, g.Header.Revision)
	}
	s.kv(t, g.Kvs[0], key, "1", rev, rev, 1)
}

func testUpdate(t *testing.T, s *suite) {
	key := s.p + "a"
	r1 := s.ok(t, key, "1", 0)
	r2 := s.ok(t, key, "2", r1)
	if r2 <= r1 {
		t.Errorf("updated at %d after creation at %d", r2, r1)
	}
	s.kv(t, s.get(t, key).Kvs[0], key, "2", r1, r2, 2)
	for _, wrong := range []int64{r1, r2 + 1000} {
		r := s.put(t, key, "3", wrong)
		if r.Succeeded {
			t.Fatalf("update at revision %d succeeded, the key is at %d", wrong, r2)
		}
		s.kv(t, r.Responses[0].GetResponseRange().Kvs[0], key, "2", r1, r2, 2)
		if r.Header.Revision < r2 {
			t.Errorf("conflict answered with revision %d, want %d or more", r.Header.Revision, r2)
		}
	}
	r := s.put(t, s.p+"missing", "1", r2)
	if r.Succeeded || len(r.Responses[0].GetResponseRange().Kvs) != 0 {
		t.Errorf("update of a missing key: %v", r)
	}
}

func testDelete(t *testing.T, s *suite) {
	key := s.p + "a"
	r1 := s.ok(t, key, "1", 0)
	r2 := s.ok(t, key, "2", r1)
	r := s.delete(t, key, r1)
	if r.Succeeded {
		t.Fatal("delete at an old revision succeeded")
	}
	s.kv(t, r.Responses[0].GetResponseRange().Kvs[0], key, "2", r1, r2, 2)
	r3 := s.deleted(t, key, r2)
	if r3 <= r2 {
		t.Errorf("deleted at %d after an update at %d", r3, r2)
	}
	if g := s.get(t, key); len(g.Kvs) != 0 || g.Count != 0 {
		t.Errorf("get after delete: %v", g)
	}
	if r := s.delete(t, key, r2); r.Succeeded || len(r.Responses[0].GetResponseRange().Kvs) != 0 {
		t.Errorf("second delete: %v", r)
	}
}

func testRecreate(t *testing.T, s *suite) {
	key := s.p + "a"
	for range 3 {
		r1 := s.ok(t, key, "1", 0)
		r2 := s.ok(t, key, "2", r1)
		s.kv(t, s.get(t, key).Kvs[0], key, "2", r1, r2, 2)
		s.deleted(t, key, r2)
	}
}

// testOptimisticPutZero is the apiserver's update with ignoreNotFound: a comparison with revision 0 and a get on failure.
func testOptimisticPutZero(t *testing.T, s *suite) {
	key := s.p + "a"
	txn := func(value string) *clientv3.TxnResponse {
		return must(s.c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).
			Then(clientv3.OpPut(key, value)).Else(clientv3.OpGet(key)).Commit())(t)
	}
	r1 := txn("1")
	if !r1.Succeeded {
		t.Fatal("first put did not succeed")
	}
	r2 := txn("2")
	if r2.Succeeded {
		t.Fatal("second put succeeded")
	}
	s.kv(t, r2.Responses[0].GetResponseRange().Kvs[0], key, "1", r1.Header.Revision, r1.Header.Revision, 1)
}

func testHistory(t *testing.T, s *suite) {
	key := s.p + "a"
	revs := []int64{s.ok(t, key, "0", 0)}
	for i := 1; i < 10; i++ {
		s.ok(t, fmt.Sprint(s.p, "other", i), "x", 0)
		revs = append(revs, s.ok(t, key, fmt.Sprint(i), revs[i-1]))
	}
	gone := s.deleted(t, key, revs[9])
	again := s.ok(t, key, "again", 0)
	for i, rev := range revs {
		at := s.get(t, key, clientv3.WithRev(rev))
		s.kv(t, at.Kvs[0], key, fmt.Sprint(i), revs[0], rev, int64(i+1))
		if at.Header.Revision < again {
			t.Errorf("get at %d answered with revision %d, want the newest", rev, at.Header.Revision)
		}
		if i > 0 { // between two writes of the key it is as after the first
			s.kv(t, s.get(t, key, clientv3.WithRev(rev-1)).Kvs[0], key, fmt.Sprint(i-1), revs[0], revs[i-1], int64(i))
		}
	}
	if g := s.get(t, key, clientv3.WithRev(gone)); len(g.Kvs) != 0 {
		t.Errorf("get at the revision of the deletion: %v", g.Kvs)
	}
	s.kv(t, s.get(t, key, clientv3.WithRev(again)).Kvs[0], key, "again", again, again, 1)
}

func testFutureRevision(t *testing.T, s *suite) {
	rev := s.ok(t, s.p+"a", "1", 0)
	for name, opts := range map[string][]clientv3.OpOption{
		"get": {}, "list": {clientv3.WithPrefix()}, "count": {clientv3.WithPrefix(), clientv3.WithCountOnly()},
	} {
		_, err := s.c.Get(t.Context(), s.p, append(opts, clientv3.WithRev(rev+1_000_000))...)
		if !errors.Is(err, rpctypes.ErrFutureRev) {
			t.Errorf("%s at a future revision: %v, want ErrFutureRev", name, err)
		}
	}
}

func testValues(t *testing.T, s *suite) {
	large := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	r1 := s.ok(t, s.p+"large", large, 0)
	s.kv(t, s.get(t, s.p+"large").Kvs[0], s.p+"large", large, r1, r1, 1)
	r2 := s.ok(t, s.p+"large", large[1:], r1)
	s.kv(t, s.get(t, s.p+"large").Kvs[0], s.p+"large", large[1:], r1, r2, 2)
	s.kv(t, s.get(t, s.p+"large", clientv3.WithRev(r1)).Kvs[0], s.p+"large", large, r1, r1, 1)
	binary := string([]byte{0, 1, 0xff, 0xfe, 0, '\'', '"', '\\', 0x80})
	rb := s.ok(t, s.p+"binary", binary, 0)
	s.kv(t, s.get(t, s.p+"binary").Kvs[0], s.p+"binary", binary, rb, rb, 1)
	re := s.ok(t, s.p+"empty", "", 0)
	s.kv(t, s.get(t, s.p+"empty").Kvs[0], s.p+"empty", "", re, re, 1)
	if _, err := s.tryPut(t.Context(), s.p+"too-large", strings.Repeat("x", 3<<20), 0); err == nil {
		t.Error("a value of 3 MiB was taken")
	}
}

func testLease(t *testing.T, s *suite) {
	grant := must(s.c.Grant(t.Context(), 1))(t)
	lease := clientv3.WithLease(grant.ID)
	gone, kept := s.p+"gone", s.p+"kept"
	w := s.watch(t, s.p)
	r1 := s.ok(t, gone, "1", 0, lease)
	k1 := s.ok(t, kept, "1", 0, lease)
	k2 := s.ok(t, kept, "2", k1) // without a lease: it stays
	if got := s.get(t, gone).Kvs; len(got) != 1 || got[0].Lease != int64(grant.ID) {
		t.Errorf("lease of a new key: %v, want %d", got, grant.ID)
	}
	w.expect(t, mvccpb.PUT, gone, r1)
	w.expect(t, mvccpb.PUT, kept, k1)
	w.expect(t, mvccpb.PUT, kept, k2)
	e := w.next(t)
	if e.Type != mvccpb.DELETE || string(e.Kv.Key) != gone || e.PrevKv == nil || string(e.PrevKv.Value) != "1" {
		t.Errorf("event after the lease's end: %v", e)
	}
	if g := s.get(t, gone); len(g.Kvs) != 0 {
		t.Errorf("key is there after its lease's end: %v", g)
	}
	s.kv(t, s.get(t, kept).Kvs[0], kept, "2", k1, k2, 2)
}

// testConflicts counts with several writers, as controllers that retry on conflict do: no increment may be lost.
func testConflicts(t *testing.T, s *suite) {
	const writers, each = 8, 25
	key := s.p + "counter"
	s.ok(t, key, strings.Repeat("x", 0), 0)
	var wg sync.WaitGroup
	errs := make(chan error, writers)
	for range writers {
		wg.Go(func() {
			for done := 0; done < each; {
				g, err := s.c.Get(t.Context(), key)
				if err != nil {
					errs <- err
					return
				}
				r, err := s.tryPut(t.Context(), key, string(g.Kvs[0].Value)+"x", g.Kvs[0].ModRevision)
				if err != nil {
					errs <- err
					return
				}
				if r.Succeeded {
					done++
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	g := s.get(t, key)
	if n := bytes.Count(g.Kvs[0].Value, []byte("x")); n != writers*each {
		t.Errorf("counted to %d, want %d", n, writers*each)
	}
}

// noise is n bytes that cannot be compressed.
func noise(n int) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b) // never fails
	return string(b)
}

func testStatus(t *testing.T, s *suite) {
	s.ok(t, s.p+"a", noise(10000), 0)
	st, err := s.c.Status(t.Context(), s.c.Endpoints()[0])
	if err != nil || st.DbSize < 10000 || st.Version == "" {
		t.Errorf("status: %v, %v", st, err)
	}
}
