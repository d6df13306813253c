package flannel

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/hostgw"    // registers host-gw
	_ "github.com/flannel-io/flannel/pkg/backend/vxlan"     // registers vxlan
	_ "github.com/flannel-io/flannel/pkg/backend/wireguard" // registers wireguard
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/flannel-io/flannel/pkg/trafficmngr"
	"github.com/flannel-io/flannel/pkg/trafficmngr/iptables"
	"github.com/flannel-io/flannel/pkg/trafficmngr/nftables"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/knarr-io/knarr/pkg/atomicfile"
)

// resyncSeconds is how often the iptables fallback looks for rules that somebody removed. The nftables rules live in a
// table of their own that nobody else touches.
const resyncSeconds = 60

// Component is the pod network of this node. Use [New].
type Component struct {
	config    Config
	client    func() (kubernetes.Interface, error)
	informers func() informers.SharedInformerFactory
	log       *slog.Logger
}

// New makes the component. client and factory are called when it runs.
func New(c Config, client func() (kubernetes.Interface, error), factory func() informers.SharedInformerFactory, log *slog.Logger) *Component {
	return &Component{config: c, client: client, informers: factory, log: log}
}

// Name is "flannel".
func (*Component) Name() string { return "flannel" }

// Run follows flannel's main.go:214. It is ready when pods can be given addresses: links, rules and the CNI
// configuration are in place.
func (c *Component) Run(ctx context.Context, ready func()) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	network, err := c.config.network()
	if err != nil {
		return err
	}
	factory := c.informers()
	sm := &subnets{nodeName: c.config.NodeName, network: network, client: client, nodes: factory.Core().V1().Nodes().Informer()}
	factory.Start(ctx.Done())
	node, err := c.awaitPodCIDR(ctx, sm.nodes)
	if err != nil || node == nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	running, device, err := c.setUp(ctx, &wg, sm)
	if err != nil {
		return err
	}
	pods, err := podCIDRs(node)
	if err != nil {
		return err
	}
	mtu := newFollower(device.Iface.Name, c.overhead(device, running.MTU()), func(mtu int) error { return c.writeCNI(pods, mtu) }, c.log)
	if err := mtu.look(); err != nil {
		return err
	}
	if err := networkAvailable(ctx, client, c.config.NodeName); err != nil {
		return err
	}
	ready()
	failed := make(chan error, 1)
	wg.Go(func() {
		failed <- mtu.run(ctx)
		cancel()
	})
	running.Run(ctx)
	<-ctx.Done()
	return <-failed
}

// awaitPodCIDR waits until kube-controller-manager has given this node its networks, one for each of the cluster's; nil
// when ctx ends first.
func (c *Component) awaitPodCIDR(ctx context.Context, nodes cache.SharedIndexInformer) (*corev1.Node, error) {
	found := make(chan *corev1.Node, 1)
	look := func(obj any) {
		node, ok := obj.(*corev1.Node)
		if !ok || node.Name != c.config.NodeName || len(node.Spec.PodCIDRs) < len(c.config.ClusterCIDRs) {
			return
		}
		select {
		case found <- node:
		default: // found before
		}
	}
	registration, err := nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: look, UpdateFunc: func(_, obj any) { look(obj) }})
	if err != nil {
		return nil, fmt.Errorf("watch nodes: %w", err)
	}
	defer func() { _ = nodes.RemoveEventHandler(registration) }() // fails only for a handler of another informer
	select {
	case node := <-found:
		return node, nil
	case <-ctx.Done():
		return nil, nil
	}
}

// Prepare checks what the user gave, and whether the kernel can do what the backend needs.
func (c *Component) Prepare(context.Context) error {
	if _, err := c.config.network(); err != nil {
		return err
	}
	if _, err := c.template(); err != nil {
		return err
	}
	if c.config.Backend != wireguardBackend {
		return nil
	}
	if err := checkWireGuard(netlink.LinkAdd, netlink.LinkDel); err != nil {
		return err
	}
	return ensureWireGuardKey(c.config.WireGuardKey)
}

