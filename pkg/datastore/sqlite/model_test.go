package sqlite

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/k3s-io/kine/pkg/server"

	"github.com/knarr-io/knarr/tests/bed"
)

// model is the store as it should be: all of its history in a slice.
type model struct {
	log       []server.Event // revision i+1
	compacted int64
}

func (m *model) current() int64 { return int64(len(m.log)) }

// at returns the live keys of a span at a revision, in order.
func (m *model) at(s span, rev int64) []server.KeyValue {
	byKey := map[string]server.KeyValue{}
	for _, e := range m.log[:rev] {
		if e.Delete {
			delete(byKey, e.KV.Key)
		} else {
			byKey[e.KV.Key] = *e.KV
		}
	}
	var out []server.KeyValue
	for k, kv := range byKey {
		if s.has(k) {
			out = append(out, kv)
		}
	}
	slices.SortFunc(out, func(a, b server.KeyValue) int {
		if a.Key < b.Key {
			return -1
		}
		return 1
	})
	return out
}

func (m *model) get(key string) *server.KeyValue {
	kvs := m.at(spanOf(key, ""), m.current())
	if len(kvs) == 0 {
		return nil
	}
	return &kvs[0]
}

func (m *model) put(key, value string, lease int64) {
	kv := &server.KeyValue{Key: key, Value: []byte(value), Lease: lease, ModRevision: m.current() + 1, CreateRevision: m.current() + 1, Version: 1}
	e := server.Event{KV: kv, Create: true}
	if old := m.get(key); old != nil {
		kv.CreateRevision, kv.Version, e.Create, e.PrevKV = old.CreateRevision, old.Version+1, false, old
	}
	m.log = append(m.log, e)
}

func (m *model) remove(key string) {
	m.log = append(m.log, server.Event{Delete: true, PrevKV: m.get(key), KV: &server.KeyValue{Key: key, ModRevision: m.current() + 1}})
}

func show(kvs []*server.KeyValue) (s string) {
	for _, kv := range kvs {
		s += fmt.Sprintf("%s@%d,%d#%d(%d) ", kv.Key, kv.CreateRevision, kv.ModRevision, kv.Version, len(kv.Value))
	}
	return s
}

func pointers(kvs []server.KeyValue) (out []*server.KeyValue) {
	for i := range kvs {
		out = append(out, &kvs[i])
	}
	return out
}

func sameKV(a, b *server.KeyValue) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Key == b.Key && string(a.Value) == string(b.Value) && a.ModRevision == b.ModRevision &&
		a.CreateRevision == b.CreateRevision && a.Version == b.Version && a.Lease == b.Lease
}

// play runs a random course of operations against a store and the model. Each byte of the script decides one step.
func play(t *testing.T, script []byte, seed uint64) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	dir := t.TempDir()
	open := func() *Backend {
		b, err := Open(dir, Options{CacheBytes: 4096}) // small, so that the disk is read too
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	p := player{t: t, rng: rng, b: open(), m: &model{}}
	defer func() { p.b.Close() }()
	for _, op := range script {
		switch op % 16 {
		case 0, 1, 2, 3:
			p.create()
		case 4, 5, 6, 7:
			p.update()
		case 8, 9:
			p.delete()
		case 10, 11:
			p.readAt()
		case 12:
			p.compact()
		case 13:
			p.watch()
		case 14:
			p.readAt()
			p.settle()
		case 15:
			if op < 64 {
				if err := p.b.Close(); err != nil {
					t.Fatal(err)
				}
				p.b = open()
			}
		}
		if t.Failed() {
			return
		}
	}
	p.readAt()
	if rev, err := p.b.Verify(t.Context()); err != nil || rev != p.m.current() {
		t.Errorf("Verify: %d, %v, want %d", rev, err, p.m.current())
	}
}

type player struct {
	t   *testing.T
	rng *rand.Rand
	b   *Backend
	m   *model
}

func (p *player) key() string { return fmt.Sprintf("/k/%c/%d", 'a'+p.rng.IntN(3), p.rng.IntN(8)) }

