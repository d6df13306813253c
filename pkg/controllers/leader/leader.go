// Package leader has the components that a cluster needs once, its control loops, run on one of its servers: the one that
// holds a lease. They are added to a group of their own, made anew for each term.
//
// A server that loses the lease, because it is cut off or too slow, stops them and campaigns again; the process goes on,
// with its API and its node. It ends only when one of them fails, or does not stop: nobody could say then what still runs.
// Where there is one server, nobody needs this.
//
// When its context ends it stops the components first and then gives the lease away, so that another server need not wait
// until it has run out.
package leader

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/knarr-io/knarr/pkg/lifecycle"
)

// Lease is the name of the lease in kube-system.
const Lease = "knarr-leader"

// Terms are how long a lease lasts. The holder stops what it does at Renew after the last renewal that went well, and
// others take over at Hold: what is between is for stopping.
type Terms struct {
	Hold, Renew, Retry time.Duration
}

// DefaultTerms are upstream's (k8s.io/component-base/config/v1alpha1/defaults.go).
func DefaultTerms() Terms {
	return Terms{Hold: 15 * time.Second, Renew: 10 * time.Second, Retry: 2 * time.Second}
}

// Config says who campaigns for what.
type Config struct {
	// Name is the component's, Lease the lease's in kube-system.
	Name, Lease string
	// Identity is this server's, unique and the same after a restart: then it has its lease back at once.
	Identity string
	Terms    Terms
}

// Elector is the component. Use [New].
type Elector struct {
	config Config
	client func() (kubernetes.Interface, error)
	add    func(g *lifecycle.Group) error
	log    *slog.Logger

	mu     sync.Mutex
	group  *lifecycle.Group // of this term; nil: not leading
	leader string
}

// New makes the component. add adds what runs while this server leads; it is called for each term.
func New(c Config, client func() (kubernetes.Interface, error), add func(g *lifecycle.Group) error, log *slog.Logger) *Elector {
	return &Elector{config: c, client: client, add: add, log: log}
}

// Name implements lifecycle.Component.
func (e *Elector) Name() string { return e.config.Name }

// Prepare finds a bad argument of a component before anything starts.
func (e *Elector) Prepare(context.Context) error { return e.add(lifecycle.NewGroup(e.log)) }

// Run campaigns until ctx ends. It is ready when this server leads and all that belongs to it is ready, or another leads.
func (e *Elector) Run(ctx context.Context, ready func()) error {
	client, err := e.client()
	if err != nil {
		return err
	}
	lock := &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: e.config.Lease},
		Client:     client.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: e.config.Identity},
	}
	for ctx.Err() == nil {
		if err := e.campaign(ctx, lock, ready); err != nil {
			return err
		}
	}
	return nil
}

// term is what a campaign comes to.
type term struct {
	mu    sync.Mutex
	begun bool // the lease was won, and the components are started
	over  bool // it will not begin any more
	done  chan struct{}
	err   error // of the components; written before done is closed
	lost  bool  // the lease ended before the components; written before done is closed
}

// begin reports whether the term may begin.
func (t *term) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun = !t.over
	return t.begun
}

// end reports whether the term has begun; if not, it never will.
func (t *term) end() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	return t.begun
}

// campaign waits for the lease and leads for as long as it lasts.
func (e *Elector) campaign(ctx context.Context, lock resourcelock.Interface, ready func()) error {
	// The lease outlives ctx until all that runs under it has stopped.
	holding, resign := context.WithCancel(context.WithoutCancel(ctx))
	defer resign()
	t := &term{done: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() {
		if !t.end() {
			resign()
		}
	})
	defer stop()
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, Name: e.config.Lease,
		LeaseDuration: e.config.Terms.Hold, RenewDeadline: e.config.Terms.Renew, RetryPeriod: e.config.Terms.Retry,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(held context.Context) {
				if !t.begin() {
					return
				}
				defer close(t.done)
				defer resign()
				t.err = e.lead(ctx, held, ready)
				t.lost = held.Err() != nil
			},
			OnStoppedLeading: func() {},
			OnNewLeader: func(who string) {
				e.saw(who)
				if who != "" && who != e.config.Identity {
					ready()
				}
			},
		},
	})
	if err != nil {
		return fmt.Errorf("campaign for the lease %s: %w", e.config.Lease, err)
	}
	elector.Run(holding)
	if !t.end() {
		return nil
	}
	<-t.done
	if !t.lost {
		e.release(context.WithoutCancel(ctx), lock)
	}
	return t.err
}

// lead runs the components until ctx or the lease ends.
func (e *Elector) lead(ctx, held context.Context, ready func()) error {
	g := lifecycle.NewGroup(e.log)
	if err := e.add(g); err != nil {
		return err
	}
	e.log.Info("this server leads", "lease", e.config.Lease)
	e.enter(g)
	defer e.enter(nil)
	work, stop := context.WithCancelCause(held)
	defer stop(nil)
	asked := context.AfterFunc(ctx, func() { stop(context.Cause(ctx)) })
	defer asked()
	var wg sync.WaitGroup
	wg.Go(func() {
		if g.Ready(work) == nil {
			ready()
		}
	})
	err := g.Run(work)
	stop(nil)
	wg.Wait()
	if left := g.LeftBehind(); err == nil && len(left) > 0 && ctx.Err() == nil {
		err = fmt.Errorf("the lease %s was lost, and %s did not stop: the process has to end, since another server may lead now", e.config.Lease, strings.Join(left, ", "))
	}
	if err == nil && ctx.Err() == nil {
		e.log.Warn("this server leads no longer: it could not renew its lease in time; its control loops have stopped", "lease", e.config.Lease, "within", e.config.Terms.Renew)
	}
	return err
}

// releaseTimeout bounds how long a server that stops tries to hand over.
const releaseTimeout = 2 * time.Second

// release gives the lease away, so that another server takes it at its next attempt. The lease also ends by itself.
func (e *Elector) release(ctx context.Context, lock resourcelock.Interface) {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	record, _, err := lock.Get(ctx)
	if err == nil && record.HolderIdentity == e.config.Identity {
		record.HolderIdentity, record.LeaseDurationSeconds = "", 1
		err = lock.Update(ctx, *record)
	}
	if err != nil {
		e.log.Info("the lease was not handed over: it ends by itself", "lease", e.config.Lease, "error", err)
	}
}

func (e *Elector) saw(who string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.leader = who
}

func (e *Elector) enter(g *lifecycle.Group) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.group = g
}

func (e *Elector) leads() *lifecycle.Group {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.group
}

// Check implements lifecycle.Checker with the components that run.
func (e *Elector) Check(ctx context.Context) error {
	if g := e.leads(); g != nil {
		return g.Check(ctx)
	}
	return nil
}

// Leader is who leads, as far as this server knows; empty when nobody is known to.
func (e *Elector) Leader() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.leader
}

// Components is the state of the components while this server leads.
func (e *Elector) Components() []lifecycle.Status {
	if g := e.leads(); g != nil {
		return g.Status()
	}
	return nil
}
