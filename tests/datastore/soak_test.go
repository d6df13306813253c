package datastore_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/knarr-io/knarr/pkg/datastore/sqlite"
)

// day is a cluster's 24 hours without the waiting: what its nodes, its pods and its events write, in the order in which
// they would. Time only exists as what is due in the next ten seconds.
type day struct {
	t     *testing.T
	b     *sqlite.Backend
	rng   *rand.Rand
	revs  map[string]int64
	size  map[string]int64 // of live keys with their values
	later map[int][]func() // by ten seconds
	now   int
	wg    sync.WaitGroup
	mu    sync.Mutex
	slots chan struct{}
}

const (
	tick        = 10 * time.Second
	ticksInADay = int(24 * time.Hour / tick)
	soakNodes   = 10
	soakStatic  = 1500
)

// put writes a key and notes its size. Writes run side by side, but one key's one after the other.
func (d *day) put(key string, size int) {
	value := []byte(strings.Repeat("k8s\x00", size/4+1)[:size])
	d.mu.Lock()
	rev := d.revs[key]
	d.mu.Unlock()
	var err error
	ok := true
	if rev == 0 {
		rev, err = d.b.Create(d.t.Context(), key, value, 0)
	} else {
		rev, _, ok, err = d.b.Update(d.t.Context(), key, value, rev, 0)
	}
	if err != nil || !ok {
		d.t.Errorf("write %s: %v %v", key, ok, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.revs[key], d.size[key] = rev, int64(len(key)+size)
}

func (d *day) remove(key string) {
	if _, _, ok, err := d.b.Delete(d.t.Context(), key, 0); err != nil || !ok {
		d.t.Errorf("delete %s: %v %v", key, ok, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.revs, key)
	delete(d.size, key)
}

// do runs something beside the rest of this tick.
func (d *day) do(f func()) {
	d.slots <- struct{}{}
	d.wg.Go(func() {
		f()
		<-d.slots
	})
}

// in runs something some ticks from now.
func (d *day) in(ticks int, f func()) {
	d.later[d.now+ticks] = append(d.later[d.now+ticks], f)
}

// step is ten seconds.
func (d *day) step() {
	for n := range soakNodes {
		d.do(func() { d.put(fmt.Sprintf("/registry/leases/kube-node-lease/node-%d", n), 420) })
		if (d.now+n)%30 == 0 {
			d.do(func() { d.put(fmt.Sprintf("/registry/minions/node-%d", n), 6000) })
		}
	}
	d.do(func() { d.put("/registry/masterleases/10.0.0.1", 80) })
	for range d.rng.IntN(7) {
		key := fmt.Sprintf("/registry/events/default/event-%d-%d", d.now, d.rng.Int32())
		size := 500 + d.rng.IntN(500)
		d.do(func() { d.put(key, size) })
		d.in(360, func() { d.remove(key) })
	}
	if d.rng.IntN(8) == 0 {
		d.pod()
	}
	for _, f := range d.later[d.now] {
		d.do(f)
	}
	delete(d.later, d.now)
	d.wg.Wait()
	d.now++
}

// pod comes, changes its status several times, lives for minutes or hours, and goes.
func (d *day) pod() {
	key := fmt.Sprintf("/registry/pods/default/job-%d-%d", d.now, d.rng.Int32())
	size := 1500 + d.rng.IntN(3000)
	d.do(func() { d.put(key, size) })
	for i := range 5 {
		d.in(1+i, func() { d.put(key, size+200*i) })
	}
	d.in(10+d.rng.IntN(2000), func() { d.remove(key) })
}

func (d *day) live() (n int64) {
	for _, s := range d.size {
		n += s
	}
	return n
}

// TestADayLeavesASmallFile compacts every five minutes to what was five minutes before, as the apiserver does, and
// requires that the file stays below twice the live data from the second hour on, whatever was written.
func TestADayLeavesASmallFile(t *testing.T) {
	dir := t.TempDir()
	b, err := sqlite.Open(dir, sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d := &day{
		t: t, b: b, rng: rand.New(rand.NewPCG(1, 2)), revs: map[string]int64{}, size: map[string]int64{},
		later: map[int][]func(){}, slots: make(chan struct{}, 64),
	}
	for i := range soakStatic {
		d.do(func() { d.put(fmt.Sprintf("/registry/configmaps/ns-%d/object-%d", i%20, i), 300+i%20*200) })
	}
	d.wg.Wait()
	var target, worst int64
	var worstRatio float64
	for !t.Failed() && d.now < ticksInADay {
		d.step()
		if d.now%30 != 0 {
			continue
		}
		current, err := b.CurrentRevision(t.Context())
		if err == nil && target > 0 {
			_, err = b.Compact(t.Context(), target)
		}
		if err != nil {
			t.Fatal(err)
		}
		target = current
		if d.now%360 == 0 && d.now >= 720 {
			settle(t, b)
			size := fileSize(t, filepath.Join(dir, sqlite.FileName()))
			ratio := float64(size) / float64(d.live())
			if ratio > worstRatio {
				worst, worstRatio = size, ratio
			}
		}
	}
	revision, err := b.Verify(t.Context())
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d revisions in a day; live %d KiB; the file was at most %.2f times that, %d KiB; its log %d KiB",
		revision, d.live()>>10, worstRatio, worst>>10, fileSize(t, filepath.Join(dir, sqlite.FileName()+"-wal"))>>10)
	if worstRatio > 2 {
		t.Error("the file grew to more than twice the live data")
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// settle waits until the store has nothing left to do in the background.
func settle(t *testing.T, b *sqlite.Backend) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !b.Settled(); {
		if time.Now().After(deadline) {
			t.Fatal("the store was still compacting after a minute")
		}
		<-time.After(time.Millisecond)
	}
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Size()
}
