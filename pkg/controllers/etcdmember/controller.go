// Package etcdmember takes the member of an embedded etcd out of its cluster when its Node is deleted, so that a server
// that is gone for good does not count for a quorum.
//
// It adds no members: joining servers do that themselves. Every server runs it, since removing a member twice does no
// harm. A Node deleted while no server ran is not seen; its member is removed by deleting the Node again, or it joins again.
//
// It stops when its context ends.
package etcdmember

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/knarr-io/knarr/pkg/follow"
)

const (
	// A failed removal is tried again after firstDelay, which doubles up to maxDelay, tries times at most: etcd refuses
	// while too many of the other members are down.
	firstDelay = time.Second
	maxDelay   = time.Minute
	tries      = 30
	// patience bounds one removal.
	patience = 30 * time.Second
)

// Controller is the component. Use [New].
type Controller struct {
	informers func() informers.SharedInformerFactory
	remove    func(ctx context.Context, node string) ([]string, error)
	log       *slog.Logger
}

// New makes the component. remove takes the members of a node out of the cluster and returns their names, none if there
// was none; factory is called when it runs.
func New(factory func() informers.SharedInformerFactory, remove func(ctx context.Context, node string) ([]string, error), log *slog.Logger) *Controller {
	return &Controller{informers: factory, remove: remove, log: log}
}

// Name is "etcd-members".
func (*Controller) Name() string { return "etcd-members" }

// Run is ready when it sees deletions.
func (c *Controller) Run(ctx context.Context, ready func()) error {
	queue := follow.NewQueue[string](firstDelay, maxDelay)
	factory := c.informers()
	gone := cache.ResourceEventHandlerFuncs{DeleteFunc: func(obj any) {
		if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = last.Obj
		}
		if n, ok := obj.(*corev1.Node); ok {
			queue.Add(n.Name)
		}
	}}
	following, err := follow.Start(ctx, factory, follow.On{Informer: factory.Core().V1().Nodes().Informer(), Handler: gone})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	defer following.End()

	var wg sync.WaitGroup
	defer wg.Wait()
	defer queue.ShutDown()
	wg.Go(func() { c.work(ctx, queue) })
	if following.Synced(ctx) {
		ready()
		<-ctx.Done()
	}
	return nil
}

func (c *Controller) work(ctx context.Context, queue workqueue.TypedRateLimitingInterface[string]) {
	for {
		node, stop := queue.Get()
		if stop {
			return
		}
		attempt, cancel := context.WithTimeout(ctx, patience)
		names, err := c.remove(attempt, node)
		cancel()
		for _, name := range names {
			c.log.Info("etcd member removed with its node", "node", node, "member", name)
		}
		switch {
		case err == nil || ctx.Err() != nil:
			queue.Forget(node)
		case queue.NumRequeues(node) >= tries:
			c.log.Error("the etcd member of a deleted node stays", "node", node, "error", err)
			queue.Forget(node)
		default:
			c.log.Warn("cannot remove the etcd member of a deleted node yet", "node", node, "error", err)
			queue.AddRateLimited(node)
		}
		queue.Done(node)
	}
}
