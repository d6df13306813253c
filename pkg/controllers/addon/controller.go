// Package addon installs what is in the files of a directory, <data-dir>/server/manifests, and keeps what was made from
// them as the files are: it applies a file that is new or has changed, deletes what is no longer in one, and everything
// when the file goes. For each file there is an object of the kind Addon that says how far it has come and what is wrong.
// It also puts the manifests there that knarr brings along. docs/addons.md is the user's side of it.
//
// It does not watch what it has applied: a live edit stays until the file is applied again, which is when the file
// changes and when knarr starts. It holds no cache, and while no file changes it does nothing.
//
// What belongs to an Addon is told by a label on the objects, and of which kinds they may be stands in the Addon before
// the first of them is made. So a kill -9 at any moment leaves nothing that is not found again.
//
// It stops when its context ends; a request under way is cancelled, and the next start goes on from there.
package addon

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"github.com/knarr-io/knarr/pkg/lifecycle"
)

// A file that cannot be applied is tried again after firstRetry, which doubles up to lastRetry.
const (
	firstRetry = 200 * time.Millisecond
	lastRetry  = 2 * time.Minute
)

// Config is what the controller needs to know.
type Config struct {
	// Dir is the directory, an absolute path. It is made if it is not there.
	Dir string
	// Server is the name of this server. Of an Addon whose file is gone, only the server that had the file removes
	// what it made.
	Server string
	// Packaged are the manifests that are put there.
	Packaged []Packaged
	// Disabled are components, or names of Addons, out of Packaged that are not wanted.
	Disabled []string
}

// API is how the controller reaches the cluster. Both are called when it runs; it needs the rights to do everything that
// manifests may say.
type API struct {
	Config func() *rest.Config
	Client func() (kubernetes.Interface, error)
}

// Controller is the component. Use [New].
type Controller struct {
	config Config
	api    API
	log    *slog.Logger

	mu       sync.Mutex
	switches map[string]bool   // what Switch was called with
	states   map[string]status // what was last said of each Addon
	fault    error             // what keeps the directory from being followed, nil for nothing
	run      *run              // nil while it does not run
}

// New makes the component.
func New(c Config, api API, log *slog.Logger) *Controller {
	return &Controller{config: c, api: api, log: log, switches: make(map[string]bool), states: make(map[string]status)}
}

// Name is "addons".
func (*Controller) Name() string { return "addons" }

// Switch says whether the objects of an Addon that have the annotation [OnDemand] are to be there. It returns at once,
// and may be called at any time. As long as it was never called for an Addon in this process, those objects stay as they
// are, so that a restart does not take away what is in use.
func (c *Controller) Switch(addon string, on bool) {
	c.mu.Lock()
	was, known := c.switches[addon]
	c.switches[addon] = on
	r := c.run
	c.mu.Unlock()
	if r != nil && (!known || was != on) {
		r.again(addon)
	}
}

// switched is what Switch was last called with.
func (c *Controller) switched(addon string) (on, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	on, known = c.switches[addon]
	return on, known
}

// Check tells when files cannot be followed or packaged ones not be written. That an Addon cannot be applied is its own
// affair: see [Controller.Summary].
func (c *Controller) Check(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fault
}

// Summary is the Addons in numbers, and those that are not as they should be.
type Summary struct {
	Total   int
	Trouble []Trouble
}

// Trouble is an Addon that is not as it should be.
type Trouble struct {
	Name    string
	State   State
	Message string
}

// Summary is what is known now, sorted by name.
func (c *Controller) Summary() Summary {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Summary{Total: len(c.states)}
	for name, st := range c.states {
		if st.State != Ready && st.State != Skipped {
			s.Trouble = append(s.Trouble, Trouble{name, st.State, st.Message})
		}
	}
	slices.SortFunc(s.Trouble, func(a, b Trouble) int { return cmp.Compare(a.Name, b.Name) })
	return s
}

// Run is ready when all files there are are being dealt with.
func (c *Controller) Run(ctx context.Context, ready func()) error {
	kube, err := c.api.Client()
	if err != nil {
		return fmt.Errorf("make the client of the addons' events: %w", err)
	}
	events := record.NewBroadcaster(record.WithContext(ctx))
	defer events.Shutdown()
	events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: kube.CoreV1().Events("")})
	cluster, err := newClient(c.api.Config(), events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: fieldManager, Host: c.config.Server}))
	if err != nil {
		return err
	}
	return c.live(ctx, cluster, ready)
}

// live is Run on a cluster.
func (c *Controller) live(ctx context.Context, cluster cluster, ready func()) error {
	r := &run{
		controller: c, config: c.config, cluster: cluster, log: c.log,
		sources: make(map[string]source), changed: make(map[string]time.Time), loaded: make(map[string][2]stamp),
		holders: make(map[string]string), kinds: make(map[string][]string), going: make(map[string]progress), dropped: make(map[string]int),
		restored: make(map[string]stamp), claims: newClaims(), waits: newWaits(),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstRetry, lastRetry)),
	}
	defer r.queue.ShutDown()
	if err := r.begin(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	c.adopt(r)
	defer c.adopt(nil)

	crew, ctx := lifecycle.NewCrew(ctx)
	crew.Go(func() error { return r.follow(ctx, ready) })
	crew.Go(func() error { return r.watchKinds(ctx) })
	crew.Go(func() error {
		for {
			name, over := r.queue.Get()
			if over {
				return nil
			}
			// A goroutine for each file that has something to do: a slow one is in nobody's way.
			crew.Go(func() error {
				defer r.queue.Done(name)
				r.handle(ctx, name)
				return nil
			})
		}
	})
	crew.Go(func() error {
		<-ctx.Done()
		r.queue.ShutDown()
		return nil
	})
	return crew.Wait()
}

func (c *Controller) adopt(r *run) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.run = r
}

// note keeps what keeps the directory from being followed, and reports whether it has become or ceased to be.
func (c *Controller) note(fault error) (news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	news = (fault == nil) != (c.fault == nil)
	c.fault = fault
	return news
}

// say keeps what is said of an Addon, nil for nothing any more, and reports whether that is news.
func (c *Controller) say(name string, s *status) (news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was, known := c.states[name]
	if s == nil {
		delete(c.states, name)
		return known
	}
	c.states[name] = *s
	return !known || !was.equal(*s)
}
