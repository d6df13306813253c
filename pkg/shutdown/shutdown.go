// Package shutdown ends the pods of this node when the process stops together with them: by `knarr stop --all`, because the
// host goes down, or because the node was deleted. It does what the kubelet does to a pod that is deleted: the preStop
// hook, SIGTERM, SIGKILL after the pod's termination grace; pods of lower priority first, sidecars last.
//
// It is not an eviction: to the cluster the pods stay what they are, and the next start of the node starts them again,
// unless somebody has deleted them. Nor is it kubelet's graceful node shutdown, which is in charge where systemd-logind
// announces the end (docs/operations.md).
//
// It has no part in a stop that leaves pods running. [Component] stops when its context ends; if the cause is a [Request],
// when the pods have ended.
package shutdown

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/kubernetes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	cri "k8s.io/cri-client/pkg"
	"k8s.io/klog/v2"
)

// Request is a reason to stop, the cause of a context, that asks for the end of the pods as well.
type Request struct {
	// Reason is said in the log.
	Reason string
	// Grace is the longest that one pod gets; 0: what it asks for.
	Grace time.Duration
	// Limit is the longest that all of it may take; 0: [Longest]. A quarter of it is kept for critical pods.
	Limit time.Duration
}

func (r *Request) Error() string { return r.Reason }

// Longest is how long ending pods may take at all.
const Longest = time.Hour

const (
	// callTimeout bounds a call to the runtime, beyond the time that the call itself is about. Taking down the network of
	// many pods at once takes long.
	callTimeout = time.Minute
	// askTimeout bounds asking the API for the node's pods, whose answer may be gone already.
	askTimeout = 3 * time.Second
	// rounds is how often what still runs is ended: a container may have been about to start.
	rounds = 3
)

// Config is what the component needs to know.
type Config struct {
	NodeName string
	// Endpoint is the socket of the container runtime, unix:///path.
	Endpoint string
}

// Component ends the pods. Add it after the container runtime and the API, and the kubelet after it.
type Component struct {
	config Config
	client func() (kubernetes.Interface, error)
	log    *slog.Logger
}

// New makes the component. client is asked for when pods are to end; it needs to list the node's pods.
func New(c Config, client func() (kubernetes.Interface, error), log *slog.Logger) *Component {
	return &Component{c, client, log}
}

// Name is "pods".
func (*Component) Name() string { return "pods" }

// Run waits for the end of ctx, and if that is a [Request], ends the pods.
func (c *Component) Run(ctx context.Context, ready func()) error {
	ready()
	<-ctx.Done()
	var request *Request
	if !errors.As(context.Cause(ctx), &request) {
		return nil
	}
	ctx = klog.NewContext(context.WithoutCancel(ctx), logr.Discard()) // cri-client logs each error that it returns
	runtime, err := cri.NewRemoteRuntimeServiceBuilder().WithEndpoint(c.config.Endpoint).WithConnectionTimeout(callTimeout).WithTracerProvider(nil).Build(ctx)
	if err != nil {
		return fmt.Errorf("end pods: connect to the container runtime at %s: %w", c.config.Endpoint, err)
	}
	e := &ender{runtime: runtime, request: *request, log: c.log}
	err = e.run(ctx, c.specs(ctx))
	return errors.Join(err, runtime.Close(ctx))
}

// specs are what the API knows of the node's pods. Without it, pods end by what the runtime knows.
func (c *Component) specs(ctx context.Context) map[string]spec {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	client, err := c.client()
	var specs map[string]spec
	if err == nil {
		specs, err = specsOf(ctx, client, c.config.NodeName)
	}
	if err != nil {
		c.log.Warn("pods end without regard to their priorities, which the API cannot be asked for", "error", err)
	}
	return specs
}

// Runtime is what is needed of the container runtime; k8s.io/cri-api's RuntimeService has it.
type Runtime interface {
	ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error)
	ListPodSandbox(ctx context.Context, filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error)
	PodSandboxStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.PodSandboxStatusResponse, error)
	ExecSync(ctx context.Context, id string, command []string, timeout time.Duration) (stdout, stderr []byte, err error)
	StopContainer(ctx context.Context, id string, seconds int64) error
	StopPodSandbox(ctx context.Context, id string) error
}

// ender is one end of all pods.
type ender struct {
	runtime Runtime
	request Request
	log     *slog.Logger
}

// run ends all pods, and what has come to run meanwhile.
func (e *ender) run(ctx context.Context, specs map[string]spec) error {
	began, seen := time.Now(), map[string]bool{}
	limit := e.request.Limit
	if limit == 0 {
		limit = Longest
	}
	for round := 0; ; round++ {
		pods, err := e.pods(ctx, specs)
		switch {
		case err != nil:
			return fmt.Errorf("end pods: %w", err)
		case len(pods) == 0:
			e.log.Info("all pods have ended", "pods", len(seen), "took", time.Since(began).Round(10*time.Millisecond))
			return nil
		case round == rounds:
			return fmt.Errorf("some pods have not ended (%d): see the log; their processes go on", len(pods))
		}
		for _, p := range pods {
			seen[p.sandbox] = true
		}
		for _, g := range byPriority(pods) {
			until := began.Add(limit)
			if g.priority < critical {
				until = until.Add(-limit / 4)
			}
			e.group(ctx, g, until)
		}
	}
}

// group ends pods together.
func (e *ender) group(ctx context.Context, g group, until time.Time) {
	e.log.Info("ending pods", "priority", g.priority, "pods", len(g.pods), "reason", e.request.Reason)
	var wg sync.WaitGroup
	for _, p := range g.pods {
		wg.Go(func() {
			if err := e.end(ctx, p, until); err != nil {
				e.log.Warn("pod has not ended as it should", "pod", p.String(), "error", err)
			}
		})
	}
	wg.Wait()
}