func (p *player) value() string {
	size := p.rng.IntN(200)
	if p.rng.IntN(10) == 0 {
		size = p.rng.IntN(20000) // overflows a page
	}
	return fmt.Sprintf("%0*d", size, p.rng.Int64())
}

func (p *player) create() {
	key, value, lease := p.key(), p.value(), int64(p.rng.IntN(2)*1000)
	rev, err := p.b.Create(p.t.Context(), key, []byte(value), lease)
	if p.m.get(key) != nil {
		if !errors.Is(err, server.ErrKeyExists) || rev != p.m.current() {
			p.t.Errorf("create of %s, which exists: %d %v", key, rev, err)
		}
		return
	}
	p.m.put(key, value, lease)
	if err != nil || rev != p.m.current() {
		p.t.Errorf("create %s: %d %v, want %d", key, rev, err, p.m.current())
	}
}

// expected picks the revision to expect of a key: mostly the right one.
func (p *player) expected(old *server.KeyValue) int64 {
	if old == nil || p.rng.IntN(4) == 0 {
		return 1 + p.rng.Int64N(p.m.current()+5)
	}
	return old.ModRevision
}

func (p *player) update() {
	key, value := p.key(), p.value()
	old := p.m.get(key)
	expect := p.expected(old)
	rev, kv, ok, err := p.b.Update(p.t.Context(), key, []byte(value), expect, 0)
	want := old != nil && old.ModRevision == expect
	if want {
		p.m.put(key, value, 0)
		old = p.m.get(key)
	}
	if err != nil || ok != want || rev != p.m.current() || !sameKV(kv, old) {
		p.t.Errorf("update %s at %d: %d %v %v %v, want %d %v %v", key, expect, rev, kv, ok, err, p.m.current(), old, want)
	}
}

func (p *player) delete() {
	key := p.key()
	old := p.m.get(key)
	expect := p.expected(old)
	if p.rng.IntN(4) == 0 {
		expect = 0
	}
	rev, kv, ok, err := p.b.Delete(p.t.Context(), key, expect)
	want := old != nil && (expect == 0 || old.ModRevision == expect)
	if want {
		p.m.remove(key)
	}
	if err != nil || ok != want || rev != p.m.current() || !sameKV(kv, old) {
		p.t.Errorf("delete %s at %d: %d %v %v %v, want %d %v %v", key, expect, rev, kv, ok, err, p.m.current(), old, want)
	}
}

func (p *player) compact() {
	rev := p.rng.Int64N(p.m.current() + 3)
	_, err := p.b.Compact(p.t.Context(), rev)
	var want error
	switch {
	case rev > p.m.current():
		want = server.ErrFutureRev
	case rev <= p.m.compacted:
		want = server.ErrCompacted
	default:
		p.m.compacted = rev
	}
	if !errors.Is(err, want) {
		p.t.Errorf("compact at %d with the newest %d: %v, want %v", rev, p.m.current(), err, want)
	}
}

