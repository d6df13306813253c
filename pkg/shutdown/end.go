package shutdown

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// least is what every container gets between SIGTERM and SIGKILL (kuberuntime/kuberuntime_container.go:908).
const least = 2 * time.Second

// end ends one pod, until a time at the latest.
func (e *ender) end(ctx context.Context, p pod, until time.Time) error {
	grace := p.grace()
	if e.request.Grace > 0 {
		grace = min(grace, e.request.Grace)
	}
	deadline := time.Now().Add(grace)
	if until.Before(deadline) {
		deadline = until
	}
	main, sidecars := p.split()
	errs := make([]error, len(main))
	var wg sync.WaitGroup
	for i, c := range main {
		wg.Go(func() { errs[i] = e.stop(ctx, p, c, deadline) })
	}
	wg.Wait()
	for _, c := range sidecars {
		errs = append(errs, e.stop(ctx, p, c, deadline))
	}
	if err := e.runtime.StopPodSandbox(ctx, p.sandbox); err != nil {
		errs = append(errs, fmt.Errorf("stop the sandbox: %w", err))
	}
	return errors.Join(errs...)
}

// stop ends one container: its hook, then signals. A hook that fails is reported and changes nothing.
func (e *ender) stop(ctx context.Context, p pod, c *runtimeapi.Container, deadline time.Time) error {
	name := c.GetMetadata().GetName()
	hook, err := preStop(c)
	if hook != nil && time.Until(deadline) > 0 {
		hooking, cancel := context.WithDeadline(ctx, deadline)
		err = e.hook(hooking, p, c, hook)
		cancel()
	}
	if err != nil {
		e.log.Warn("preStop hook has failed", "pod", p.String(), "container", name, "error", err)
	}
	left := max(time.Until(deadline), least)
	if err := e.runtime.StopContainer(ctx, c.GetId(), int64(math.Ceil(left.Seconds()))); err != nil {
		return fmt.Errorf("stop container %s: %w", name, err)
	}
	return nil
}
