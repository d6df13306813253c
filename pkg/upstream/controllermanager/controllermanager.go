// Package controllermanager runs upstream's kube-controller-manager, unpatched, as a component of the process.
//
// It has no leader election of its own: on one server there is nobody to compete with, and with several one lease
// stands above all control loops. It has no port of its own either: its metrics are in the process's registry.
//
// It stops when its context ends and upstream's controllers have returned, at most ControllerShutdownTimeout later.
package controllermanager

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/pflag"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app/options"

	"github.com/knarr-io/knarr/pkg/upstream/argv"
)

// argsFlag is the knarr flag whose values arrive in Config.ExtraArgs.
const argsFlag = "kube-controller-manager-arg"

// Config is what kube-controller-manager needs to know. All paths are absolute.
type Config struct {
	// Kubeconfig is the path of its credentials.
	Kubeconfig              string
	ClusterCIDRs            []netip.Prefix
	ServiceCIDRs            []netip.Prefix
	RootCA                  string // handed to every pod
	ServiceAccountKey       string
	ClientCA, ClientCAKey   string // signs client certificates (CSRs for kube-apiserver-client and kubelet client)
	ServingCA, ServingCAKey string // signs kubelet serving certificates
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
		"use-service-account-credentials", "true",
		"controllers", "*,token-cleaner-controller",
		"allocate-node-cidrs", "true",
		"cluster-cidr", prefixes(c.ClusterCIDRs),
		"service-cluster-ip-range", prefixes(c.ServiceCIDRs),
		"root-ca-file", c.RootCA,
		"service-account-private-key-file", c.ServiceAccountKey,
		"cluster-signing-kube-apiserver-client-cert-file", c.ClientCA,
		"cluster-signing-kube-apiserver-client-key-file", c.ClientCAKey,
		"cluster-signing-kubelet-client-cert-file", c.ClientCA,
		"cluster-signing-kubelet-client-key-file", c.ClientCAKey,
		"cluster-signing-kubelet-serving-cert-file", c.ServingCA,
		"cluster-signing-kubelet-serving-key-file", c.ServingCAKey,
		"cluster-signing-legacy-unknown-cert-file", c.ServingCA,
		"cluster-signing-legacy-unknown-key-file", c.ServingCAKey,
	).Merge(c.ExtraArgs)
}

func prefixes(list []netip.Prefix) string {
	s := make([]string, len(list))
	for i, p := range list {
		s[i] = p.String()
	}
	return strings.Join(s, ",")
}

// Component is a kube-controller-manager. Use [New].
type Component struct {
	options *options.KubeControllerManagerOptions
}

// New parses the configuration. The error, an argv.UsageError, names an argument that upstream does not take.
func New(c Config) (*Component, error) {
	o, err := options.NewKubeControllerManagerOptions()
	if err != nil {
		return nil, fmt.Errorf("make kube-controller-manager options: %w", err)
	}
	named := o.Flags(app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases())
	o.ParsedFlags = &named
	sets := make([]*pflag.FlagSet, 0, len(named.Order))
	for _, name := range named.Order {
		sets = append(sets, named.FlagSets[name])
	}
	if err := argv.Parse(argsFlag, c.Args(), sets...); err != nil {
		return nil, err
	}
	return &Component{o}, nil
}

// Name is "kube-controller-manager".
func (*Component) Name() string { return "kube-controller-manager" }

// Run follows cmd/kube-controller-manager/app/controllermanager.go:137 (RunE) without its signal handler and its
// logging set-up. It is ready when it is configured: its controllers start from then on.
func (c *Component) Run(ctx context.Context, ready func()) error {
	config, err := c.options.Config(ctx, app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases())
	if err != nil {
		return &argv.UsageError{Flag: argsFlag, Err: err}
	}
	ready()
	err = app.Run(ctx, config.Complete())
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(errors.New("kube-controller-manager ended"), err)
}
