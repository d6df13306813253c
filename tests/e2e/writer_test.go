package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/cluster"
)

// pace is how often the writer writes.
const pace = 50 * time.Millisecond

// writer writes one object after the other by way of an agent's load balancer, each until it is acknowledged.
type writer struct {
	client *cluster.Client
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	written []string
	last    time.Time
	gap     time.Duration // the longest between two writes since began
}

// startWriter writes until the test ends, as the administrator of a server.
func startWriter(t *testing.T, server, agent *cluster.Server) *writer {
	t.Helper()
	kubeconfig, err := server.Host.ReadFile(cluster.Kubeconfig)
	must(t, err)
	c, err := cluster.NewClient(agent.Host, kubeconfig)
	must(t, err)
	conf := *c.Config
	conf.Host, conf.Timeout = "https://127.0.0.1:6444", 3*time.Second
	c, err = cluster.ClientFor(&conf)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	w := &writer{client: c, cancel: cancel, done: make(chan struct{}), last: time.Now()}
	go func() {
		defer close(w.done)
		w.write(ctx)
	}()
	t.Cleanup(func() { w.stop() })
	return w
}

func (w *writer) write(ctx context.Context) {
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for n := 0; ctx.Err() == nil; {
		name := fmt.Sprintf("written-%06d", n)
		if _, err := w.client.CoreV1().ConfigMaps(metav1.NamespaceDefault).Create(ctx, configMapNamed(name), metav1.CreateOptions{}); isThere(err) {
			w.acknowledged(name)
			n++
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

func (w *writer) acknowledged(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	w.gap = max(w.gap, now.Sub(w.last))
	w.last = now
	w.written = append(w.written, name)
}

// began forgets the gaps so far.
func (w *writer) began() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gap = 0
}

// goesOn waits until the writer writes again, for good, and checks how long it could not.
func (w *writer) goesOn(t *testing.T) {
	t.Helper()
	w.goesOnWithin(t, back)
}

func (w *writer) goesOnWithin(t *testing.T, limit time.Duration) {
	t.Helper()
	const more = 60 // three seconds of writes: whoever is to notice has noticed
	n := w.count() + more
	eventually(t, "the writer to go on", func() error {
		if have := w.count(); have < n {
			return fmt.Errorf("%d more writes", have-n+more)
		}
		return nil
	})
	t.Logf("the longest time without a write: %.1f s", w.longest().Seconds())
	if gap := w.longest(); gap > limit {
		t.Errorf("nobody could write for %v, want at most %v", gap, limit)
	}
}

// count is how many writes were acknowledged.
func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.written)
}

// longest is the longest time without a write since began, and may last.
func (w *writer) longest() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return max(w.gap, time.Since(w.last))
}

// stop ends it and returns what was acknowledged.
func (w *writer) stop() []string {
	w.cancel()
	<-w.done
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written
}
