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

	"github.com/k3s-io/kine/pkg/server"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openTest(t *testing.T, dir string) *Backend {
	t.Helper()
	b, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newBackend(t *testing.T) *Backend {
	t.Helper()
	b := openTest(t, t.TempDir())
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func create(t *testing.T, b *Backend, key, value string) int64 {
	t.Helper()
	rev, err := b.Create(t.Context(), key, []byte(value), 0)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func TestOneServerPerDirectory(t *testing.T) {
	dir := t.TempDir()
	b := openTest(t, dir)
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrInUse) {
		t.Errorf("second Open: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := openTest(t, dir).Close(); err != nil {
		t.Error(err)
	}
}

func TestRefusesOtherFiles(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"not a database": func(p string) error { return os.WriteFile(p, []byte(strings.Repeat("hello ", 1000)), 0o600) },
		"another program's": func(p string) error {
			return rawExec(p, "CREATE TABLE t (x)")
		},
		"newer schema": func(p string) error {
			return rawExec(p, fmt.Sprintf("PRAGMA application_id=%d; PRAGMA user_version=99; CREATE TABLE t (x)", applicationID))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, fileName)
			if err := make(path); err != nil {
				t.Fatal(err)
			}
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir, Options{}); err == nil {
				t.Fatal("it was opened")
			} else {
				t.Log(err)
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
				t.Errorf("the file was changed (%v)", err)
			}
		})
	}
}

// rawExec changes a database behind the store's back.
func rawExec(path, sql string) error {
	c, err := openConn(path, "rwc")
	if err != nil {
		return err
	}
	return errors.Join(c.exec(sql), c.close())
}

func TestCallsAfterCloseFail(t *testing.T) {
	b := openTest(t, t.TempDir())
	create(t, b, "/a", "1")
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Create(t.Context(), "/b", nil, 0); !errors.Is(err, errClosed) {
		t.Errorf("Create: %v", err)
	}
	wr := b.Watch(t.Context(), 0)
	if err := <-wr.Errorc; !errors.Is(err, errClosed) {
		t.Errorf("Watch: %v", err)
	}
}

// TestConcurrentWritersShareTransactions is about group commit: while one transaction is on its way, the next one
// fills up.
func TestConcurrentWritersShareTransactions(t *testing.T) {
	b := newBackend(t)
	const writers, each = 32, 50
	wr := b.Watch(t.Context(), 0)
	batches := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		for rev := int64(0); rev < writers*each; {
			batch := <-wr.Eventc
			batches++
			rev = batch.CurrentRev
		}
	}()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if _, err := b.Create(t.Context(), fmt.Sprintf("/%d/%d", w, i), []byte("x"), 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	<-done
	if batches > writers*each/2 {
		t.Errorf("%d writes by %d writers took %d transactions", writers*each, writers, batches)
	}
}

// TestSlowWatcherLosesNothing has a watcher fall far behind what is buffered for it.
func TestSlowWatcherLosesNothing(t *testing.T) {
	b := newBackend(t)
	rev := create(t, b, "/k", "0")
	wr := b.Watch(t.Context(), 1)
	const n = 4*watchBuffer + historyChunk
	pad := strings.Repeat(" ", 3*historyBytes/historyChunk) // more than is read at a time
	for i := 1; i <= n; i++ {
		next, _, ok, err := b.Update(t.Context(), "/k", []byte(fmt.Sprint(i)+pad), rev, 0)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		rev = next
	}
	seen := 0
	for seen <= n {
		batch := <-wr.Eventc
		for _, e := range batch.Events {
			if got := strings.TrimSpace(string(e.KV.Value)); got != fmt.Sprint(seen) {
				t.Fatalf("event %d has value %s", seen, got)
			}
			if seen > 0 && (e.PrevKV == nil || strings.TrimSpace(string(e.PrevKV.Value)) != fmt.Sprint(seen-1)) {
				t.Fatalf("event %d has another previous value", seen)
			}
			seen++
		}
	}
}

