package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/knarr-io/knarr/pkg/bundle"
	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/controllers/localpath"
	"github.com/knarr-io/knarr/pkg/controllers/netpol"
	nodecontroller "github.com/knarr-io/knarr/pkg/controllers/node"
	"github.com/knarr-io/knarr/pkg/controllers/servicelb"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/registry"
	"github.com/knarr-io/knarr/pkg/resolver"
	"github.com/knarr-io/knarr/pkg/shutdown"
	"github.com/knarr-io/knarr/pkg/upstream/containerd"
	"github.com/knarr-io/knarr/pkg/upstream/containerd/images"
	"github.com/knarr-io/knarr/pkg/upstream/csi"
	"github.com/knarr-io/knarr/pkg/upstream/flannel"
	"github.com/knarr-io/knarr/pkg/upstream/kubelet"
	"github.com/knarr-io/knarr/pkg/upstream/kubeproxy"
)

// API is how a node's components reach the API: in-process on a server, over the network on an agent.
type API struct {
	// Base is what must outlive the node's components.
	Base lifecycle.Ref
	// Ready is the component after which requests are answered.
	Ready lifecycle.Ref
	// Kubelet is the kubelet's own access.
	Kubelet func() (*rest.Config, error)
	// Failing, when not nil, is told when the API does not take the node's heartbeats.
	Failing func()
	// CSI is the process's guard; nil where no kube-controller-manager runs beside the node.
	CSI *csi.Guard
	// Client is for knarr's own components, with this node's rights: those of its kubelet.
	Client func() (kubernetes.Interface, error)
	// Reader and Informers only read, what all nodes may know: nodes, pods, services and policies.
	Reader    func() (kubernetes.Interface, error)
	Informers func() informers.SharedInformerFactory
	// Registered, when not nil, adds what runs once the node is registered.
	Registered func(lifecycle.Ref)
}

// AddNode adds the components of a node to g.
func AddNode(g *lifecycle.Group, n Node, api API, log *slog.Logger) error {
	helpers := g.Add(n.extractor(log), lifecycle.After(api.Base))
	proxy, err := kubeproxy.New(n.kubeProxy())
	if err != nil {
		return err
	}
	kubeletConfig := n.kubelet()
	kubeletConfig.HeartbeatsFail = api.Failing
	node, err := kubelet.New(kubeletConfig, api.Kubelet, api.CSI)
	if err != nil {
		return err
	}
	// Before the kubelet: no pod starts unprotected, unless it cannot be helped.
	policies := g.Add(netpol.New(n.networkPolicy(), api.Reader, log), lifecycle.After(api.Ready), lifecycle.Optional())
	resolvers := g.Add(resolver.New(n.resolvers(), log), lifecycle.After(api.Base))
	ending := []lifecycle.Ref{api.Ready, helpers}
	before := []lifecycle.Ref{policies, resolvers}
	if !n.Runtime.External() {
		g.Add(registry.NewWatcher(n.registries(), log), lifecycle.After(api.Base))
		runtime := g.Add(containerd.New(n.containerd(), n.identityTokens), lifecycle.After(helpers))
		ending = append(ending, runtime)
		pause := g.Add(n.bundledImages(), lifecycle.After(runtime))
		before = append(before, g.Add(images.New(n.images(), log), lifecycle.After(pause)))
	}
	before = append(before, g.Add(n.pods(api, log), lifecycle.After(ending...), lifecycle.Grace(shutdown.Longest)))
	running := g.Add(node, lifecycle.After(before...))
	if n.Host.Logind {
		g.Add(shutdown.NewRecall(log), lifecycle.After(running))
	}
	if n.Cluster.Ingress {
		g.Add(lifecycle.Restarted(n.ingressProgram(log), log), lifecycle.After(running), lifecycle.Optional())
	}
	registered := g.Add(n.announcer(api, log), lifecycle.After(api.Ready))
	if api.Registered != nil {
		api.Registered(registered)
	}
	if n.Cluster.KubeProxy { // it would look for the Node once a second
		g.Add(proxy, lifecycle.After(registered, helpers))
	}
	if n.Cluster.ServiceLB {
		g.Add(lifecycle.Restarted(n.servicePorts(api, log), log), lifecycle.After(registered), lifecycle.Optional())
	}
	if n.Cluster.LocalStorage {
		keeper := localpath.NewKeeper(n.Name, cmp.Or(n.Cluster.LocalStoragePath, n.Dir.Storage()), api.Client, log)
		g.Add(lifecycle.Restarted(keeper, log), lifecycle.After(registered), lifecycle.Optional())
	}
	if n.Cluster.Network.FlannelBackend != config.FlannelNone {
		g.Add(flannel.New(n.flannel(), api.Client, api.Informers, log), lifecycle.After(running))
	}
	return nil
}

