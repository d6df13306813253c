package datastore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/knarr-io/knarr/pkg/datastore/sqlite"
)

// TestFullDisk fills the disk under a store: writes fail, reads go on, nothing acknowledged is lost, and when there is
// space again the store goes on by itself. How much space there is decides which of its files cannot grow: the log, the
// database, or the index of the log.
func TestFullDisk(t *testing.T) {
	for _, used := range []string{"380M", "464M", "465M", "466M", "467M"} {
		t.Run(used, func(t *testing.T) { fillDisk(t, used) })
	}
}

// fillDisk writes until a disk of which so much is used is full.
func fillDisk(t *testing.T, used string) {
	d := newDisk(t)
	ballast := filepath.Join(d.dir, "ballast")
	run(t, "fallocate", "-l", used, ballast)
	dir := filepath.Join(d.dir, "db")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b, err := sqlite.Open(dir, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	value := []byte(strings.Repeat("x", 100_000))
	acked := 0
	for ; acked < 10_000; acked++ {
		if _, err = b.Create(t.Context(), fmt.Sprintf("/%05d", acked), value, 0); err != nil {
			break
		}
	}
	if err == nil {
		t.Fatal("the disk was never full")
	}
	t.Logf("after %d writes: %v", acked, err)
	if err := b.Err(); err != nil {
		t.Fatalf("the store stopped: %v", err)
	}
	if _, kvs, err := b.List(t.Context(), "/", "0", 0, 0, false); err != nil || len(kvs) != acked {
		t.Errorf("list on the full disk: %d keys, %v, want %d", len(kvs), err, acked)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Create(t.Context(), "/after", value, 0); err != nil {
		t.Errorf("write with space again: %v", err)
	}
	if _, n, err := b.Count(t.Context(), "/", "/after", 0); err != nil || n < int64(acked) {
		t.Errorf("%d keys, %v; %d were acknowledged", n, err, acked)
	}
	if _, err := b.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}
