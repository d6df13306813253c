package flannel

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"

	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/hostgw" // registers host-gw
	_ "github.com/flannel-io/flannel/pkg/backend/vxlan"  // registers vxlan
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/ipmatch"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/flannel-io/flannel/pkg/trafficmngr"
	"github.com/flannel-io/flannel/pkg/trafficmngr/iptables"
	"github.com/flannel-io/flannel/pkg/trafficmngr/nftables"
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
}

// New makes the component. client and factory are called when it runs.
func New(c Config, client func() (kubernetes.Interface, error), factory func() informers.SharedInformerFactory) *Component {
	return &Component{config: c, client: client, informers: factory}
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
	running, err := c.setUp(ctx, &wg, sm)
	if err != nil {
		return err
	}
	if err := c.writeCNI(node, running.MTU()); err != nil {
		return err
	}
	if err := networkAvailable(ctx, client, c.config.NodeName); err != nil {
		return err
	}
	ready()
	running.Run(ctx)
	<-ctx.Done()
	return nil
}

// awaitPodCIDR waits until kube-controller-manager has given this node its networks; nil when ctx ends first.
func (c *Component) awaitPodCIDR(ctx context.Context, nodes cache.SharedIndexInformer) (*corev1.Node, error) {
	found := make(chan *corev1.Node, 1)
	look := func(obj any) {
		node, ok := obj.(*corev1.Node)
		if !ok || node.Name != c.config.NodeName || len(node.Spec.PodCIDRs) == 0 {
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

// setUp makes the links and the rules.
func (c *Component) setUp(ctx context.Context, wg *sync.WaitGroup, sm *subnets) (backend.Network, error) {
	if err := forward("/proc/sys", sm.network); err != nil {
		return nil, err
	}
	device, err := c.device(sm.network)
	if err != nil {
		return nil, err
	}
	kind, err := backend.NewManager(ctx, sm, device).GetBackend(c.config.Backend)
	if err != nil {
		return nil, fmt.Errorf("make flannel backend %s: %w", c.config.Backend, err)
	}
	network, err := kind.RegisterNetwork(ctx, wg, sm.network)
	if err != nil {
		return nil, fmt.Errorf("set up flannel backend %s on %s: %w", c.config.Backend, device.Iface.Name, err)
	}
	return network, c.program(ctx, sm.network, network.Lease())
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

// device is the interface for traffic between nodes.
func (c *Component) device(n *subnet.Config) (*backend.ExternalInterface, error) {
	stack, err := ipmatch.GetIPFamily(n.EnableIPv4, n.EnableIPv6)
	if err != nil {
		return nil, fmt.Errorf("choose address families: %w", err)
	}
	var public ipmatch.PublicIPOpts
	name := c.config.Interface
	for _, a := range c.config.NodeIPs {
		if a.Is4() {
			public.PublicIP = a.String()
		} else {
			public.PublicIPv6 = a.String()
		}
		if name == "" && hasInterface(a) {
			name = a.String()
		}
	}
	device, err := ipmatch.LookupExtIface(name, "", "", stack, public)
	if err != nil {
		return nil, fmt.Errorf("find the interface for traffic between nodes (set --flannel-iface): %w", err)
	}
	return device, nil
}

// hasInterface says whether a is an address of this host; a node IP behind NAT is not.
func hasInterface(a netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(addrs, func(have net.Addr) bool {
		p, err := netip.ParsePrefix(have.String())
		return err == nil && p.Addr() == a
	})
}

func (c *Component) writeCNI(node *corev1.Node, mtu int) error {
	pods, err := podCIDRs(node)
	if err != nil {
		return err
	}
	rules := "nftables"
	if !c.config.NFTables {
		rules = "iptables"
	}
	list, err := cniConfig(pods, c.config.ClusterCIDRs, mtu, rules)
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
