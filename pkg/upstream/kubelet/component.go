package kubelet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/rest"
	"k8s.io/kubernetes/cmd/kubelet/app"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	"k8s.io/kubernetes/pkg/kubelet/container"

	"github.com/knarr-io/knarr/pkg/atomicfile"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/upstream/argv"
	"github.com/knarr-io/knarr/pkg/upstream/csi"
)

// defaultsFile is the first of the drop-ins; users' names sort after it.
const defaultsFile = "00-knarr-defaults.conf"

// Component is a kubelet. Use [New].
type Component struct {
	config Config
	client func() (*rest.Config, error)
	guard  *csi.Guard
}

// New makes the component. client is called once, when it runs, and says how it reaches the API; with QPS 0 the kubelet's
// own limits hold. Upstream's kubeconfig is not used. guard is nil where no kube-controller-manager runs in the process.
//
// The error, an argv.UsageError, names an argument that upstream does not take.
func New(c Config, client func() (*rest.Config, error), guard *csi.Guard) (*Component, error) {
	config, err := options.NewKubeletConfiguration()
	if err != nil {
		return nil, fmt.Errorf("make kubelet configuration: %w", err)
	}
	if err := parseFlags(c.Args(), options.NewKubeletFlags(), config); err != nil {
		return nil, err
	}
	return &Component{config: c, client: client, guard: guard}, nil
}

// Name is "kubelet".
func (*Component) Name() string { return "kubelet" }

// Prepare writes the defaults and reads the whole configuration, users' files included.
func (c *Component) Prepare(context.Context) error {
	for _, dir := range []string{c.config.DropInDir, c.config.StaticPodDir, c.config.FlexVolumeDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make kubelet directory: %w", err)
		}
	}
	defaults, err := c.config.DefaultsFile()
	if err != nil {
		return err
	}
	if _, err := atomicfile.WriteIfChanged(filepath.Join(c.config.DropInDir, defaultsFile), defaults, 0o600); err != nil {
		return fmt.Errorf("write kubelet defaults: %w", err)
	}
	_, err = load(c.config.Args())
	return err
}

// Run follows cmd/kubelet/app/server.go:159 (RunE) without its signal handler and its logging set-up. It is ready when
// it serves its API; that the node is Ready is seen on the Node object.
func (c *Component) Run(ctx context.Context, ready func()) error {
	server, err := load(c.config.Args())
	if err != nil {
		return err
	}
	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(server.FeatureGates); err != nil {
		return &argv.UsageError{Flag: argsFlag, Err: err}
	}
	if err := validate(server); err != nil {
		return err
	}
	deps, err := app.UnsecuredDependencies(ctx, server, utilfeature.DefaultFeatureGate)
	if err != nil {
		return fmt.Errorf("make kubelet dependencies: %w", err)
	}
	if err := c.useClients(deps, server); err != nil {
		return err
	}
	starts := &gate{OSInterface: container.RealOS{}}
	deps.OSInterface = starts
	deps.VolumePlugins = append(deps.VolumePlugins, c.guard.Kubelet(ctx)...)
	defer context.AfterFunc(ctx, func() { starts.closed.Store(true) })()
	ready()
	return lifecycle.Detached(ctx, time.Second, func(ctx context.Context) error {
		return app.Run(ctx, server, deps, utilfeature.DefaultFeatureGate)
	})
}
