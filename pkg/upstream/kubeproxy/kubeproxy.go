// Package kubeproxy runs upstream's kube-proxy, unpatched, as a component of the process.
//
// It programs packets with nftables unless told otherwise. It removes no rules when it stops: services go on working
// while knarr is down; `knarr uninstall` removes them.
//
// Upstream's last select ignores its context (cmd/kube-proxy/app/server.go, ProxyServer.Run), so it is detached when
// its context ends and goes with the process.
package kubeproxy

import (
	"context"
	"net/netip"
	"strconv"

	"github.com/spf13/pflag"
	"k8s.io/kubernetes/cmd/kube-proxy/app"

	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/upstream/argv"
)

// argsFlag is the knarr flag whose values arrive in Config.ExtraArgs.
const argsFlag = "kube-proxy-arg"

// Config is what kube-proxy needs to know.
type Config struct {
	// Kubeconfig is the path of its credentials.
	Kubeconfig string
	// Steady is where a copy of the kubeconfig is made, with which the end of the Node is not the end of the process; see
	// transport.go.
	Steady       string
	NodeName     string
	ClusterCIDRs []netip.Prefix
	// Mode is nftables or iptables.
	Mode string
	// ConntrackReadOnly is set where the kernel lets this process not change connection tracking limits.
	ConntrackReadOnly bool
	// OOMScoreAdj is the process's, which is one for all components.
	OOMScoreAdj int
	// ExtraArgs are the user's, "name=value"; they win.
	ExtraArgs []string
}

// Args is the argument list, the user's last.
func (c Config) Args() []string {
	list := argv.List{}.With(
		"kubeconfig", c.Steady,
		"hostname-override", c.NodeName,
		"proxy-mode", c.Mode,
		"cluster-cidr", argv.Join(c.ClusterCIDRs),
		"healthz-bind-address", "127.0.0.1:10256",
		"oom-score-adj", strconv.Itoa(c.OOMScoreAdj),
	)
	if c.ConntrackReadOnly {
		list = list.With("conntrack-max-per-core", "0", "conntrack-tcp-timeout-established", "0s", "conntrack-tcp-timeout-close-wait", "0s")
	}
	return list.Merge(c.ExtraArgs)
}

// Component is a kube-proxy. Use [New].
type Component struct {
	config  Config
	options *app.Options
	flags   *pflag.FlagSet
}

// New parses the configuration. The error, an argv.UsageError, names an argument that upstream does not take.
func New(c Config) (*Component, error) {
	o := app.NewOptions()
	fs := pflag.NewFlagSet("kube-proxy", pflag.ContinueOnError)
	o.AddFlags(fs)
	if err := argv.Parse(argsFlag, c.Args(), fs); err != nil {
		return nil, err
	}
	return &Component{c, o, fs}, nil
}

// Name is "kube-proxy".
func (*Component) Name() string { return "kube-proxy" }

// Run follows cmd/kube-proxy/app/server.go:107 (RunE) without its logging set-up.
func (c *Component) Run(ctx context.Context, ready func()) error {
	if err := steady(c.config.Kubeconfig, c.config.Steady); err != nil {
		return err
	}
	if err := c.options.Complete(c.flags); err != nil {
		return &argv.UsageError{Flag: argsFlag, Err: err}
	}
	if err := c.options.Validate(); err != nil {
		return &argv.UsageError{Flag: argsFlag, Err: err}
	}
	ready()
	return lifecycle.Detached(ctx, 0, c.options.Run)
}