// pods ends the pods when they are to end with the process: after the kubelet, before what they need.
func (n Node) pods(api API, log *slog.Logger) *shutdown.Component {
	return shutdown.New(shutdown.Config{NodeName: n.Name, Endpoint: n.runtimeEndpoint()}, api.Client, log)
}

// extractor puts the helper programs in their place and then removes those of earlier versions that nothing runs from.
func (n Node) extractor(log *slog.Logger) lifecycle.Component {
	return lifecycle.Func("helpers", func(ctx context.Context, ready func()) error {
		b, err := bundle.Embedded()
		if err != nil {
			return err
		}
		if _, err := b.Extract(ctx, n.Dir.Helpers()); err != nil {
			return err
		}
		if err := bundle.LinkSelf(n.Run.Executable()); err != nil {
			log.Error("bundled pods will not start", "error", err)
		}
		ready()
		removed, err := b.Prune(ctx, n.Dir.Helpers())
		if err != nil && ctx.Err() == nil {
			log.Warn("cannot remove helper programs of earlier versions", "error", err)
		}
		for _, dir := range removed {
			log.Info("removed helper programs of an earlier version", "directory", dir)
		}
		<-ctx.Done()
		return nil
	})
}

// ingressProgram puts the ingress controller's program in its place, which only its pods wait for.
func (n Node) ingressProgram(log *slog.Logger) lifecycle.Component {
	return lifecycle.Func("ingress-program", func(ctx context.Context, ready func()) error {
		b, err := bundle.Ingress()
		if err != nil {
			return err
		}
		dir := n.Dir.Ingress()
		if _, err := b.Extract(ctx, dir); err != nil {
			return err
		}
		if err := bundle.LinkIngress(bundle.Current(dir), n.Run.Ingress()); err != nil {
			return err
		}
		ready()
		if _, err := b.Prune(ctx, dir); err != nil && ctx.Err() == nil {
			log.Warn("cannot remove the ingress controller of earlier versions", "error", err)
		}
		<-ctx.Done()
		return nil
	})
}

// bundledImages puts the images that knarr brings along into containerd: no pod can start without the pause image.
func (n Node) bundledImages() lifecycle.Component {
	return lifecycle.Func("bundled-images", func(ctx context.Context, ready func()) error {
		archives, err := filepath.Glob(filepath.Join(n.helpers().Images, "*.tar"))
		if err != nil {
			return fmt.Errorf("list bundled images: %w", err)
		}
		if err := images.Ensure(ctx, n.Run.ContainerdSocket(), n.Runtime.Snapshotter, archives...); err != nil {
			return err
		}
		ready()
		<-ctx.Done()
		return nil
	})
}

// identityTokens are those of registries.yaml, which [registry.Watcher] checks as a whole.
func (n Node) identityTokens() (map[string]string, error) {
	s, err := registry.Load(n.Runtime.PrivateRegistry)
	if err != nil {
		return nil, err
	}
	return s.IdentityTokens(), nil
}

// announcer tells the cluster this node's addresses as soon as the kubelet has registered it.
func (n Node) announcer(api API, log *slog.Logger) lifecycle.Component {
	return lifecycle.Func("node-addresses", func(ctx context.Context, ready func()) error {
		for _, why := range n.Host.UnfitRuntimes {
			log.Warn("a container runtime of this host is not offered", "reason", why)
		}
		client, err := api.Client()
		if err != nil {
			return err
		}
		addresses := nodecontroller.Addresses{InternalIPs: n.IPs, ExternalIPs: n.Node.ExternalIPs.Slice(), Hostname: n.Name, Roles: n.Roles, Runtimes: n.runtimeClasses()}
		if err := nodecontroller.Announce(ctx, client, n.Name, addresses); err != nil && ctx.Err() == nil {
			return fmt.Errorf("announce the node's addresses: %w", err)
		}
		if !nodecontroller.Published(ctx, client, n.Name, n.IPs) && ctx.Err() == nil {
			log.Warn("the node's status does not have the addresses that it announces; who sets them?", "addresses", n.IPs)
		}
		ready()
		<-ctx.Done()
		return nil
	})
}

// servicePorts tells the load balancer which ports of this host are taken.
func (n Node) servicePorts(api API, log *slog.Logger) lifecycle.Component {
	return servicelb.NewReporter(servicelb.Host{NodeName: n.Name, IPs: n.IPs, ExternalIPs: n.Node.ExternalIPs.Slice()}, api.Client, log)
}
