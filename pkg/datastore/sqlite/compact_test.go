package sqlite

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/knarr-io/knarr/tests/bed"
)

// TestChurnLeavesABoundedFile updates a few keys many times, as heartbeats do, with a compaction now and then.
func TestChurnLeavesABoundedFile(t *testing.T) {
	b := newBackend(t)
	const keys, rounds = 20, 200
	value := []byte(strings.Repeat("x", 1500))
	revs := make([]int64, keys)
	for round := range rounds {
		for k := range revs {
			key := fmt.Sprint("/hot/", k)
			var err error
			if round == 0 {
				revs[k], err = b.Create(t.Context(), key, value, 0)
			} else {
				revs[k], _, _, err = b.Update(t.Context(), key, value, revs[k], 0)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if round%50 == 49 {
			if _, err := b.Compact(t.Context(), revs[0]); err != nil {
				t.Fatal(err)
			}
		}
	}
	bed.Until(t, "the sweep", func() bool { return b.Settled() })
	n, _, err := b.w.conn.ints("SELECT page_count - freelist_count, freelist_count FROM pragma_page_count, pragma_freelist_count")
	if err != nil {
		t.Fatal(err)
	}
	if used := n[0] * pageSize; used > 2*keys*1500+40*1024 {
		t.Errorf("%d bytes are in use for %d live", used, keys*1500)
	}
}

// TestVacuumGivesPagesBack fills a store, deletes nearly everything and waits for the file to shrink.
func TestVacuumGivesPagesBack(t *testing.T) {
	b := newBackend(t)
	value := strings.Repeat("x", 8000)
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := range 100 {
				rev, err := b.Create(t.Context(), fmt.Sprintf("/%d/%d", w, i), []byte(value), 0)
				if err == nil && i > 0 {
					_, _, _, err = b.Delete(t.Context(), fmt.Sprintf("/%d/%d", w, i), rev)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	rev := create(t, b, "/last", "1")
	full := pages(t, b)
	if _, err := b.Compact(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
	bed.Until(t, "the file to shrink", func() bool { return pages(t, b) < full/2 })
	if _, err := b.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	if _, kvs, err := b.List(t.Context(), "", "", 0, 0, false); err != nil || len(kvs) != 17 {
		t.Errorf("%d keys are left, %v", len(kvs), err)
	}
}

func pages(t *testing.T, b *Backend) int64 {
	t.Helper()
	c, err := openConn(b.path, "ro")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	n, _, err := c.ints("PRAGMA page_count")
	if err != nil {
		t.Fatal(err)
	}
	return n[0]
}

// TestCompactionStepsAreShort measures how long writers wait while a large history is swept. The bound of 20 ms for a
// step is asserted for the median wait beyond that of the same writes before, since a single one may be the disk's or
// another process's.
func TestCompactionStepsAreShort(t *testing.T) {
	b := newBackend(t)
	rng := rand.New(rand.NewPCG(1, 1))
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			rev := int64(0)
			for range 500 {
				var err error
				if rev == 0 {
					rev, err = b.Create(t.Context(), fmt.Sprint("/k/", w), []byte(strings.Repeat("x", 1000)), 0)
				} else {
					rev, _, _, err = b.Update(t.Context(), fmt.Sprint("/k/", w), []byte(strings.Repeat("y", 1000)), rev, 0)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	n := 0
	write := func() time.Duration {
		began := time.Now()
		create(t, b, fmt.Sprint("/during/", n, rng.Int64()), "x")
		n++
		return time.Since(began)
	}
	var before []time.Duration
	for range 50 {
		before = append(before, write())
	}
	current, _ := b.CurrentRevision(t.Context())
	if _, err := b.Compact(t.Context(), current); err != nil {
		t.Fatal(err)
	}
	var during []time.Duration
	for !b.Settled() {
		during = append(during, write())
	}
	if len(during) == 0 {
		t.Fatal("old rows were deleted before a write was made")
	}
	if extra := median(during) - median(before); extra > 20*time.Millisecond {
		t.Errorf("%d writes took %v longer while old rows were deleted", len(during), extra)
	}
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// TestManyKeysListInChunks lists more keys than are looked at in one go, while they change.
func TestManyKeysListInChunks(t *testing.T) {
	b := newBackend(t)
	const n = 5*listChunk/2 + 7
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < n; i += 8 {
				if _, err := b.Create(t.Context(), fmt.Sprintf("/k/%05d", i), []byte("x"), 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	rev, kvs, err := b.List(t.Context(), "/k/", "/k0", 0, 0, false)
	if err != nil || len(kvs) != n {
		t.Fatalf("%d keys, %v", len(kvs), err)
	}
	for i, kv := range kvs {
		if kv.Key != fmt.Sprintf("/k/%05d", i) {
			t.Fatalf("key %d is %s", i, kv.Key)
		}
		if i%2 == 0 {
			if _, _, ok, err := b.Delete(t.Context(), kv.Key, kv.ModRevision); !ok || err != nil {
				t.Fatal(ok, err)
			}
		}
	}
	lr := b.ListStream(t.Context(), "/k/", "/k0", 0, rev, false)
	streamed := 0
	for kv := range lr.KVc {
		if kv.Key != kvs[streamed].Key || kv.ModRevision != kvs[streamed].ModRevision {
			t.Fatalf("key %d is %s", streamed, kv.Key)
		}
		streamed++
	}
	if err := <-lr.Errorc; err != nil || streamed != n {
		t.Errorf("streamed %d keys, %v", streamed, err)
	}
	lr = b.ListStream(t.Context(), "/k/", "/k0", listChunk+5, 0, true)
	streamed = 0
	for range lr.KVc {
		streamed++
	}
	if streamed != listChunk+5 {
		t.Errorf("streamed %d keys with a limit of %d", streamed, listChunk+5)
	}
}
