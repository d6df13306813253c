package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const writers = 32

// value is as large as a small pod.
var value = strings.Repeat("kubernetes-object-bytes-", 64)

// result is what a phase came to.
type result struct {
	n     int
	took  time.Duration
	delay []time.Duration
}

func (r *result) perSecond() float64 { return float64(r.n) / r.took.Seconds() }

func (r *result) quantile(q float64) time.Duration {
	if len(r.delay) == 0 {
		return 0
	}
	slices.Sort(r.delay)
	return r.delay[int(float64(len(r.delay)-1)*q)]
}

func (r *result) String() string {
	ms := func(q float64) string { return strconv.FormatFloat(float64(r.quantile(q))/1e6, 'f', 2, 64) }
	return fmt.Sprintf("%.0f/s, %s / %s", r.perSecond(), ms(.5), ms(.99))
}

// run has some workers call f again and again for a time.
func run(d time.Duration, workers int, f func(w, i int) error) (*result, error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	total := &result{}
	errs := make(chan error, workers)
	began := time.Now()
	for w := range workers {
		wg.Go(func() {
			var mine []time.Duration
			for i := 0; time.Since(began) < d; i++ {
				at := time.Now()
				if err := f(w, i); err != nil {
					errs <- err
					return
				}
				mine = append(mine, time.Since(at))
			}
			mu.Lock()
			defer mu.Unlock()
			total.n += len(mine)
			total.delay = append(total.delay, mine...)
		})
	}
	wg.Wait()
	total.took = time.Since(began)
	close(errs)
	return total, <-errs
}

// loader makes the calls of the apiserver.
type loader struct {
	c      *clientv3.Client
	prefix string
	revs   []int64
	mu     sync.Mutex
	next   map[int]int // number of the next key of a worker
	lags   int
}

func (l *loader) key(w, i int) string { return fmt.Sprintf("%sns-%02d/obj-%06d", l.prefix, w, i) }

func (l *loader) create(key, value string) (int64, error) {
	r, err := l.c.Txn(context.Background()).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, value)).Commit()
	if err != nil {
		return 0, err
	}
	if !r.Succeeded {
		return 0, fmt.Errorf("create %s: exists", key)
	}
	return r.Header.Revision, nil
}

// update changes the one object of a worker, as a node does with its lease.
func (l *loader) update(w, i int) error {
	key := l.key(w, 999999)
	if l.revs[w] == 0 {
		rev, err := l.create(key, value)
		l.revs[w] = rev
		return err
	}
	r, err := l.c.Txn(context.Background()).If(clientv3.Compare(clientv3.ModRevision(key), "=", l.revs[w])).
		Then(clientv3.OpPut(key, value+strconv.Itoa(i))).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return err
	}
	if !r.Succeeded {
		return errors.New("conflict")
	}
	l.revs[w] = r.Header.Revision
	return nil
}

func (l *loader) get(int, int) error {
	_, err := l.c.Get(context.Background(), l.key(rand.IntN(writers), rand.IntN(20)))
	return err
}

func (l *loader) list(int, int) error {
	r, err := l.c.Get(context.Background(), l.prefix, clientv3.WithPrefix(), clientv3.WithLimit(500))
	if err == nil && len(r.Kvs) == 0 {
		err = errors.New("empty list")
	}
	return err
}

func (l *loader) count(int, int) error {
	_, err := l.c.Get(context.Background(), l.prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	return err
}

// lag measures how long 20 watchers wait for the events of one writer.
func (l *loader) lag(d time.Duration) (*result, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	l.lags++
	prefix := fmt.Sprintf("%slag-%d/", l.prefix, l.lags)
	out := &result{}
	var mu sync.Mutex
	var wg, up sync.WaitGroup
	for range 20 {
		ch := l.c.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithPrevKV(), clientv3.WithCreatedNotify())
		up.Add(1)
		wg.Go(func() {
			for r := range ch {
				if r.Created {
					up.Done()
				}
				for _, e := range r.Events {
					ns, err := strconv.ParseInt(string(e.Kv.Value), 10, 64)
					if err != nil {
						continue
					}
					mu.Lock()
					out.delay = append(out.delay, time.Duration(time.Now().UnixNano()-ns))
					mu.Unlock()
				}
			}
		})
	}
	up.Wait()
	r, err := run(d, 1, func(_, i int) error {
		_, err := l.create(fmt.Sprintf("%s%06d", prefix, i), strconv.FormatInt(time.Now().UnixNano(), 10))
		return err
	})
	cancel()
	wg.Wait()
	out.n, out.took = len(out.delay), r.took
	return out, err
}

// phase is a row of the table.
type phase struct {
	name string
	run  func(time.Duration) (*result, error)
}

func (l *loader) phases() []phase {
	// Keys are made once, whatever the round.
	create := func(w, _ int) error {
		l.mu.Lock()
		n := l.next[w]
		l.next[w]++
		l.mu.Unlock()
		_, err := l.create(l.key(w, n), value)
		return err
	}
	calls := func(name string, workers int, f func(w, i int) error) phase {
		return phase{name, func(d time.Duration) (*result, error) { return run(d, workers, f) }}
	}
	return []phase{
		calls("create, 1 writer", 1, func(_, i int) error { return create(90, i) }),
		calls("create, 32 writers", writers, create),
		calls("update, 1 writer", 1, func(_, i int) error { return l.update(writers, i) }),
		calls("update, 32 writers", writers, l.update),
		calls("get, 32 readers", writers, l.get),
		calls("list of 500, 4 readers", 4, l.list),
		calls("count, 4 readers", 4, l.count),
		{"watch lag, 20 watchers", l.lag},
	}
}

// rounds is how often the stores take turns in each phase, so that what else the machine does meanwhile meets all of
// them alike.
const rounds = 4

// merge adds the results of another round.
func (r *result) merge(o *result) {
	r.n, r.took, r.delay = r.n+o.n, r.took+o.took, append(r.delay, o.delay...)
}

// load is requests a second and latencies.
func (b *bench) load() error {
	var titles []string
	var stores []*store
	var loaders []*loader
	err := b.each(func(title, endpoint string) error {
		s, err := start(endpoint, filepath.Join(b.dir, "load-"+title))
		if err != nil {
			return err
		}
		titles, stores = append(titles, title), append(stores, s)
		loaders = append(loaders, &loader{c: s.client, prefix: "/registry/bench/", revs: make([]int64, writers+1), next: map[int]int{}})
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Printf("\n| per second, p50 / p99 in ms | %s |\n|---|%s\n", strings.Join(titles, " | "), strings.Repeat("---|", len(titles)))
	for i, p := range loaders[0].phases() {
		totals := make([]result, len(loaders))
		for range rounds {
			for k, l := range loaders {
				r, err := l.phases()[i].run(b.phase / rounds)
				if err != nil {
					return fmt.Errorf("%s: %s: %w", titles[k], p.name, err)
				}
				totals[k].merge(r)
			}
		}
		fmt.Printf("| %s", p.name)
		for k := range totals {
			fmt.Printf(" | %s", &totals[k])
		}
		fmt.Println(" |")
	}
	for _, s := range stores {
		err = errors.Join(err, s.stop())
	}
	return err
}
