// Package scheduler runs upstream's kube-scheduler, unpatched, as a component of the process.
//
// It has no leader election of its own: on one server there is nobody to compete with, and with several one lease
// stands above all control loops. It has no port of its own either: its metrics are in the process's registry.
//
// It stops when its context ends, and another may run in the process then, as on a server that leads again.
package scheduler

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/component-base/configz"
	"k8s.io/kubernetes/cmd/kube-scheduler/app"
	schedulerconfig "k8s.io/kubernetes/cmd/kube-scheduler/app/config"
	"k8s.io/kubernetes/cmd/kube-scheduler/app/options"
	"k8s.io/kubernetes/pkg/scheduler"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/latest"

	"github.com/knarr-io/knarr/pkg/upstream/argv"
)

// argsFlag is the knarr flag whose values arrive in Config.ExtraArgs.
const argsFlag = "kube-scheduler-arg"

// Config is what kube-scheduler needs to know.
type Config struct {
	// Kubeconfig is the path of its credentials.
	Kubeconfig string
	// ExtraArgs are the user's, "name=value"; they win.
	ExtraArgs []string
}

// Args is the argument list, the user's last.
func (c Config) Args() []string {
	return argv.List{}.With(
		"kubeconfig", c.Kubeconfig,
		"authentication-kubeconfig", c.Kubeconfig,
		"authorization-kubeconfig", c.Kubeconfig,
		"leader-elect", "false",
		"bind-address", "127.0.0.1",
		"secure-port", "0",
		"profiling", "false",
	).Merge(c.ExtraArgs)
}

// API is how the scheduler reaches the API.
type API interface {
	// ClientConfig is a client configuration for a user.
	ClientConfig(user string, groups ...string) *rest.Config
}

// Component is a kube-scheduler. Use [New].
type Component struct {
	options *options.Options
	api     API
}

// New parses the configuration. The error, an argv.UsageError, names an argument that upstream does not take.
func New(c Config, api API) (*Component, error) {
	o := options.NewOptions()
	if err := argv.ParseNamed(argsFlag, c.Args(), o.Flags); err != nil {
		return nil, err
	}
	return &Component{o, api}, nil
}

// configzName is what upstream registers its configuration under, which it does not take back (server.go:198).
const configzName = "componentconfig"

// Name is "kube-scheduler".
func (*Component) Name() string { return "kube-scheduler" }

// Run follows cmd/kube-scheduler/app/server.go:137 (runCommand) without its signal handler and its logging set-up. It
// is ready once it is set up: its caches fill from then on, and pods wait for nothing else.
func (c *Component) Run(ctx context.Context, ready func()) error {
	defer func() { // names that are the process's; the next life takes them again, also after a failed one
		c.options.InformerName.Release()
		configz.Delete(configzName)
	}()
	life, end := context.WithCancel(ctx)
	defer end()
	config, err := c.configure(life)
	if err != nil {
		return err
	}
	completed := config.Complete()
	s, err := c.build(life, completed)
	if err != nil {
		return err
	}
	ready()
	err = app.Run(life, &completed, s)
	end() // else the informers of one that fails would run on
	completed.InformerFactory.Shutdown()
	if ctx.Err() != nil {
		return nil // a clean stop is reported as an error: server.go:373
	}
	return errors.Join(errors.New("kube-scheduler ended"), err)
}

// configure follows options.Options.Config (cmd/kube-scheduler/app/options/options.go:305), with in-process clients.
func (c *Component) configure(ctx context.Context) (*schedulerconfig.Config, error) {
	defaults, err := latest.Default()
	if err != nil {
		return nil, fmt.Errorf("make kube-scheduler defaults: %w", err)
	}
	c.options.ComponentConfig = defaults
	if err := argv.Problems(argsFlag, c.options.Validate()); err != nil {
		return nil, err
	}
	if c.options.InformerName, err = cache.NewInformerName("kube-scheduler"); err != nil {
		return nil, fmt.Errorf("name kube-scheduler's informers: %w", err)
	}
	config, err := c.options.Config(ctx)
	if err != nil {
		return nil, &argv.UsageError{Flag: argsFlag, Err: err}
	}
	config.KubeConfig = c.api.ClientConfig("system:kube-scheduler")
	client, err := kubernetes.NewForConfig(rest.AddUserAgent(rest.CopyConfig(config.KubeConfig), "scheduler"))
	if err != nil {
		return nil, fmt.Errorf("make kube-scheduler client: %w", err)
	}
	dynamicClient, err := dynamic.NewForConfig(config.KubeConfig)
	if err != nil {
		return nil, fmt.Errorf("make kube-scheduler client: %w", err)
	}
	config.Client = client
	config.EventBroadcaster = events.NewEventBroadcasterAdapterWithContext(ctx, client)
	config.InformerFactory = scheduler.NewInformerFactory(client, 0, nil)
	config.DynInformerFactory = dynamicinformer.NewFilteredDynamicSharedInformerFactory(dynamicClient, 0, corev1.NamespaceAll, nil)
	return config, nil
}

// build follows Setup (server.go:406).
func (c *Component) build(ctx context.Context, config schedulerconfig.CompletedConfig) (*scheduler.Scheduler, error) {
	cc := &config.ComponentConfig
	s, err := scheduler.New(ctx, config.Client, config.InformerFactory, config.DynInformerFactory,
		func(name string) events.EventRecorderLogger { return config.EventBroadcaster.NewRecorder(name) },
		scheduler.WithComponentConfigVersion(cc.APIVersion),
		scheduler.WithKubeConfig(config.KubeConfig),
		scheduler.WithProfiles(cc.Profiles...),
		scheduler.WithPercentageOfNodesToScore(cc.PercentageOfNodesToScore),
		scheduler.WithPodMaxBackoffSeconds(cc.PodMaxBackoffSeconds),
		scheduler.WithPodInitialBackoffSeconds(cc.PodInitialBackoffSeconds),
		scheduler.WithPodMaxInUnschedulablePodsDuration(config.PodMaxInUnschedulablePodsDuration),
		scheduler.WithExtenders(cc.Extenders...),
		scheduler.WithParallelism(cc.Parallelism),
	)
	if err != nil {
		return nil, fmt.Errorf("create kube-scheduler: %w", err)
	}
	return s, nil
}
