package addon

import (
	"context"
	"sync/atomic"

	"github.com/knarr-io/knarr/pkg/lifecycle"
)

// parallel is how many objects of one file are worked on at once: as many as the datastore commits together gladly, and
// few enough that others are served.
const parallel = 4

// each calls fn with 0 to n-1, several at a time, and returns when all have returned. The first error ends it early.
func each(ctx context.Context, n int, fn func(ctx context.Context, i int) error) error {
	var next atomic.Int64
	crew, inner := lifecycle.NewCrew(ctx)
	for range min(parallel, n) {
		crew.Go(func() error {
			for inner.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return nil
				}
				if err := fn(inner, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := crew.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}
