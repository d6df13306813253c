package lab

import (
	"context"
	"fmt"
	"time"
)

// Poll calls try at once and then at every interval until it returns nil or ctx
// ends; then it returns what try last complained about.
func Poll(ctx context.Context, every time.Duration, try func() error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		case <-tick.C:
		}
	}
}
