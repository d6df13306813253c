package helm

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// secretWatch watches the Secrets that charts take values from, each by itself and only while a chart does: the
// cluster's other Secrets are none of its business.
type secretWatch struct {
	client  kubernetes.Interface
	changed func(chart string)

	mu      sync.Mutex
	watched map[string]*watched // by the Secret's key
	wg      sync.WaitGroup
}

// watched is one Secret and the keys of the charts that use it.
type watched struct {
	charts map[string]bool
	stop   context.CancelFunc
}

// newSecretWatch calls changed with the key of each chart that uses a Secret that was made, changed or deleted.
func newSecretWatch(client kubernetes.Interface, changed func(chart string)) *secretWatch {
	return &secretWatch{client: client, changed: changed, watched: map[string]*watched{}}
}

// set makes names, of Secrets in the chart's namespace, those whose changes matter to the chart.
func (s *secretWatch) set(chart string, names []string) {
	namespace, _, err := cache.SplitMetaNamespaceKey(chart)
	if err != nil {
		return
	}
	want := map[string]bool{}
	for _, name := range names {
		want[namespace+"/"+name] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, w := range s.watched {
		if delete(w.charts, chart); want[key] {
			w.charts[chart] = true
			delete(want, key)
		}
		if len(w.charts) == 0 {
			w.stop()
			delete(s.watched, key)
		}
	}
	for key := range want {
		s.begin(key, chart)
	}
}

// begin watches one more Secret. mu is held.
func (s *secretWatch) begin(key, chart string) {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background()) // ends with stop
	s.watched[key] = &watched{charts: map[string]bool{chart: true}, stop: cancel}
	secrets, one := s.client.CoreV1().Secrets(namespace), fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	own := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = one
			return secrets.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			o.FieldSelector = one
			return secrets.Watch(ctx, o)
		},
	}, s.client)
	informer := cache.NewSharedInformer(own, &corev1.Secret{}, 0)
	tell := func() { s.tell(key) }
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		// The first time, too: the Secret may have changed between the chart's reading it and the informer's.
		AddFunc: func(any) { tell() },
		UpdateFunc: func(before, after any) {
			o, okBefore := before.(*corev1.Secret)
			n, okAfter := after.(*corev1.Secret)
			if okBefore && okAfter && o.ResourceVersion != n.ResourceVersion {
				tell()
			}
		},
		DeleteFunc: func(any) { tell() },
	}); err != nil { // only an informer that has stopped refuses
		return
	}
	s.wg.Go(func() { informer.RunWithContext(ctx) })
}

// tell queues the charts that use a Secret.
func (s *secretWatch) tell(key string) {
	s.mu.Lock()
	var charts []string
	if w := s.watched[key]; w != nil {
		for chart := range w.charts {
			charts = append(charts, chart)
		}
	}
	s.mu.Unlock()
	for _, chart := range charts {
		s.changed(chart)
	}
}

// stop ends all watches and waits for their end.
func (s *secretWatch) stop() {
	s.mu.Lock()
	for key, w := range s.watched {
		w.stop()
		delete(s.watched, key)
	}
	s.mu.Unlock()
	s.wg.Wait()
}
