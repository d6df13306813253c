// Package ingress has the ingress controller run while somebody uses it: from the first Ingress, Gateway or IngressRoute
// that is Traefik's on, until a while after the last one. docs/ingress.md is the user's side of it.
//
// It is not the ingress controller, which is Traefik, in pods (manifests/traefik): all that it does is to say to the
// addon controller whether those are to be there. Of the objects it watches it keeps the name and the class, so that it
// holds nothing where there are none.
//
// It stops when its context ends, and leaves Traefik as it is.
package ingress

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/knarr-io/knarr/pkg/lifecycle"
)

// Config is what the controller needs to know.
type Config struct {
	// AlwaysOn has Traefik run whether or not it is used.
	AlwaysOn bool
	// RestAfter is how long Traefik goes on running after its last object is gone: whoever replaces an object, or
	// redeploys, need not wait for it to start.
	RestAfter time.Duration
}

// API is how the controller reaches the cluster. Config is called when it runs; it needs the right to list and watch what
// is in [kinds].
type API struct {
	Config func() *rest.Config
}

// Controller is the component. Use [New].
type Controller struct {
	config  Config
	api     API
	turn    func(on bool)
	log     *slog.Logger
	clients func(*rest.Config) (clients, error)
}

// clients read objects whole, or of them the metadata alone.
type clients struct {
	whole    dynamic.Interface
	metadata metadata.Interface
}

// New makes the component. It calls turn whenever Traefik is to begin or to end, and at its start.
func New(c Config, api API, turn func(on bool), log *slog.Logger) *Controller {
	return &Controller{config: c, api: api, turn: turn, log: log, clients: newClients}
}

func newClients(config *rest.Config) (clients, error) {
	whole, err := dynamic.NewForConfig(config)
	if err != nil {
		return clients{}, fmt.Errorf("make the client of the ingress controller's objects: %w", err)
	}
	// The metadata client asks for protobuf by itself.
	meta, err := metadata.NewForConfig(config)
	if err != nil {
		return clients{}, fmt.Errorf("make the client of the ingress controller's objects: %w", err)
	}
	return clients{whole, meta}, nil
}

// Name is "ingress".
func (*Controller) Name() string { return "ingress" }

// Run is ready at once: nothing depends on it.
func (c *Controller) Run(ctx context.Context, ready func()) error {
	ready()
	if c.config.AlwaysOn {
		c.turn(true)
		<-ctx.Done()
		return nil
	}
	clients, err := c.clients(c.api.Config())
	if err != nil {
		return err
	}
	d := newDemand()
	crew, ctx := lifecycle.NewCrew(ctx)
	w := &watcher{crew: crew, clients: clients, demand: d, log: c.log, ends: make(map[string]context.CancelFunc)}
	for _, k := range kinds {
		if !k.custom {
			crew.Go(func() error { return w.watch(ctx, k, d.store(k.name)) })
		}
	}
	crew.Go(func() error { return w.watch(ctx, definitions, &definitionStore{ctx: ctx, watcher: w}) })
	crew.Go(func() error { return c.decide(ctx, d) })
	return crew.Wait()
}

// decide turns Traefik on as soon as it is wanted, and off when it has not been for a while.
func (c *Controller) decide(ctx context.Context, d *demand) error {
	var on bool
	var rest <-chan time.Time
	for first := true; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-rest:
			rest, on = nil, false
			c.log.Info("ingress controller rests: no Ingress, Gateway or IngressRoute is left for it")
			c.turn(false)
			continue
		case <-d.changed:
		}
		by, known := d.wanted()
		switch {
		case by != "":
			rest = nil
			if !on {
				on = true
				c.log.Info("ingress controller runs", "for", by)
				c.turn(true)
			}
		case !known: // what there is may not be all
			continue
		case first:
			c.turn(false)
		case on && rest == nil:
			rest = time.After(c.config.RestAfter)
		}
		first = false
	}
}
