package join

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/knarr-io/knarr/pkg/retry"
)

// Sweeper removes the passwords of nodes that were deleted, so that a cluster whose machines come and go does not collect
// them. It looks when it starts and when a Node is deleted, and is idle otherwise. Use [NewSweeper].
type Sweeper struct {
	client    func() (kubernetes.Interface, error)
	informers func() informers.SharedInformerFactory
	log       *slog.Logger
	now       func() time.Time
}

// NewSweeper makes the component. client and factory are called when it runs.
func NewSweeper(client func() (kubernetes.Interface, error), factory func() informers.SharedInformerFactory, log *slog.Logger) *Sweeper {
	return &Sweeper{client, factory, log, time.Now}
}

// Name is "node-passwords".
func (*Sweeper) Name() string { return "node-passwords" }

// Run sweeps until ctx ends.
func (s *Sweeper) Run(ctx context.Context, ready func()) error {
	client, err := s.client()
	if err != nil {
		return err
	}
	factory := s.informers()
	nodes := factory.Core().V1().Nodes().Informer()
	wake := make(chan struct{}, 1)
	registration, err := nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(any) {
		select {
		case wake <- struct{}{}:
		default: // it will look anyway
		}
	}})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	defer func() { _ = nodes.RemoveEventHandler(registration) }() // fails only for a handler of another informer
	factory.Start(ctx.Done())
	ready()
	if !cache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
		return nil
	}
	for {
		err := retry.Until(ctx, "the passwords of deleted nodes to be removed", retry.Backoff{First: time.Second, Max: time.Minute}, func(ctx context.Context) (bool, error) {
			err := s.sweep(ctx, client, nodes.GetStore())
			return err == nil, err
		})
		if err != nil {
			return nil // ctx has ended
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		}
	}
}

// sweep removes the passwords whose Node is not in nodes, but for those of machines that have just joined or may.
func (s *Sweeper) sweep(ctx context.Context, client kubernetes.Interface, nodes cache.Store) error {
	secrets := client.CoreV1().Secrets(metav1.NamespaceSystem)
	list, err := secrets.List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(secretType)})
	if err != nil {
		return fmt.Errorf("list the passwords of nodes: %w", err)
	}
	for i := range list.Items {
		secret := &list.Items[i]
		node, ok := strings.CutSuffix(secret.Name, secretSuffix)
		if _, there, err := nodes.GetByKey(node); !ok || there || err != nil {
			continue
		}
		if s.now().Sub(stamped(secret, joinedAt)) < registering || s.now().Before(stamped(secret, allowedUntil)) {
			continue
		}
		// Of this very Secret: one that was changed meanwhile is another machine's.
		err := secrets.Delete(ctx, secret.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &secret.UID, ResourceVersion: &secret.ResourceVersion}})
		if ignoreMissing(err) != nil {
			return fmt.Errorf("remove the password of node %s: %w", node, err)
		}
		s.log.Debug("removed the password of a node that was deleted", "node", node)
	}
	return nil
}
