package leader

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/knarr-io/knarr/pkg/lifecycle"
)

// cluster is an API with several servers, of which one at a time may do its work.
type cluster struct {
	t      *testing.T
	client *fake.Clientset
	cutOff atomic.Pointer[string] // the server that does not reach the API
	works  atomic.Int32           // how many do their work
	terms  atomic.Int32
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t, client: fake.NewClientset()}
	return c
}

// reach is the API as a server sees it.
func (c *cluster) reach(name string) func() (kubernetes.Interface, error) {
	return func() (kubernetes.Interface, error) {
		mine := fake.NewClientset()
		mine.PrependReactor("*", "leases", func(a k8stesting.Action) (bool, runtime.Object, error) {
			if cut := c.cutOff.Load(); cut != nil && *cut == name {
				return true, nil, errors.New("no way to the API")
			}
			obj, err := c.client.Invokes(a, nil)
			return true, obj, err
		})
		return mine, nil
	}
}

// server is one that campaigns.
type server struct {
	*Elector
	ready atomic.Bool
	stop  context.CancelFunc
	ended chan error
}

// start starts a server with a component that does the work.
func (c *cluster) start(name string, work func(ctx context.Context) error) *server {
	s := &server{ended: make(chan error, 1)}
	s.Elector = New(Config{Name: "leader-election", Lease: Lease, Identity: name, Terms: DefaultTerms()}, c.reach(name), func(g *lifecycle.Group) error {
		g.Add(lifecycle.Func("work", func(ctx context.Context, ready func()) error {
			if c.works.Add(1) > 1 {
				c.t.Errorf("%s works while another does", name)
			}
			defer c.works.Add(-1)
			c.terms.Add(1)
			ready()
			return work(ctx)
		}), lifecycle.Grace(2*time.Second))
		return nil
	}, slog.New(slog.NewTextHandler(c.t.Output(), nil)))
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	go func() { s.ended <- s.Run(ctx, func() { s.ready.Store(true) }) }()
	return s
}

func untilAsked(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// end stops a server and returns what Run did.
func (s *server) end() error {
	s.stop()
	return <-s.ended
}

func (s *server) leading() bool { return len(s.Components()) > 0 }

// after lets time pass.
func after(d time.Duration) {
	time.Sleep(d) // in a bubble, where nobody waits
	synctest.Wait()
}

func TestOneLeadsAndHandsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		one := c.start("one", untilAsked)
		after(time.Second)
		two := c.start("two", untilAsked)
		after(10 * time.Second)
		if !one.leading() || two.leading() || !one.ready.Load() || !two.ready.Load() || two.Leader() != "one" {
			t.Fatalf("one leads: %v, two leads: %v, ready: %v %v, leader: %q", one.leading(), two.leading(), one.ready.Load(), two.ready.Load(), two.Leader())
		}
		if err := one.end(); err != nil || one.leading() {
			t.Errorf("one ended with %v", err)
		}
		after(5 * time.Second) // two attempts, not the fifteen seconds of the lease
		if !two.leading() || two.Leader() != "two" {
			t.Error("two does not lead after one has stopped")
		}
		if err := two.end(); err != nil {
			t.Error(err)
		}
		if c.terms.Load() != 2 {
			t.Errorf("%d terms", c.terms.Load())
		}
	})
}

func TestWhoIsCutOffStopsAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		one := c.start("one", untilAsked)
		after(time.Second)
		two := c.start("two", untilAsked)
		after(time.Second)
		name := "one"
		c.cutOff.Store(&name)
		after(DefaultTerms().Renew + 3*time.Second)
		if one.leading() {
			t.Error("one leads although it cannot renew its lease")
		}
		after(DefaultTerms().Hold)
		if !two.leading() {
			t.Error("two does not lead")
		}
		c.cutOff.Store(nil)
		if err := two.end(); err != nil {
			t.Error(err)
		}
		after(6 * time.Second)
		if !one.leading() {
			t.Error("one does not lead again")
		}
		if err := one.end(); err != nil {
			t.Error(err)
		}
	})
}

func TestTheSameServerComesBackAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		one := c.start("one", untilAsked)
		after(time.Second)
		// As after a kill: nobody gives the lease away.
		name := "one"
		c.cutOff.Store(&name)
		if err := one.end(); err != nil {
			t.Error(err)
		}
		c.cutOff.Store(nil)
		again := c.start("one", untilAsked)
		after(time.Second)
		if !again.leading() {
			t.Error("it waits for its own lease")
		}
		if err := again.end(); err != nil {
			t.Error(err)
		}
	})
}

func TestFailures(t *testing.T) {
	for _, tt := range []struct {
		name string
		work func(ctx context.Context) error
		cut  bool
		want string
	}{
		{"a component fails", func(context.Context) error { return errors.New("out of luck") }, false, "out of luck"},
		{"a component does not stop", func(ctx context.Context) error { <-ctx.Done(); time.Sleep(time.Hour); return nil }, true, "work did not stop"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				one := c.start("one", tt.work)
				after(time.Second)
				if name := "one"; tt.cut {
					c.cutOff.Store(&name)
				}
				after(time.Minute)
				select {
				case err := <-one.ended:
					if err == nil || !strings.Contains(err.Error(), tt.want) {
						t.Errorf("ended with %v, want %q", err, tt.want)
					}
				default:
					t.Error("it goes on")
				}
				one.stop()
				after(2 * time.Hour)
			})
		})
	}
}
