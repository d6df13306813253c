package sqlite

import (
	"container/heap"
	"sync"
	"time"
)

const (
	// leaseSlack is how late a lease may end, as a fraction of its time, and leaseSlackMax the most. It makes leases
	// that end at about the same time end in one write.
	leaseSlack    = 20
	leaseSlackMax = 10 * time.Second
	// expireBatch is how many keys are deleted at a time.
	expireBatch = 512
)

// expiry knows when which key is due. It is a timer in memory: nothing is written until a key is deleted.
type expiry struct {
	mu    sync.Mutex
	due   deadlines
	wake  chan struct{}
	epoch time.Time
}

// deadline says that key is to be deleted at a time if it is still at revision rev.
type deadline struct {
	at  time.Duration // since the epoch
	rev int64
	key string
}

type deadlines []deadline

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].at < d[j].at }
func (d deadlines) Swap(i, j int)      { d[i], d[j] = d[j], d[i] }
func (d *deadlines) Push(x any)        { *d = append(*d, x.(deadline)) }
func (d *deadlines) Pop() any {
	last := len(*d) - 1
	x := (*d)[last]
	(*d)[last] = deadline{}
	*d = (*d)[:last]
	return x
}

func (x *expiry) init() { x.wake, x.epoch = make(chan struct{}, 1), time.Now() }

// add takes note of a lease of ttl seconds on a key.
func (x *expiry) add(key string, rev, ttl int64) {
	t := time.Duration(min(ttl, 1<<32)) * time.Second
	slack := min(t/leaseSlack, leaseSlackMax)
	at := time.Since(x.epoch) + t + slack
	at -= at % slack // not before t
	x.mu.Lock()
	defer x.mu.Unlock()
	heap.Push(&x.due, deadline{at: at, rev: rev, key: key})
	if x.due[0].rev == rev {
		select {
		case x.wake <- struct{}{}:
		default:
		}
	}
}

// take returns what is due, and after how long there will be more; negative if nothing is leased.
func (x *expiry) take() (due []deadline, next time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for now := time.Since(x.epoch); len(x.due) > 0 && len(due) < expireBatch; {
		if wait := x.due[0].at - now; wait > 0 {
			return due, wait
		}
		due = append(due, heap.Pop(&x.due).(deadline))
	}
	if len(x.due) == 0 {
		return due, -1
	}
	return due, 0
}

// expireLoop deletes keys whose leases end.
func (b *Backend) expireLoop() {
	defer b.wg.Done()
	for {
		due, next := b.expiry.take()
		b.expire(due)
		var timer <-chan time.Time
		if next >= 0 {
			timer = time.After(next)
		}
		select {
		case <-timer:
		case <-b.expiry.wake:
		case <-b.stop:
			return
		case <-b.failed:
			return
		}
	}
}

// expire deletes keys that are still at the revisions their leases came with, all in one transaction if the writer is
// free.
func (b *Backend) expire(due []deadline) {
	ops := make([]*op, 0, len(due))
	for _, d := range due {
		b.mu.RLock()
		e := b.idx.get(d.key)
		current := e != nil && e.mod == d.rev
		b.mu.RUnlock()
		if !current {
			continue
		}
		o := &op{kind: opDelete, key: d.key, expect: d.rev, done: make(chan result, 1)}
		if b.queue.put(o) {
			ops = append(ops, o)
		}
	}
	for i, o := range ops {
		select {
		case r := <-o.done:
			if r.err != nil {
				b.log.Error("key of an expired lease could not be deleted, will be tried again", "key", o.key, "err", r.err)
				b.expiry.add(o.key, o.expect, 1)
			}
		case <-b.failed:
			return
		case <-b.stop:
			b.log.Debug("stopped before all expired keys were deleted", "left", len(ops)-i)
			return
		}
	}
}
