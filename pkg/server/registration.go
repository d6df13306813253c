package server

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/knarr-io/knarr/pkg/agent"
	"github.com/knarr-io/knarr/pkg/datastore"
	"github.com/knarr-io/knarr/pkg/follow"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/retry"
)

// registration ends with a [lifecycle.Restart] when this server's Node is deleted: a kubelet registers its node only when it
// starts. Pods run on, and are still the node's, since it is back before the pod garbage collector gives them up (40 s,
// k8s.io/kubernetes/pkg/controller/podgc/gc_controller.go). Where the deletion has the server's member leave an etcd that
// goes on without it, it does nothing: that is the end of the server.
type registration struct {
	node      string
	client    func() (kubernetes.Interface, error)
	informers func() informers.SharedInformerFactory
	leaves    func(ctx context.Context) (bool, error)
	log       *slog.Logger
}

// registration follows this server's Node.
func (p Plan) registration(shared agent.Shared, store *datastore.Component, log *slog.Logger) registration {
	return registration{
		node: p.NodeName, client: shared.Client, informers: shared.Informers, log: log,
		leaves: func(ctx context.Context) (bool, error) {
			if !p.hasEtcd() {
				return false, nil
			}
			status, err := store.Status(ctx)
			if len(status.Members) > 1 {
				return true, nil // with a quorum or without
			}
			return false, err
		},
	}
}

// Name is "registration".
func (registration) Name() string { return "registration" }

// Run waits for the deletion until ctx ends.
func (r registration) Run(ctx context.Context, ready func()) error {
	bell := follow.NewBell()
	factory := r.informers()
	gone := cache.ResourceEventHandlerFuncs{DeleteFunc: func(obj any) {
		if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = last.Obj
		}
		if n, ok := obj.(*corev1.Node); ok && n.Name == r.node {
			bell.Ring()
		}
	}}
	following, err := follow.Start(ctx, factory, follow.On{Informer: factory.Core().V1().Nodes().Informer(), Handler: gone})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	defer following.End()
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-bell:
			if err := r.again(ctx); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}

// again is a [lifecycle.Restart] unless the node is there again, or the server leaves with it.
func (r registration) again(ctx context.Context) error {
	client, err := r.client()
	if err != nil {
		return err
	}
	var missing, leaves bool
	err = retry.Until(ctx, "what has become of node "+r.node, retry.Backoff{Max: time.Second}, func(ctx context.Context) (bool, error) {
		_, err := client.CoreV1().Nodes().Get(ctx, r.node, metav1.GetOptions{})
		if missing = apierrors.IsNotFound(err); !missing {
			return err == nil, err
		}
		leaves, err = r.leaves(ctx) // fails when the member has left by now, of which the datastore ends the process
		return err == nil, err
	})
	if err != nil || !missing {
		return err
	}
	if leaves {
		r.log.Warn("this server's node was deleted from its cluster: its etcd member leaves, which ends the server", "node", r.node)
		return nil
	}
	return &lifecycle.Restart{Reason: fmt.Sprintf("node %s was deleted and registers again", r.node)}
}
