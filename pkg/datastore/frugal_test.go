package datastore

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/k3s-io/kine/pkg/server"
)

// counting is a backend that counts the connections it has open.
type counting struct {
	server.Backend
	mu        sync.Mutex
	open, max int
}

func (c *counting) use(n int) {
	c.mu.Lock()
	c.open += n
	c.max = max(c.max, c.open)
	c.mu.Unlock()
	time.Sleep(time.Second)
	c.mu.Lock()
	c.open -= n
	c.mu.Unlock()
}

func (c *counting) Get(context.Context, string, int64, bool) (int64, *server.KeyValue, error) {
	c.use(1)
	return 0, nil, nil
}

func (c *counting) List(context.Context, string, string, int64, int64, bool) (int64, []*server.KeyValue, error) {
	c.use(1)
	return 0, nil, nil
}

func (c *counting) Count(context.Context, string, string, int64) (int64, int64, error) {
	c.use(1)
	return 0, 0, nil
}

func (c *counting) DbSize(context.Context) (int64, error) {
	c.use(1)
	return 0, nil
}

func (c *counting) Watch(context.Context, int64) server.WatchResult {
	c.use(1)
	return server.WatchResult{}
}

func (c *counting) Create(context.Context, string, []byte, int64) (int64, error) {
	c.use(2)
	return 0, nil
}

func (c *counting) Update(context.Context, string, []byte, int64, int64) (int64, *server.KeyValue, bool, error) {
	c.use(2)
	return 0, nil, false, nil
}

func (c *counting) Delete(context.Context, string, int64) (int64, *server.KeyValue, bool, error) {
	c.use(2)
	return 0, nil, false, nil
}

func (c *counting) Compact(context.Context, int64) (int64, error) {
	c.use(2)
	return 0, nil
}

// requests are all that a server asks of a database.
func requests(b server.Backend) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"get":     func(ctx context.Context) error { _, _, err := b.Get(ctx, "/a", 0, false); return err },
		"list":    func(ctx context.Context) error { _, _, err := b.List(ctx, "/a", "/b", 0, 0, false); return err },
		"count":   func(ctx context.Context) error { _, _, err := b.Count(ctx, "/a", "/b", 0); return err },
		"size":    func(ctx context.Context) error { _, err := b.DbSize(ctx); return err },
		"create":  func(ctx context.Context) error { _, err := b.Create(ctx, "/a", nil, 0); return err },
		"update":  func(ctx context.Context) error { _, _, _, err := b.Update(ctx, "/a", nil, 1, 0); return err },
		"delete":  func(ctx context.Context) error { _, _, _, err := b.Delete(ctx, "/a", 1); return err },
		"compact": func(ctx context.Context) error { _, err := b.Compact(ctx, 1); return err },
		"watch": func(ctx context.Context) error {
			w := b.Watch(ctx, 1)
			select {
			case err := <-w.Errorc:
				if _, more := <-w.Eventc; more {
					return errors.New("a watch that failed has events")
				}
				return err
			default:
				return nil
			}
		},
	}
}

// TestRequestsWaitForConnections asks for everything at once, and a hundred times.
func TestRequestsWaitForConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &counting{}
		all := requests(newFrugal(c))
		var wg sync.WaitGroup
		for range 100 {
			for name, ask := range all {
				wg.Go(func() {
					if err := ask(t.Context()); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				})
			}
		}
		over, end := context.WithCancel(t.Context())
		synctest.Wait()
		end()
		for name, ask := range all {
			if err := ask(over); !errors.Is(err, context.Canceled) {
				t.Errorf("%s, given up: %v", name, err)
			}
		}
		wg.Wait()
		if c.max > maxConnections || c.max < maxConnections-1 {
			t.Errorf("%d connections, want %d", c.max, maxConnections)
		}
	})
}
