package metrics

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// kubelets asks kubelets for their summaries, each at most once in [fresh] and by one request at a time.
type kubelets struct {
	ask func(ctx context.Context, node string) (*stats.Summary, error)
	now func() time.Time
	log *slog.Logger

	mu    sync.Mutex
	nodes map[string]*kubelet
}

// kubelet is the last answer of one.
type kubelet struct {
	mu      sync.Mutex // held while it is asked
	at      time.Time
	summary *stats.Summary // nil if it did not answer
}

func newKubelets(ask func(context.Context, string) (*stats.Summary, error), now func() time.Time, log *slog.Logger) *kubelets {
	return &kubelets{ask: ask, now: now, log: log, nodes: map[string]*kubelet{}}
}

// summaries returns the summaries of the named nodes whose kubelet answers.
func (k *kubelets) summaries(names []string) map[string]*stats.Summary {
	var mu sync.Mutex
	found := map[string]*stats.Summary{}
	var g errgroup.Group
	g.SetLimit(together)
	for name, node := range k.take(names) {
		g.Go(func() error {
			if s := k.summary(name, node); s != nil {
				mu.Lock()
				defer mu.Unlock()
				found[name] = s
			}
			return nil
		})
	}
	_ = g.Wait() // none of them fails
	return found
}

// take returns the entries of the named nodes, and forgets all answers that are no longer fresh.
func (k *kubelets) take(names []string) map[string]*kubelet {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, node := range k.nodes {
		if node.mu.TryLock() {
			if !node.at.IsZero() && k.now().Sub(node.at) >= fresh {
				delete(k.nodes, name) // without an answer it is about to be asked
			}
			node.mu.Unlock()
		}
	}
	taken := map[string]*kubelet{}
	for _, name := range names {
		node := k.nodes[name]
		if node == nil {
			node = &kubelet{}
			k.nodes[name] = node
		}
		taken[name] = node
	}
	return taken
}

func (k *kubelets) summary(name string, node *kubelet) *stats.Summary {
	node.mu.Lock()
	defer node.mu.Unlock()
	if !node.at.IsZero() && k.now().Sub(node.at) < fresh {
		return node.summary
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	s, err := k.ask(ctx, name)
	if err != nil {
		k.log.Debug("a node has no metrics", "node", name, "error", err)
	}
	node.at, node.summary = k.now(), s
	return s
}
