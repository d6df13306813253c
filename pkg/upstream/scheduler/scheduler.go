// Package scheduler runs upstream's kube-scheduler, unpatched, as a component of the process.
//
// It has no leader election of its own: on one server there is nobody to compete with, and with several one lease
// stands above all control loops. It has no port of its own either: its metrics are in the process's registry.
//
// It stops when its context ends.
package scheduler

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/pflag"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/cmd/kube-scheduler/app"
	"k8s.io/kubernetes/cmd/kube-scheduler/app/options"

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

// Component is a kube-scheduler. Use [New].
type Component struct{ options *options.Options }

// New parses the configuration. The error, an argv.UsageError, names an argument that upstream does not take.
func New(c Config) (*Component, error) {
	o := options.NewOptions()
	sets := make([]*pflag.FlagSet, 0, len(o.Flags.Order))
	for _, name := range o.Flags.Order {
		sets = append(sets, o.Flags.FlagSets[name])
	}
	if err := argv.Parse(argsFlag, c.Args(), sets...); err != nil {
		return nil, err
	}
	return &Component{o}, nil
}

// Name is "kube-scheduler".
func (*Component) Name() string { return "kube-scheduler" }

// Run follows cmd/kube-scheduler/app/server.go:137 (runCommand) without its signal handler and its logging set-up. It
// is ready once it is set up: its caches fill from then on, and pods wait for nothing else.
func (c *Component) Run(ctx context.Context, ready func()) error {
	name, err := cache.NewInformerName("kube-scheduler")
	if err != nil {
		return fmt.Errorf("name kube-scheduler's informers: %w", err)
	}
	c.options.InformerName = name
	config, scheduler, err := app.Setup(ctx, c.options)
	if err != nil {
		return fmt.Errorf("set up kube-scheduler: %w", err)
	}
	ready()
	err = app.Run(ctx, config, scheduler)
	if ctx.Err() != nil {
		return nil // a clean stop is reported as an error: server.go:373
	}
	return errors.Join(errors.New("kube-scheduler ended"), err)
}
