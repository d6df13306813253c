package e2e

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/knarr-io/knarr/tests/lab"
)

// visitor asks a workload for an answer, time and again, from a machine that is no part of the cluster.
type visitor struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	asked  int
	failed []string
}

// startVisitor asks for a URL until the test ends.
func startVisitor(t *testing.T, from *lab.Host, url string) *visitor {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	v := &visitor{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(v.done)
		v.visit(ctx, from, url)
	}()
	t.Cleanup(v.stop)
	return v
}

func (v *visitor) visit(ctx context.Context, from *lab.Host, url string) {
	ticker := time.NewTicker(2 * pace)
	defer ticker.Stop()
	for ctx.Err() == nil {
		_, err := get(from, url)
		v.mu.Lock()
		v.asked++
		if err != nil {
			v.failed = append(v.failed, fmt.Sprintf("%s: %v", time.Now().Format(time.TimeOnly), err))
		}
		v.mu.Unlock()
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

func (v *visitor) stop() {
	v.cancel()
	<-v.done
}

// served fails the test if the visitor was not answered every time.
func (v *visitor) served(t *testing.T) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.failed) > 0 || v.asked == 0 {
		t.Errorf("the workload was asked %d times and failed %d: %v", v.asked, len(v.failed), v.failed)
	}
}
