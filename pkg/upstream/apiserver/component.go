package apiserver

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/egressselector"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"

	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/upstream/argv"
)

// argsFlag is the knarr flag whose values arrive in Config.ExtraArgs.
const argsFlag = "kube-apiserver-arg"

// Seams are where the process meets the component, beside its configuration. Each may be nil.
type Seams struct {
	// EtcdDial is called once, when the component starts, and what it returns (nil: the network) makes every connection
	// to the datastore.
	EtcdDial func() Dial
	// NodeDial replaces the network on the way to nodes and pods: kubelets, webhooks, aggregated APIs, proxied pods.
	NodeDial Dial
	// Front is put before everything that the port serves.
	Front func(api http.Handler) http.Handler
	// Extensions are served beside what is built in.
	Extensions []Extension
}

// Dial makes a connection; see storagebackend.TransportConfig.EgressLookup.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Extension is an API group that kube-apiserver serves as if it were built in.
type Extension interface {
	// Install adds the group to s, before s is prepared to run.
	Install(s *genericapiserver.GenericAPIServer) error
}

// Component is a kube-apiserver. Use [New].
type Component struct {
	options *options.ServerRunOptions
	args    []string
	seams   Seams
	handler atomic.Pointer[http.Handler]
	// up is closed when the component is ready.
	up chan struct{}
}

// New parses the configuration.
// The error, an argv.UsageError, names an argument that upstream does not take.
func New(c Config, seams Seams) (*Component, error) {
	s := options.NewServerRunOptions()
	named := s.Flags()
	args := c.Args()
	if err := argv.ParseNamed(argsFlag, args, &named); err != nil {
		return nil, err
	}
	return &Component{options: s, args: args, seams: seams, up: make(chan struct{})}, nil
}

// Name is "kube-apiserver".
func (*Component) Name() string { return "kube-apiserver" }

// Prepare looks whether the port is free, so that a port taken is found before anything is started.
func (c *Component) Prepare(context.Context) error {
	serving := c.options.SecureServing
	address := net.JoinHostPort(serving.BindAddress.String(), strconv.Itoa(serving.BindPort))
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listen for the API: %w; choose another with --https-listen-port or --bind-address, or end what uses it (knarr check-config names it)", err)
	}
	if err := l.Close(); err != nil {
		return fmt.Errorf("stop listening on %s: %w", address, err)
	}
	return nil
}

// Run follows cmd/kube-apiserver/app/server.go:85 (RunE) and :149 (Run), without its signal handler and its logging
// set-up. It is ready when /readyz answers ok in-process.
func (c *Component) Run(ctx context.Context, ready func()) error {
	if err := c.useDatastore(); err != nil {
		return err
	}
	server, documents, err := c.build(ctx)
	if err != nil {
		return err
	}
	prepared, err := server.PrepareRun()
	if err != nil {
		return fmt.Errorf("prepare kube-apiserver: %w", err)
	}
	documents.forgetDefinitions()
	handler := http.Handler(server.GenericAPIServer.Handler)
	c.handler.Store(&handler)
	defer c.handler.Store(nil)

	watching, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c.waitReady(watching) == nil {
			close(c.up)
			ready()
		}
	}()
	server.GenericAPIServer.ShutdownTimeout = watchDrain
	err = serve(ctx, server.GenericAPIServer, prepared.Run)
	stop()
	<-done
	if err != nil {
		return fmt.Errorf("run kube-apiserver: %w", err)
	}
	return nil
}

// serve runs the server until its requests have ended. What upstream does after that, it does for nobody: it closes some
// seventy clients of the datastore one by one (k8s.io/apiserver/pkg/server/genericapiserver.go:387).
func serve(ctx context.Context, server *genericapiserver.GenericAPIServer, run func(context.Context) error) error {
	served := make(chan struct{})
	server.RegisterDestroyFunc(func() { close(served) })
	ended := make(chan error, 1)
	go func() { ended <- lifecycle.Detached(ctx, drain, run) }()
	select {
	case err := <-ended:
		return err
	case <-served:
	}
	if ctx.Err() != nil {
		return nil
	}
	return <-ended // what failed
}

const (
	// drain is how long requests under way may take to end when the component stops.
	drain = time.Second
	// watchDrain is how long it waits for connections after that. Watches never end by themselves, and upstream would wait
	// for them for request-timeout, a minute (k8s.io/apiserver/pkg/server/genericapiserver.go:585).
	watchDrain = 50 * time.Millisecond
)

func (c *Component) useDatastore() error {
	if c.seams.EtcdDial == nil {
		return nil
	}
	dial := c.seams.EtcdDial()
	if dial == nil {
		return nil
	}
	// storagebackend/factory/etcd3.go:303 asks for a dialer and uses it for every etcd connection.
	c.options.Etcd.StorageConfig.Transport.EgressLookup = func(egressselector.NetworkContext) (utilnet.DialFunc, error) {
		return utilnet.DialFunc(dial), nil
	}
	return nil
}

// Check asks /livez.
func (c *Component) Check(ctx context.Context) error { return c.get(ctx, "/livez") }

// waitReady polls /readyz until it is ok; it fails only when ctx ends. Upstream offers no event for it: readiness is
// the conjunction of some thirty checks that are evaluated on request.
func (c *Component) waitReady(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := c.get(ctx, "/readyz"); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (c *Component) build(ctx context.Context) (*genericServer, *documents, error) {
	if c.options.InformerName == nil {
		name, err := cache.NewInformerName("kube-apiserver")
		if err != nil {
			return nil, nil, fmt.Errorf("name kube-apiserver's informers: %w", err)
		}
		c.options.InformerName = name
	}
	completed, err := c.options.Complete(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("complete kube-apiserver options: %w", err)
	}
	if err := argv.Problems(argsFlag, completed.Validate()); err != nil {
		return nil, nil, err
	}
	config, err := app.NewConfig(completed)
	if err != nil {
		return nil, nil, fmt.Errorf("configure kube-apiserver: %w", err)
	}
	c.useSeams(config)
	takeDocuments(config)
	generic := config.KubeAPIs.ControlPlane.Generic
	hooks, err := takeSlowHooks(generic)
	if err != nil {
		return nil, nil, err
	}
	trustInProcess(&config.Aggregator.GenericConfig.Config.Authentication)
	c.shortenLoopback(generic.LoopbackClientConfig)
	full, err := config.Complete()
	if err != nil {
		return nil, nil, fmt.Errorf("complete kube-apiserver configuration: %w", err)
	}
	server, err := app.CreateServerChain(full)
	if err != nil {
		return nil, nil, fmt.Errorf("create kube-apiserver: %w", err)
	}
	kube, ok := server.GenericAPIServer.NextDelegate().(*genericapiserver.GenericAPIServer)
	if !ok {
		return nil, nil, fmt.Errorf("create kube-apiserver: %T is behind the aggregator", server.GenericAPIServer.NextDelegate())
	}
	for _, e := range c.seams.Extensions {
		if err := e.Install(kube); err != nil {
			return nil, nil, err
		}
	}
	documents, err := installDocuments(kube, generic, c.args)
	if err != nil {
		return nil, nil, err
	}
	if err := hooks.install(server.GenericAPIServer, generic); err != nil {
		return nil, nil, err
	}
	return server, documents, nil
}
