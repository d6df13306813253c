// Package netpol enforces NetworkPolicies on this node, in nftables tables of its own (inet and bridge knarr-netpol):
// what its pods send and what is sent to them has to be allowed by every policy's rules that select them.
//
// It is level-triggered: every change leads to the whole rule set being worked out anew and compared with what the kernel
// has; the difference goes into one transaction. Only pods of this node have rules; other pods are addresses in sets. It
// holds no pods and writes no tables until there is a first NetworkPolicy, and lets go of all with the last.
//
// It is not a firewall for the node: what the node's own addresses send to its pods, and its pods to it, passes, so that
// probes work under any policy (docs/network-policy.md has all semantics).
//
// It stops when its context ends, and leaves the tables: pods stay protected while knarr is down. An error, be it from a
// foreign rule or an old kernel, is logged, shown by Check, and tried again; it ends nothing.
package netpol

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	networkinginformers "k8s.io/client-go/informers/networking/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/knarr-io/knarr/pkg/follow"
)

// Config is what enforcement needs to know about this node.
type Config struct {
	NodeName string
	// Bridge is the link that pods hang on; an address on it that no known pod has is closed as long as there are
	// policies. Empty when a CNI plugin of the user's connects pods: unknown addresses are open then.
	Bridge string
	// Results is where the CNI library keeps its records; default /var/lib/cni/results.
	Results string
	// Hasty has pods start at once instead of waiting for the first rules: no server can be reached, so that there are
	// neither new policies nor new pods to be had, and those that run have their rules in the kernel.
	Hasty bool
	// Disabled takes away what an earlier run left, and does nothing else.
	Disabled bool
}

// DefaultResults is libcni's (libcni/api.go:41).
const DefaultResults = "/var/lib/cni/results"

const (
	// patience is how long pods of this node wait for the first rules after a start.
	patience = 15 * time.Second
	// retryFirst and retryMax bound the wait after an error.
	retryFirst, retryMax = time.Second, time.Minute
	// restShare times as long as it has worked the controller rests, at most restMax: changes that come together are
	// one change then.
	restShare, restMax = 2, 200 * time.Millisecond
	// fight is the time in which a second change of our tables by others is a fight, and truce the rest after it.
	fight, truce = 10 * time.Second, time.Second
)

// Controller enforces the policies of one node. Use [New].
type Controller struct {
	config Config
	client func() (kubernetes.Interface, error)
	log    *slog.Logger
	kernel *kernel

	wake  follow.Bell // something is to be looked at
	dirty atomic.Bool // somebody else changed our tables
	state atomic.Pointer[outcome]

	policies cache.SharedIndexInformer
	peers    *peers    // nil while there are no policies
	mended   time.Time // when the tables were last written anew because of others
	fought   bool      // and had been soon before
}

// outcome is what became of the latest attempt.
type outcome struct{ err error }

// New makes the controller. client is called when it runs; it needs to list and watch NetworkPolicies, Pods and
// Namespaces.
func New(c Config, client func() (kubernetes.Interface, error), log *slog.Logger) *Controller {
	if c.Results == "" {
		c.Results = DefaultResults
	}
	return &Controller{config: c, client: client, log: log, kernel: &kernel{bridge: c.Bridge}, wake: follow.NewBell()}
}

// Name is "network-policy".
func (*Controller) Name() string { return "network-policy" }

// Check is the error of the latest attempt to bring the rules up to date.
func (c *Controller) Check(context.Context) error {
	if o := c.state.Load(); o != nil {
		return o.err
	}
	return nil
}