// setUp makes the links and the rules.
func (c *Component) setUp(ctx context.Context, wg *sync.WaitGroup, sm *subnets) (backend.Network, *backend.ExternalInterface, error) {
	if err := forward("/proc/sys", sm.network); err != nil {
		return nil, nil, err
	}
	if err := c.tidy(sm.network); err != nil {
		return nil, nil, err
	}
	device, public, err := c.device(sm.network.EnableIPv4, sm.network.EnableIPv6)
	if err != nil {
		return nil, nil, err
	}
	sm.public = public
	kind, err := backend.NewManager(ctx, sm, device).GetBackend(c.config.backendType())
	if err != nil {
		return nil, nil, fmt.Errorf("make flannel backend %s: %w", c.config.Backend, err)
	}
	if c.config.Backend == wireguardBackend {
		// It takes its links away when its context ends (pkg/backend/wireguard/device.go:141), for which it has a
		// goroutine: pods shall go on talking while knarr is down, so that goroutine ends with the process.
		ctx, wg = context.WithoutCancel(ctx), new(sync.WaitGroup)
	}
	network, err := kind.RegisterNetwork(ctx, wg, sm.network)
	if err != nil {
		return nil, nil, fmt.Errorf("set up flannel backend %s on %s: %w", c.config.Backend, device.Iface.Name, err)
	}
	return network, device, c.program(ctx, sm.network, network.Lease())
}

// program installs masquerading and forwarding rules, and removes what the other kind of rules left.
func (c *Component) program(ctx context.Context, n *subnet.Config, l *lease.Lease) error {
	var rules, other trafficmngr.TrafficManager = &nftables.NFTablesManager{}, &iptables.IPTablesManager{}
	otherProgram := "iptables"
	if !c.config.NFTables {
		rules, other, otherProgram = other, rules, "nft"
	}
	if err := rules.Init(ctx); err != nil {
		return fmt.Errorf("prepare flannel's packet rules: %w", err)
	}
	// What the other kind left can only be there, and removed, with its program.
	if _, err := exec.LookPath(otherProgram); err == nil {
		if err := other.CleanUp(ctx); err != nil {
			return fmt.Errorf("remove flannel's former packet rules: %w", err)
		}
	}
	v6 := n.IPv6Network
	if !c.config.MasqueradeIPv6 {
		v6 = ip.IP6Net{}
	}
	err := rules.SetupAndEnsureMasqRules(ctx, n.Network, ip.IP4Net{}, ip.IP4Net{}, v6, ip.IP6Net{}, ip.IP6Net{}, l, resyncSeconds, false)
	if err != nil {
		return fmt.Errorf("install flannel's masquerading rules: %w", err)
	}
	rules.SetupAndEnsureForwardRules(ctx, n.Network, n.IPv6Network, resyncSeconds)
	return nil
}

// template is the user's CNI configuration, nil without one.
func (c *Component) template() ([]byte, error) {
	if c.config.CNITemplate == "" {
		return nil, nil
	}
	text, err := os.ReadFile(c.config.CNITemplate)
	if err != nil {
		return nil, fmt.Errorf("read --flannel-cni-conf: %w", err)
	}
	if err := checkTemplate(text); err != nil {
		return nil, fmt.Errorf("read --flannel-cni-conf %s: %w", c.config.CNITemplate, err)
	}
	return text, nil
}

func (c *Component) writeCNI(pods []netip.Prefix, mtu int) error {
	rules := "nftables"
	if !c.config.NFTables {
		rules = "iptables"
	}
	list, err := c.template()
	if err == nil && list == nil {
		list, err = cniConfig(pods, c.config.ClusterCIDRs, mtu, rules)
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(c.config.CNIConfigFile), 0o755); err != nil {
		return fmt.Errorf("make CNI configuration directory: %w", err)
	}
	if _, err := atomicfile.WriteIfChanged(c.config.CNIConfigFile, list, 0o600); err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	return nil
}
