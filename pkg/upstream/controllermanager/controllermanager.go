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

	"k8s.io/client-go/kubernetes"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	controllerhealthz "k8s.io/controller-manager/pkg/healthz"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"

	"github.com/knarr-io/knarr/pkg/upstream/argv"
	"github.com/knarr-io/knarr/pkg/upstream/csi"
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
	// FlexVolumeDir is where upstream looks for FlexVolume drivers; it makes the directory.
	FlexVolumeDir string
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
		"cluster-cidr", argv.Join(c.ClusterCIDRs),
		"service-cluster-ip-range", argv.Join(c.ServiceCIDRs),
		"root-ca-file", c.RootCA,
		"service-account-private-key-file", c.ServiceAccountKey,
		"flex-volume-plugin-dir", c.FlexVolumeDir,
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

// API is how controllers reach the API.
type API interface {
	// ClientConfig is a client configuration for a user.
	ClientConfig(user string, groups ...string) *rest.Config
}

// Component is a kube-controller-manager. Use [New].
type Component struct {
	options *options.KubeControllerManagerOptions
	api     API
	guard   *csi.Guard
}

// New parses the configuration. The error, an argv.UsageError, names an argument that upstream does not take.
// guard is the process's, nil where there is no kubelet.
func New(c Config, api API, guard *csi.Guard) (*Component, error) {
	o, err := options.NewKubeControllerManagerOptions()
	if err != nil {
		return nil, fmt.Errorf("make kube-controller-manager options: %w", err)
	}
	named := o.Flags(app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases())
	o.ParsedFlags = &named
	if err := argv.ParseNamed(argsFlag, c.Args(), &named); err != nil {
		return nil, err
	}
	return &Component{o, api, guard}, nil
}

// Name is "kube-controller-manager".
func (*Component) Name() string { return "kube-controller-manager" }

// Run follows cmd/kube-controller-manager/app/controllermanager.go:137 (RunE) and :198 (Run) without its signal
// handler, its logging set-up, its leader election and its port. It is ready when all controllers have been built: they
// start at once.
func (c *Component) Run(ctx context.Context, ready func()) error {
	config, err := c.options.Config(ctx, app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases())
	if err != nil {
		return &argv.UsageError{Flag: argsFlag, Err: err}
	}
	root, err := kubernetes.NewForConfig(c.api.ClientConfig(rootUser))
	if err != nil {
		return fmt.Errorf("make kube-controller-manager client: %w", err)
	}
	config.EventBroadcaster.StartRecordingToSink(&corev1client.EventSinkImpl{Interface: root.CoreV1().Events("")})
	defer config.EventBroadcaster.Shutdown()
	cc, err := c.newContext(ctx, config.ComponentConfig, root)
	if err != nil {
		return err
	}
	controllers, err := c.build(ctx, cc)
	if err != nil {
		return err
	}
	cc.InformerFactory.StartWithContext(ctx)
	defer cc.InformerFactory.Shutdown()
	cc.ObjectOrMetadataInformerFactory.Start(ctx.Done())
	close(cc.InformersStarted)
	ready()
	if !app.RunControllers(ctx, cc, controllers, 0, config.ControllerShutdownTimeout) && ctx.Err() == nil {
		return errors.New("kube-controller-manager ended")
	}
	return nil
}

// build makes the controllers that the configuration enables. The first, as upstream has it, is the one that makes
// tokens for Secrets, which upstream's own list has for its name only (controllermanager.go:160).
func (c *Component) build(ctx context.Context, cc app.ControllerContext) ([]app.Controller, error) {
	descriptors := app.NewControllerDescriptors()
	var controllers []app.Controller
	for _, own := range []struct {
		name string
		make func(context.Context, app.ControllerContext) (app.Controller, error)
	}{
		{names.ServiceAccountTokenController, c.newTokens},
		{names.ValidatingAdmissionPolicyStatusController, newPolicyStatus},
	} {
		enabled := cc.IsControllerEnabled(descriptors[own.name])
		delete(descriptors, own.name)
		if !enabled {
			continue
		}
		made, err := own.make(ctx, cc)
		if err != nil {
			return nil, err
		}
		controllers = append(controllers, made)
	}
	var rest []app.Controller
	var err error
	c.guard.Controllers(func() {
		rest, err = app.BuildControllers(ctx, cc, descriptors, nil, controllerhealthz.NewMutableHealthzHandler())
	})
	if err != nil {
		return nil, fmt.Errorf("build controllers: %w", err)
	}
	return append(controllers, rest...), nil
}
