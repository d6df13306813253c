package datastore_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/knarr-io/knarr/pkg/datastore/sqlite"
)

// powerCuts is how often the power is cut.
const powerCuts = 200

// track is one writer's key: it is updated to 1, 2, 3, ...
type track struct {
	key    string
	issued atomic.Int64
	acked  atomic.Int64
	// made counts keys that were created under key, each once.
	made, makeIssued atomic.Int64
}

// write updates and creates until ctx ends.
func (tr *track) write(ctx context.Context, b *sqlite.Backend) error {
	pad := strings.Repeat("x", 700)
	rev, err := b.Create(ctx, tr.key, []byte("0,"+pad), 0)
	if err == nil {
		tr.acked.Store(0)
	}
	for n := int64(1); err == nil && ctx.Err() == nil; n++ {
		tr.issued.Store(n)
		// Not cancelled half-way: what was issued is either acknowledged or not, never given up.
		if rev, _, _, err = b.Update(context.WithoutCancel(ctx), tr.key, []byte(strconv.FormatInt(n, 10)+","+pad), rev, 0); err != nil {
			break
		}
		tr.acked.Store(n)
		tr.makeIssued.Store(n)
		if _, err = b.Create(context.WithoutCancel(ctx), fmt.Sprintf("%s/%08d", tr.key, n), []byte(pad), 0); err != nil {
			break
		}
		tr.made.Store(n)
	}
	return err
}

// TestPowerCutsLoseNothingAcknowledged cuts the power hundreds of times while writers, compaction and checkpoints are
// at work, and requires of what is then on the disk that it opens, that every row is whole, and that everything
// acknowledged before the cut is there.
func TestPowerCutsLoseNothingAcknowledged(t *testing.T) {
	d := newDisk(t)
	b, err := sqlite.Open(filepath.Join(d.dir), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	tracks := make([]*track, 8)
	var wg sync.WaitGroup
	for i := range tracks {
		tracks[i] = &track{key: fmt.Sprintf("/track/%d", i)}
		tracks[i].acked.Store(-1) // not even created
		wg.Go(func() {
			if err := tracks[i].write(ctx, b); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Go(func() { compactNowAndThen(ctx, t, b) })
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	var acknowledged int64
	for cut := range powerCuts {
		<-time.After(time.Duration(rng.IntN(40)) * time.Millisecond)
		before := make([][2]int64, len(tracks))
		for i, tr := range tracks {
			before[i] = [2]int64{tr.acked.Load(), tr.made.Load()}
		}
		image := d.cutPower()
		after := make([][2]int64, len(tracks))
		for i, tr := range tracks {
			after[i] = [2]int64{tr.issued.Load(), tr.makeIssued.Load()}
			acknowledged = max(acknowledged, before[i][0])
		}
		d.after(image, func(dir string) { examine(t, cut, dir, tracks, before, after) })
		if t.Failed() {
			break
		}
	}
	cancel()
	wg.Wait()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("%d cuts, %d updates of each of %d keys acknowledged", powerCuts, acknowledged, len(tracks))
	if acknowledged < powerCuts {
		t.Errorf("only %d updates were acknowledged: the cuts did not fall into a busy time", acknowledged)
	}
}

// compactNowAndThen keeps the last few hundred revisions.
func compactNowAndThen(ctx context.Context, t *testing.T, b *sqlite.Backend) {
	tick := time.NewTicker(150 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		rev, err := b.CurrentRevision(ctx)
		// On a machine that is busy nothing may have been written since the last time.
		if err == nil && rev > 500 && rev-300 > b.CompactRevision() {
			_, err = b.Compact(context.WithoutCancel(ctx), rev-300)
		}
		if err != nil && ctx.Err() == nil {
			t.Error(err)
			return
		}
	}
}

// examine opens what a power cut left.
func examine(t *testing.T, cut int, dir string, tracks []*track, before, after [][2]int64) {
	t.Helper()
	b, err := sqlite.Open(dir, sqlite.Options{})
	if err != nil {
		t.Errorf("cut %d: %v", cut, err)
		return
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Errorf("cut %d: close: %v", cut, err)
		}
	}()
	if _, err := b.Verify(t.Context()); err != nil {
		t.Errorf("cut %d: %v", cut, err)
	}
	for i, tr := range tracks {
		found := int64(-1)
		if _, kv, err := b.Get(t.Context(), tr.key, 0, false); err != nil {
			t.Errorf("cut %d: %v", cut, err)
		} else if kv != nil {
			num, _, _ := strings.Cut(string(kv.Value), ",")
			if found, err = strconv.ParseInt(num, 10, 64); err != nil {
				t.Errorf("cut %d: %v", cut, err)
			}
		}
		if found < before[i][0] || found > max(after[i][0], 0) {
			t.Errorf("cut %d: %s is at %d; %d was acknowledged, %d issued", cut, tr.key, found, before[i][0], after[i][0])
		}
		_, n, err := b.Count(t.Context(), tr.key+"/", tr.key+"0", 0)
		if err != nil || n < before[i][1] || n > after[i][1] {
			t.Errorf("cut %d: %d keys below %s (%v); %d were acknowledged, %d issued", cut, n, tr.key, err, before[i][1], after[i][1])
		}
	}
}
