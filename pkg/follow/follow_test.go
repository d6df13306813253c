package follow

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
)

func node(name string) *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }

// TestFollowing sees what there is before Synced returns, then what comes, and nothing after the end.
func TestFollowing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(node("a"), node("b"))
		factory := informers.NewSharedInformerFactory(client, 0)
		ctx, cancel := context.WithCancel(t.Context())
		defer factory.Shutdown()
		defer cancel()
		var seen []string // by the one goroutine that calls the handler, between points where all wait
		handler := cache.ResourceEventHandlerFuncs{AddFunc: func(obj any) { seen = append(seen, obj.(*corev1.Node).Name) }}
		services := factory.Core().V1().Services()
		f, err := Start(ctx, factory, On{factory.Core().V1().Nodes().Informer(), handler}, On{Informer: services.Informer()})
		if err != nil {
			t.Fatal(err)
		}
		if !f.Synced(ctx) || !services.Informer().HasSynced() {
			t.Fatal("not synced")
		}
		slices.Sort(seen)
		if !slices.Equal(seen, []string{"a", "b"}) {
			t.Errorf("saw %v before Synced returned", seen)
		}
		add := func(name string) {
			if _, err := client.CoreV1().Nodes().Create(ctx, node(name), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		add("c")
		f.End()
		add("d")
		if len(seen) != 3 || seen[2] != "c" {
			t.Errorf("saw %v", seen)
		}
		cancel()
		late, err := Start(ctx, factory, On{factory.Core().V1().Pods().Informer(), handler})
		if err != nil {
			t.Fatal(err)
		}
		if late.Synced(ctx) {
			t.Error("synced after the end")
		}
		late.End()
	})
}

// TestStartFails has an informer that takes no more handlers: those that were added before are taken back.
func TestStartFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(node("a"))
		stopped, factory := informers.NewSharedInformerFactory(client, 0), informers.NewSharedInformerFactory(client, 0)
		over, cancel := context.WithCancel(t.Context())
		informer := stopped.Core().V1().Nodes().Informer()
		stopped.StartWithContext(over)
		synctest.Wait()
		cancel()
		stopped.Shutdown()
		calls := 0
		count := cache.ResourceEventHandlerFuncs{AddFunc: func(any) { calls++ }}
		nodes := factory.Core().V1().Nodes().Informer()
		if f, err := Start(t.Context(), factory, On{nodes, count}, On{informer, count}); err == nil {
			t.Errorf("got %+v with an informer that has ended", f)
		}
		ctx, cancel := context.WithCancel(t.Context())
		factory.StartWithContext(ctx)
		synctest.Wait()
		if calls > 0 {
			t.Errorf("a handler was called %d times after the failure", calls)
		}
		cancel()
		factory.Shutdown()
	})
}

func TestBell(t *testing.T) {
	b := NewBell()
	for range 3 {
		b.Ring()
	}
	<-b
	select {
	case <-b:
		t.Error("rung three times, heard twice")
	default:
	}
	b.Ring()
	<-b
}

func TestQueueComesBackLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue[string](time.Second, 3*time.Second)
		defer q.ShutDown()
		for _, want := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second, 3 * time.Second} {
			began := time.Now()
			q.AddRateLimited("x")
			item, _ := q.Get()
			if took := time.Since(began); item != "x" || took != want {
				t.Errorf("came back after %v, want %v", took, want)
			}
			q.Done(item)
		}
	})
}