// TestWatcherOvertakenByCompactionIsTold has a watcher stand still until its next events are compacted away.
func TestWatcherOvertakenByCompactionIsTold(t *testing.T) {
	b := newBackend(t)
	rev := create(t, b, "/k", "0")
	wr := b.Watch(t.Context(), 1)
	for range 3 * watchBuffer {
		next, _, _, err := b.Update(t.Context(), "/k", []byte("x"), rev, 0)
		if err != nil {
			t.Fatal(err)
		}
		rev = next
	}
	if _, err := b.Compact(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
	for range wr.Eventc { // ends when the watch does
	}
	if err := <-wr.Errorc; !errors.Is(err, server.ErrCompacted) {
		t.Errorf("watch ended with %v, want ErrCompacted", err)
	}
}

// TestWatchesStartedWhileWriting start at every point of a busy store's time and must miss and repeat nothing.
func TestWatchesStartedWhileWriting(t *testing.T) {
	b := newBackend(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var writers, watchers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if _, err := b.Create(context.Background(), fmt.Sprintf("/%d/%d", w, i), []byte("x"), 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 40 {
		watchers.Go(func() {
			wctx, stop := context.WithCancel(t.Context())
			defer stop()
			from := int64(0)
			if i%2 == 0 {
				from = 1
			}
			wr := b.Watch(wctx, from)
			if from == 0 {
				from = wr.CurrentRevision + 1
			}
			for next := from; next < from+200; {
				for _, e := range (<-wr.Eventc).Events {
					if e.KV.ModRevision != next {
						t.Errorf("watch from %d: event of revision %d, want %d", from, e.KV.ModRevision, next)
						return
					}
					next++
				}
			}
		})
	}
	watchers.Wait()
	cancel()
	writers.Wait()
}

func TestLeasesEndTogetherAndOnlyWhenUnchanged(t *testing.T) {
	b := newBackend(t)
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	const n = 50
	var revs []int64
	for i := range n {
		rev, err := b.Create(t.Context(), fmt.Sprintf("/leased/%02d", i), []byte("x"), 1)
		if err != nil {
			t.Fatal(err)
		}
		revs = append(revs, rev)
	}
	// A new lease from now on, and no lease any more.
	if _, _, ok, err := b.Update(t.Context(), "/leased/00", []byte("y"), revs[0], 3600); err != nil || !ok {
		t.Fatal(ok, err)
	}
	if _, _, ok, err := b.Update(t.Context(), "/leased/01", []byte("y"), revs[1], 0); err != nil || !ok {
		t.Fatal(ok, err)
	}
	wr := b.Watch(t.Context(), 0)
	deleted, batches := 0, 0
	for deleted < n-2 {
		batch := <-wr.Eventc
		if len(batch.Events) > 0 {
			batches++
		}
		for _, e := range batch.Events {
			if !e.Delete {
				t.Errorf("event %v", e)
			}
			deleted++
		}
	}
	if batches > 3 {
		t.Errorf("%d leases of the same second ended in %d transactions", deleted, batches)
	}
	_, kvs, err := b.List(t.Context(), "/leased/", "/leased0", 0, 0, false)
	if err != nil || len(kvs) != 2 || kvs[0].Lease != 3600 || kvs[1].Lease != 0 {
		t.Errorf("left: %v, %v", show(kvs), err)
	}
}

func TestLeasesStartAnewWithTheServer(t *testing.T) {
	dir := t.TempDir()
	b := openTest(t, dir)
	if _, err := b.Create(t.Context(), "/leased", []byte("x"), 1); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = openTest(t, dir)
	defer b.Close()
	wr := b.Watch(t.Context(), 0)
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for {
		for _, e := range (<-wr.Eventc).Events {
			if e.Delete && e.KV.Key == "/leased" {
				return
			}
		}
	}
}

// TestIdleWritesNothing watches the files of a store that nobody writes to.
func TestIdleWritesNothing(t *testing.T) {
	b := newBackend(t)
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if _, err := b.Create(t.Context(), fmt.Sprint("/", i), []byte("x"), 3600); err != nil {
			t.Fatal(err)
		}
	}
	stat := func() string {
		out := ""
		for _, f := range []string{b.path, b.path + "-wal"} {
			fi, err := os.Stat(f)
			if err != nil {
				t.Fatal(err)
			}
			out += fmt.Sprint(fi.ModTime(), fi.Size(), " ")
		}
		return out
	}
	before := stat()
	timer := time.NewTimer(1500 * time.Millisecond)
	<-timer.C
	if after := stat(); after != before {
		t.Errorf("files changed: %s, were %s", after, before)
	}
}

// TestStopsWhenSyncFails: after a sync that failed nobody knows what is on the disk, so nothing more is acknowledged.
func TestStopsWhenSyncFails(t *testing.T) {
	dir := t.TempDir()
	b := openTest(t, dir)
	create(t, b, "/acknowledged", "1")
	wr := b.Watch(t.Context(), 0)
	if err := b.w.log.Close(); err != nil { // so that syncing it fails
		t.Fatal(err)
	}
	if _, err := b.Create(t.Context(), "/lost", nil, 0); err == nil {
		t.Error("a write that was not synced was acknowledged")
	}
	<-b.Failed()
	for name, err := range map[string]error{
		"Err":             b.Err(),
		"Create":          func() error { _, err := b.Create(t.Context(), "/more", nil, 0); return err }(),
		"Get":             func() error { _, _, err := b.Get(t.Context(), "/acknowledged", 0, false); return err }(),
		"CurrentRevision": func() error { _, err := b.CurrentRevision(t.Context()); return err }(),
		"Watch":           func() error { return <-wr.Errorc }(),
	} {
		if err == nil {
			t.Errorf("%s goes on", name)
		}
	}
	if err := b.Close(); err == nil {
		t.Error("Close hides that the log was closed before")
	}
	b = openTest(t, dir)
	defer b.Close()
	if _, kv, err := b.Get(t.Context(), "/acknowledged", 0, false); err != nil || kv == nil {
		t.Errorf("after a restart: %v, %v", kv, err)
	}
}

// TestNothingBeginsAfterClose has watchers and lists come while and after the store is closed: each is told, and none
// goes on.
func TestNothingBeginsAfterClose(t *testing.T) {
	b := newBackend(t)
	create(t, b, "/k", "x")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				w := b.Watch(t.Context(), 0)
				select {
				case <-w.Eventc:
				case <-w.Errorc:
				}
			}
		})
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if err := <-b.Watch(t.Context(), 0).Errorc; !errors.Is(err, errClosed) {
		t.Errorf("a watch after the end: %v", err)
	}
	keys := b.ListStream(t.Context(), "/", "0", 0, 0, true)
	for range keys.KVc {
		t.Log("a key came all the same")
	}
	if err := <-keys.Errorc; !errors.Is(err, errClosed) {
		t.Errorf("a list after the end: %v", err)
	}
}