// readAt lists and counts a random span at a random revision.
func (p *player) readAt() {
	rev := p.rng.Int64N(p.m.current() + 2)
	s := [][2]string{{"/k/", "/k0"}, {"", ""}, {"/k/b", "/k/c"}, {p.key(), ""}, {p.key(), "\x00"}, {p.key(), p.key()}}[p.rng.IntN(6)]
	limit := int64(p.rng.IntN(6))
	keysOnly := p.rng.IntN(4) == 0
	current, kvs, err := p.b.List(p.t.Context(), s[0], s[1], limit, rev, keysOnly)
	_, count, cerr := p.b.Count(p.t.Context(), s[0], s[1], rev)
	switch {
	case rev > p.m.current():
		if !errors.Is(err, server.ErrFutureRev) || !errors.Is(cerr, server.ErrFutureRev) {
			p.t.Errorf("read at %d of %d: %v, %v", rev, p.m.current(), err, cerr)
		}
		return
	case rev != 0 && rev < p.m.compacted:
		if !errors.Is(err, server.ErrCompacted) || !errors.Is(cerr, server.ErrCompacted) {
			p.t.Errorf("read at %d, compacted to %d: %v, %v", rev, p.m.compacted, err, cerr)
		}
		return
	}
	at := rev
	if rev == 0 {
		at = p.m.current()
	}
	want := p.m.at(spanOf(s[0], s[1]), at)
	if err != nil || cerr != nil || current != p.m.current() || count != int64(len(want)) {
		p.t.Errorf("read %q at %d: newest %d, count %d, %v, %v; want %d and %d", s, rev, current, count, err, cerr, p.m.current(), len(want))
		return
	}
	if limit > 0 && len(want) > int(limit) {
		want = want[:limit]
	}
	for i := range want {
		if keysOnly {
			want[i].Value = nil
		}
		if len(kvs) != len(want) || !sameKV(kvs[i], &want[i]) {
			p.t.Errorf("list %q at %d limit %d keysOnly %v: %s, want %s", s, rev, limit, keysOnly, show(kvs), show(pointers(want)))
			return
		}
	}
}

// watch follows from a random revision to the newest.
func (p *player) watch() {
	from := 1 + p.rng.Int64N(p.m.current()+1)
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	wr := p.b.Watch(ctx, from)
	if from < p.m.compacted {
		if wr.CompactRevision != p.m.compacted {
			p.t.Errorf("watch from %d: compacted at %d, want %d", from, wr.CompactRevision, p.m.compacted)
		}
		return
	}
	next := from
	for next <= p.m.current() {
		batch, ok := <-wr.Eventc
		if !ok {
			p.t.Errorf("watch from %d ended at %d", from, next)
			return
		}
		for _, e := range batch.Events {
			want := p.m.log[next-1]
			if want.PrevKV != nil && want.PrevKV.ModRevision < p.m.compacted {
				want.PrevKV = nil
			}
			if e.Delete != want.Delete || e.Create != want.Create || !sameKV(e.KV, want.KV) || !sameKV(e.PrevKV, want.PrevKV) {
				p.t.Errorf("event %v previous %v, want %v previous %v", e, e.PrevKV, &want, want.PrevKV)
				return
			}
			next++
		}
		if batch.CurrentRev != next-1 && len(batch.Events) > 0 {
			p.t.Errorf("batch of revision %d ends with event %d", batch.CurrentRev, next-1)
		}
	}
}

// settle waits until everything compacted was deleted, and checks that nothing else is left in the log.
func (p *player) settle() {
	bed.Until(p.t, "compaction to settle", p.b.Settled)
	live := p.m.at(span{}, p.m.compacted)
	want := int64(len(live)) + p.m.current() - p.m.compacted
	for _, kv := range live {
		if kv.ModRevision == p.m.compacted {
			want-- // counted twice
		}
	}
	if p.m.compacted > 0 {
		want++ // the compacted revision's own row stays
	}
	c, err := openConn(p.b.path, "ro")
	if err != nil {
		p.t.Fatal(err)
	}
	defer c.close()
	if got, _, err := c.ints("SELECT count(*) FROM log"); err != nil || got[0] != want {
		p.t.Errorf("log has %d rows (%v), want %d: compacted %d, newest %d, live %d", got[0], err, want, p.m.compacted, p.m.current(), len(live))
	}
}

func TestAgainstAModel(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 2))
			script := make([]byte, 300)
			for i := range script {
				script[i] = byte(rng.UintN(256))
			}
			play(t, script, seed)
		})
	}
}

// FuzzModel lets the fuzzer choose the course of operations.
func FuzzModel(f *testing.F) {
	f.Add([]byte{0, 1, 4, 8, 12, 13, 14, 15, 0, 4, 12, 10, 15, 13}, uint64(7))
	f.Fuzz(func(t *testing.T, script []byte, seed uint64) {
		if len(script) > 400 {
			script = script[:400]
		}
		play(t, script, seed)
	})
}
