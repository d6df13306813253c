package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
)

const (
	// kills is how often the server is killed.
	kills = 50
	// writers write at the same time, each its own objects.
	writers = 8
	// spanAlive is how long a server that is up may live, bootSpan one that boots.
	spanAlive, spanBoot = 1500 * time.Millisecond, 3 * time.Second
)

// ledger is what the API has acknowledged, and what it may have done without
// saying so: the value of each object, "" when it is not there.
type ledger struct {
	mu    sync.Mutex
	sure  map[string]string
	maybe map[string]string // outcome of a write that was never answered
	acks  int
}

func (l *ledger) note(name, value string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.maybe[name] = value
		return
	}
	l.sure[name] = value
	l.acks++
}

// settle compares the ledger with what is there. A write without an answer may
// have happened or not; from now on what is there counts.
func (l *ledger) settle(there map[string]string) []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for name, want := range l.sure {
		got := there[name]
		if got == want {
			continue
		}
		if possible, ok := l.maybe[name]; ok && got == possible {
			continue
		}
		errs = append(errs, fmt.Errorf("%s is %q, but %q was acknowledged (unanswered: %q)", name, got, want, l.maybe[name]))
	}
	for name, got := range there {
		if _, known := l.sure[name]; !known && l.maybe[name] != got {
			errs = append(errs, fmt.Errorf("%s is there and nobody wrote it", name))
		}
		l.sure[name] = got
	}
	for name := range l.sure {
		if _, ok := there[name]; !ok {
			delete(l.sure, name)
		}
	}
	clear(l.maybe)
	return errs
}

// write makes one random change to one of a writer's objects.
func (l *ledger) write(ctx context.Context, c *cluster.Client, writer int, rnd *rand.Rand) error {
	name := fmt.Sprintf("object-%d-%d", writer, rnd.IntN(20))
	l.mu.Lock()
	old, unsure := l.sure[name], false
	if _, ok := l.maybe[name]; ok {
		unsure = true
	}
	l.mu.Unlock()
	if unsure {
		return nil // its state is known again after the next start
	}
	maps := c.CoreV1().ConfigMaps("default")
	value := fmt.Sprintf("%d", rnd.Uint64())
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"value": value}}
	var err error
	switch {
	case old == "":
		_, err = maps.Create(ctx, object, metav1.CreateOptions{})
	case rnd.IntN(4) == 0:
		value = ""
		err = maps.Delete(ctx, name, metav1.DeleteOptions{})
	default:
		_, err = maps.Update(ctx, object, metav1.UpdateOptions{})
	}
	l.note(name, value, err)
	return err
}

// read lists the objects of all writers.
func (l *ledger) read(ctx context.Context, c *cluster.Client) (map[string]string, error) {
	all, err := c.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	there := map[string]string{}
	for _, m := range all.Items {
		if v, ours := m.Data["value"]; ours {
			there[m.Name] = v
		}
	}
	return there, nil
}

// load writes until ctx ends or the server no longer answers.
func (l *ledger) load(ctx context.Context, c *cluster.Client, seed uint64) error {
	var wg sync.WaitGroup
	errs := make([]error, writers)
	for w := range writers {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(w)))
			for ctx.Err() == nil {
				err := l.write(ctx, c, w, rnd)
				var answered apierrors.APIStatus
				if errors.As(err, &answered) && !apierrors.IsServerTimeout(err) && !apierrors.IsTimeout(err) && ctx.Err() == nil {
					errs[w] = fmt.Errorf("the API refuses a write: %w", err)
					return
				}
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// TestKilledFiftyTimes kills the server at random moments, while it boots and
// under load, and checks after each start that everything acknowledged is there.
func TestKilledFiftyTimes(t *testing.T) {
	s := own(t, "killed", lab.Options{})
	e := begin(t, s)
	url := workload(t, e)
	before := life(t, e, "web")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	books := &ledger{sure: map[string]string{}, maybe: map[string]string{}}
	client, running := e.client, true
	for round := range kills {
		if !running {
			must(t, s.Start())
		}
		if running || rnd.IntN(4) != 0 {
			var err error
			if client, err = s.WaitAPI(t.Context()); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			settle(t, books, client, round)
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rnd.Int64N(int64(spanAlive))))
			done := make(chan error, 1)
			// The load goes on over the kill: unanswered writes are the point.
			go func() { done <- books.load(t.Context(), client, seed+uint64(round)) }()
			<-ctx.Done()
			cancel()
			must(t, s.Process().Kill())
			must(t, <-done)
		} else {
			<-time.After(time.Duration(rnd.Int64N(int64(spanBoot))))
			must(t, s.Process().Kill())
		}
		running = false
	}
	e = begin(t, s)
	settle(t, books, e.client, kills)
	if books.acks < kills {
		t.Errorf("only %d writes were acknowledged in %d rounds: that is no load", books.acks, kills)
	}
	t.Logf("%d writes were acknowledged", books.acks)
	e.waitPods("web", 3)
	if now := life(t, e, "web"); now != before {
		t.Errorf("the pods were\n%sand are\n%s", before, now)
	}
	e.answers(s.Host, url, 3)
}

func settle(t *testing.T, books *ledger, c *cluster.Client, round int) {
	t.Helper()
	var there map[string]string
	eventually(t, "the list of objects", func() error {
		var err error
		there, err = books.read(t.Context(), c)
		return err
	})
	if errs := books.settle(there); len(errs) > 0 {
		t.Fatalf("round %d: %v", round, errors.Join(errs...))
	}
}