// Run enforces until ctx ends. It is ready when this node's rules are in place, or when it has found that they cannot be.
func (c *Controller) Run(ctx context.Context, ready func()) error {
	if c.config.Disabled {
		c.report(c.kernel.remove())
		ready()
		<-ctx.Done()
		return nil
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	c.policies = networkinginformers.NewNetworkPolicyInformer(client, metav1.NamespaceAll, 0, nil)
	if err := c.observe(c.policies, trimPolicy, samePolicy); err != nil {
		return err
	}
	if c.config.Hasty {
		ready()
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	run(ctx, &wg, c.policies, c.poke)
	c.loop(ctx, client, ready)
	c.stopPeers()
	if err := c.kernel.close(); err != nil {
		return fmt.Errorf("close nftables: %w", err)
	}
	return nil
}

// run runs an informer and calls synced when it has the first list.
func run(ctx context.Context, wg *sync.WaitGroup, i cache.SharedIndexInformer, synced func()) {
	wg.Go(func() { i.RunWithContext(ctx) })
	wg.Go(func() {
		select {
		case <-i.HasSyncedChecker().Done():
			synced()
		case <-ctx.Done():
		}
	})
}

// observe has changes that are none in the eyes of same pass unnoticed.
func (c *Controller) observe(i cache.SharedIndexInformer, trim cache.TransformFunc, same func(a, b any) bool) error {
	if err := i.SetTransform(trim); err != nil {
		return fmt.Errorf("trim informer's objects: %w", err)
	}
	_, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { c.poke() },
		UpdateFunc: func(before, now any) {
			if !same(before, now) {
				c.poke()
			}
		},
		DeleteFunc: func(any) { c.poke() },
	})
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	return nil
}

// poke has the loop look again.
func (c *Controller) poke() {
	c.wake.Ring()
}

// loop works until ctx ends.
func (c *Controller) loop(ctx context.Context, client kubernetes.Interface, ready func()) {
	late := time.AfterFunc(patience, func() {
		if !c.config.Hasty {
			c.log.Warn("network policies are not known yet; pods start without")
		}
		ready()
	})
	defer late.Stop()
	again := time.NewTimer(0)
	again.Stop()
	defer again.Stop()
	delay := retryFirst
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-again.C:
		}
		start := time.Now()
		done, err := c.sync(ctx, client)
		c.report(err)
		if done || err != nil {
			late.Stop()
			ready()
		}
		if err != nil {
			again.Reset(delay)
			delay = min(2*delay, retryMax)
		} else {
			delay = retryFirst
		}
		rest(ctx, c.pause(start))
	}
}

// pause is how long to rest from the work that began at start.
func (c *Controller) pause(start time.Time) time.Duration {
	if c.fought {
		c.fought = false
		return truce
	}
	return min(restShare*time.Since(start), restMax)
}

func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// report logs a new error once, and its end.
func (c *Controller) report(err error) {
	before := c.state.Swap(&outcome{err})
	had := before != nil && before.err != nil
	switch {
	case err != nil && (!had || before.err.Error() != err.Error()):
		c.log.Error("network policies are not enforced as they should be; trying again", "error", err)
	case err == nil && had:
		c.log.Info("network policies are enforced again")
	}
}

// sync brings the kernel to what the cluster says; done is false as long as not all is known.
func (c *Controller) sync(ctx context.Context, client kubernetes.Interface) (done bool, err error) {
	if !c.policies.HasSynced() {
		return false, nil
	}
	list := c.policies.GetStore().List()
	if len(list) == 0 {
		c.stopPeers()
		c.dirty.Store(false)
		return true, c.kernel.remove()
	}
	if c.peers == nil {
		if c.peers, err = c.startPeers(ctx, client); err != nil {
			return false, err
		}
	}
	if !c.peers.synced() {
		return false, nil
	}
	if c.dirty.Swap(false) && c.kernel.applied != nil {
		c.log.Warn("another program changed network policies' nftables table; writing it anew", "table", Table)
		c.kernel.forget()
		c.fought = time.Since(c.mended) < fight
		c.mended = time.Now()
	}
	w := c.peers.world()
	w.node = c.config.NodeName
	for _, obj := range list {
		w.policies = append(w.policies, obj.(*networkingv1.NetworkPolicy))
	}
	rs, unclear := compile(w)
	return true, errors.Join(unclear, c.kernel.apply(rs, w.links()))
}
