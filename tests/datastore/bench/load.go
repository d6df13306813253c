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
	prefix := l.prefix + "lag/"
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

// phases are the rows of the table.
func (l *loader) phases() []struct {
	name    string
	workers int
	f       func(w, i int) error
} {
	return []struct {
		name    string
		workers int
		f       func(w, i int) error
	}{
		{"create, 1 writer", 1, func(_, i int) error { _, err := l.create(l.key(90, i), value); return err }},
		{"create, 32 writers", writers, func(w, i int) error { _, err := l.create(l.key(w, i), value); return err }},
		{"update, 1 writer", 1, func(_, i int) error { return l.update(writers, i) }},
		{"update, 32 writers", writers, l.update},
		{"get, 32 readers", writers, l.get},
		{"list of 500, 4 readers", 4, l.list},
		{"count, 4 readers", 4, l.count},
	}
}

// load is requests a second and latencies.
func (b *bench) load() error {
	var titles, names []string
	rows := map[string][]string{}
	err := b.each(func(title, endpoint string) error {
		titles = append(titles, title)
		s, err := start(endpoint, filepath.Join(b.dir, "load-"+title))
		if err != nil {
			return err
		}
		l := &loader{c: s.client, prefix: "/registry/bench/", revs: make([]int64, writers+1)}
		names = nil
		for _, p := range l.phases() {
			r, err := run(b.phase, p.workers, p.f)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			names, rows[p.name] = append(names, p.name), append(rows[p.name], r.String())
		}
		r, err := l.lag(b.phase)
		if err != nil {
			return err
		}
		const lag = "watch lag, 20 watchers"
		names, rows[lag] = append(names, lag), append(rows[lag], r.String())
		return s.stop()
	})
	fmt.Printf("\n| per second, p50 / p99 in ms | %s |\n|---|%s\n", strings.Join(titles, " | "), strings.Repeat("---|", len(titles)))
	for _, n := range names {
		fmt.Printf("| %s | %s |\n", n, strings.Join(rows[n], " | "))
	}
	return err
}
