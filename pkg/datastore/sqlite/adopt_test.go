package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	kinesqlite "github.com/k3s-io/kine/pkg/drivers/sqlite"
	"github.com/k3s-io/kine/pkg/server"
)

// kineStore fills a database with kine's own driver, as k3s does.
func kineStore(t *testing.T, dir string) (want []*server.KeyValue, revision int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	_, k, err := kinesqlite.New(ctx, &wg, &drivers.Config{
		DataSourceName: filepath.Join(dir, kineFile) + "?" + kinesqlite.DefaultParams,
		CompactTimeout: time.Second, CompactMinRetain: 10, CompactBatchSize: 100, PollBatchSize: 500, PollInterval: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Start(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		key := fmt.Sprintf("/registry/pods/default/pod-%03d", i)
		rev, err := k.Create(ctx, key, []byte(strings.Repeat("v", i*10)), int64(i%2*3600))
		if err == nil && i%3 == 0 {
			rev, _, _, err = k.Update(ctx, key, []byte("changed\x00\xff"), rev, 0)
		}
		if err == nil && i%5 == 0 {
			_, _, _, err = k.Delete(ctx, key, rev)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if revision, err = k.CurrentRevision(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Compact(ctx, revision-100); err != nil {
		t.Fatal(err)
	}
	if _, want, err = k.List(ctx, "/", "0", 0, 0, false); err != nil {
		t.Fatal(err)
	}
	cancel()
	wg.Wait()
	return want, revision
}

func TestK3sDatabaseIsAdopted(t *testing.T) {
	dir := t.TempDir()
	want, revision := kineStore(t, dir)
	// What an import that was killed left behind.
	if err := os.WriteFile(filepath.Join(dir, fileName+importSuffix), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := openTest(t, dir)
	rev, kvs, err := b.List(t.Context(), "/", "0", 0, 0, false)
	if err != nil || len(kvs) != len(want) {
		t.Fatalf("%d keys, %v; want %d", len(kvs), err, len(want))
	}
	if rev <= revision {
		t.Errorf("newest revision is %d, k3s was at %d", rev, revision)
	}
	for i, kv := range kvs {
		w := want[i]
		if kv.Key == server.HealthKey {
			continue
		}
		w.Version = kv.Version // kine does not keep it
		if !sameKV(kv, w) || kv.Version < 1 {
			t.Errorf("%s, want %s", show(kvs[i:i+1]), show(want[i:i+1]))
		}
	}
	if _, _, err := b.List(t.Context(), "/", "0", 0, revision, false); !errors.Is(err, server.ErrCompacted) {
		t.Errorf("list at an old revision: %v, want ErrCompacted", err)
	}
	next := create(t, b, "/registry/new", "1")
	if _, err := b.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	// From now on the old file is not looked at.
	b = openTest(t, dir)
	defer b.Close()
	if rev, kv, err := b.Get(t.Context(), "/registry/new", 0, false); err != nil || kv == nil || rev != next {
		t.Errorf("after a restart: %d, %v, %v", rev, kv, err)
	}
	if c, err := openConn(filepath.Join(dir, kineFile), "ro"); err != nil {
		t.Error(err)
	} else {
		defer c.close()
		if n, _, err := c.ints("SELECT max(id) FROM kine"); err != nil || n[0] != revision {
			t.Errorf("the k3s database is at %v, was at %d (%v)", n, revision, err)
		}
	}
}

func TestAdoptRefusesWhatIsInUseOrDamaged(t *testing.T) {
	t.Run("in use", func(t *testing.T) {
		dir := t.TempDir()
		kineStore(t, dir)
		k3s, err := openConn(filepath.Join(dir, kineFile), "rw", "journal_mode=WAL")
		if err != nil {
			t.Fatal(err)
		}
		defer k3s.close()
		if _, _, err := k3s.ints("SELECT count(*) FROM kine"); err != nil {
			t.Fatal(err)
		}
		expectNoStore(t, dir, "stop k3s first")
	})
	t.Run("damaged", func(t *testing.T) {
		dir := t.TempDir()
		kineStore(t, dir)
		path := filepath.Join(dir, kineFile)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		clear(data[8*4096 : 20*4096])
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		expectNoStore(t, dir, "not changed")
	})
	t.Run("something else", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, kineFile), []byte(strings.Repeat("text ", 1000)), 0o600); err != nil {
			t.Fatal(err)
		}
		expectNoStore(t, dir, "not changed")
	})
}

func expectNoStore(t *testing.T, dir, why string) {
	t.Helper()
	b, err := Open(dir, Options{})
	if err == nil {
		b.Close()
	}
	if err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("Open: %v, want an error with %q", err, why)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, fileName+"*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestCopyOfABusyStore(t *testing.T) {
	b := newBackend(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := b.Create(context.Background(), fmt.Sprint("/busy/", i), []byte(strings.Repeat("x", 1000)), 0); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range 5 {
		dir := t.TempDir()
		before, _ := b.CurrentRevision(ctx)
		rev, err := b.Copy(t.Context(), filepath.Join(dir, fileName))
		if err != nil {
			t.Fatal(err)
		}
		if rev < before {
			t.Errorf("copy %d is of revision %d, the store was at %d before", i, rev, before)
		}
		c := openTest(t, dir)
		if n, _, err := c.List(t.Context(), "", "", 0, 0, true); err != nil || n != rev {
			t.Errorf("copy opens at %d, %v; want %d", n, err, rev)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	cancel()
	wg.Wait()
	if _, err := b.Copy(t.Context(), b.path); err == nil {
		t.Error("a copy onto the store itself was made")
	}
}

// TestCopyEndsWithItsContext ends a copy once it has begun to write; one that was faster is no evidence.
func TestCopyEndsWithItsContext(t *testing.T) {
	b := newBackend(t)
	for i := range 64 {
		if _, err := b.Create(t.Context(), fmt.Sprint("/large/", i), make([]byte, 1<<19), 0); err != nil {
			t.Fatal(err)
		}
	}
	for range 50 {
		to := filepath.Join(t.TempDir(), fileName)
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for _, err := os.Stat(to); err != nil; _, err = os.Stat(to) {
				select {
				case <-over:
					return
				default:
				}
			}
			cancel()
		})
		_, err := b.Copy(ctx, to)
		close(over)
		wg.Wait()
		cancel()
		if err == nil {
			continue
		}
		if _, there := os.Stat(to); !errors.Is(err, context.Canceled) || !errors.Is(there, os.ErrNotExist) {
			t.Errorf("a copy that was cut short ends with %v and leaves a file: %v", err, there)
		}
		return
	}
	t.Error("no copy was cut short")
}
