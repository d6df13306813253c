package scheduler

import (
	"context"
	"maps"
	"reflect"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/informers/core"
	corev1 "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// sharing is the process's informer factory with the scheduler's own pods: the scheduler counts every pod that it sees
// as using its node, so it must not see those that have ended, which others do (pkg/scheduler/scheduler.go:569).
type sharing struct {
	informers.SharedInformerFactory
	own informers.SharedInformerFactory // upstream's, of which only the pods are used
}

func (s sharing) Core() core.Interface { return sharingCore{s.SharedInformerFactory.Core(), s.own} }

func (s sharing) Start(stop <-chan struct{}) {
	s.SharedInformerFactory.Start(stop)
	s.own.Start(stop)
}

func (s sharing) StartWithContext(ctx context.Context) {
	s.SharedInformerFactory.StartWithContext(ctx)
	s.own.StartWithContext(ctx)
}

func (s sharing) WaitForCacheSync(stop <-chan struct{}) map[reflect.Type]bool {
	synced := s.SharedInformerFactory.WaitForCacheSync(stop)
	maps.Copy(synced, s.own.WaitForCacheSync(stop))
	return synced
}

func (s sharing) WaitForCacheSyncWithContext(ctx context.Context) cache.SyncResult {
	result, own := s.SharedInformerFactory.WaitForCacheSyncWithContext(ctx), s.own.WaitForCacheSyncWithContext(ctx)
	if result.Err == nil {
		result.Err = own.Err
	}
	maps.Copy(result.Synced, own.Synced)
	return result
}

// Shutdown ends what is the scheduler's own; the rest has another owner.
func (s sharing) Shutdown() { s.own.Shutdown() }

type sharingCore struct {
	core.Interface
	own informers.SharedInformerFactory
}

func (c sharingCore) V1() corev1.Interface { return sharingV1{c.Interface.V1(), c.own} }

type sharingV1 struct {
	corev1.Interface
	own informers.SharedInformerFactory
}

func (v sharingV1) Pods() corev1.TypedPodInformer { return v.own.Core().V1().Pods() }
