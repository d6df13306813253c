package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/knarr-io/knarr/pkg/control"
	"github.com/knarr-io/knarr/pkg/join"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/loadbalancer"
	"github.com/knarr-io/knarr/pkg/pki"
	"github.com/knarr-io/knarr/pkg/tunnel"
	"github.com/knarr-io/knarr/pkg/upstream/host"
)

// assemble adds everything that an agent runs to g: the way to the servers, and the node.
func (m *member) assemble(g *lifecycle.Group, base lifecycle.Ref, log *slog.Logger) error {
	lb := loadbalancer.New(loadbalancer.Config{Listen: m.balancer(), Default: m.server.Host, Servers: m.known.Servers}, log)
	api := g.Add(lb, lifecycle.After(base))
	opened := make(chan string, waitingServers)
	tunnels := m.tunnels(lb, opened, log)
	g.Add(tunnels, lifecycle.After(api))
	g.Add(m.settingsFollower(opened, log), lifecycle.After(api))
	m.lb, m.tunnelClient = lb, tunnels
	g.Add(renewal{pki.NewRenewerOf(m.renew, log, nil)}, lifecycle.After(api))

	if m.Node.IPs.Len() == 0 {
		pick := func(now []netip.Addr) []netip.Addr { return m.cluster.Network.NodeIPs(m.Node.IPs, now) }
		g.Add(host.Follow(m.nodeIPs(m.cluster), pick, log), lifecycle.After(base))
	}

	own, err := m.clientset(pki.KubeletClient)
	if err != nil {
		return err
	}
	controller, err := m.clientset(pki.AgentControllerClient)
	if err != nil {
		return err
	}
	shared := NewShared(controller)
	informers := g.Add(shared, lifecycle.After(api))
	g.Add(m.serverWatcher(lb, controller, log), lifecycle.After(api))
	node := m.node(m.cluster)
	node.Offline = m.offline
	return AddNode(g, node, API{
		Base:      base,
		Ready:     informers,
		Kubelet:   func() (*rest.Config, error) { return m.access(pki.KubeletClient), nil },
		Failing:   lb.GiveUp,
		Client:    func() (kubernetes.Interface, error) { return own, nil },
		Reader:    shared.Client,
		Informers: shared.Informers,
		Registered: func(registered lifecycle.Ref) {
			g.Add(m.membership(own), lifecycle.After(registered))
		},
	}, log)
}

// clientset is a client of the API with one of the node's certificates.
func (m *member) clientset(as pki.Leaf) (kubernetes.Interface, error) {
	client, err := kubernetes.NewForConfig(m.access(as))
	if err != nil {
		return nil, fmt.Errorf("make a client of the API: %w", err)
	}
	return client, nil
}

// access is how the API is reached through the load balancer with one of the node's certificates.
func (m *member) access(as pki.Leaf) *rest.Config {
	keys := m.certificates(m.cluster)
	pair := keys.LeafPair(as)
	return &rest.Config{
		Host:            m.endpoint(),
		TLSClientConfig: rest.TLSClientConfig{CAFile: keys.AgentCA(pki.ServerCA), CertFile: pair.Cert, KeyFile: pair.Key},
		ContentConfig:   rest.ContentConfig{ContentType: "application/vnd.kubernetes.protobuf", AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json"},
	}
}

// renewal is a renewer whose certificates are there already: joining made them.
type renewal struct{ r *pki.Renewer }

func (r renewal) Name() string                                { return r.r.Name() }
func (r renewal) Run(ctx context.Context, ready func()) error { return r.r.Run(ctx, ready) }
func (r renewal) Check(ctx context.Context) error             { return r.r.Check(ctx) }

// tunnels also tells opened of each tunnel that has opened.
func (m *member) tunnels(lb *loadbalancer.Balancer, opened chan<- string, log *slog.Logger) *tunnel.Client {
	up := func(server string) {
		lb.Up(server)
		select {
		case opened <- server:
		default: // many are waiting
		}
	}
	return tunnel.NewClient(tunnel.Config{
		Path: join.PathTunnel, TLS: m.serverTLS, Servers: lb.Servers, Default: lb.Default(),
		Dial: m.dialHere, Up: up, Down: lb.Down, Failed: lb.Failed,
	}, log)
}

// status says which servers there are, and what is between them and this node.
func (m *member) status(_ context.Context, s *control.Status) {
	if m.lb == nil {
		return // still joining
	}
	servers, _ := m.lb.Servers()
	if !slices.Contains(servers, m.lb.Default()) && m.tunnelClient.Connected(m.lb.Default()) {
		servers = append(servers, m.lb.Default())
	}
	for _, address := range servers {
		s.Servers = append(s.Servers, control.ServerLink{Address: address, Tunnel: m.tunnelClient.Connected(address), Used: m.lb.Current() == address})
	}
}

// dialHere connects a server to what it may ask for: this node's addresses, and pods.
func (m *member) dialHere(ctx context.Context, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("%q is no address", address)
	}
	ip := to.Addr().Unmap()
	switch {
	case slices.Contains(m.certificates(m.cluster).NodeIPs, ip):
		if !hasAddress(ip) { // the address of a router before this machine
			ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
	case slices.ContainsFunc(m.cluster.Network.ClusterCIDRs.Slice(), func(p netip.Prefix) bool { return p.Contains(ip) }):
	default:
		return nil, fmt.Errorf("%s is neither this node nor a pod", ip)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", netip.AddrPortFrom(ip, to.Port()).String())
}

// hasAddress says whether a is an address of this host.
func hasAddress(a netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(addrs, func(have net.Addr) bool {
		p, err := netip.ParsePrefix(have.String())
		return err == nil && p.Addr().Unmap() == a
	})
}

// serverWatcher keeps the list of servers up to date, in the load balancer and on disk: the endpoints of the Service
// "kubernetes" are the servers that serve.
func (m *member) serverWatcher(lb *loadbalancer.Balancer, client kubernetes.Interface, log *slog.Logger) lifecycle.Component {
	return lifecycle.Func("servers", func(ctx context.Context, ready func()) error {
		factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(metav1.NamespaceDefault),
			informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = discoveryv1.LabelServiceName + "=kubernetes" }))
		slicesInformer := factory.Discovery().V1().EndpointSlices().Informer()
		learn := func() {
			servers := serversOf(slicesInformer.GetStore().List())
			if !lb.SetServers(servers) {
				return
			}
			m.learn(func(c *join.Cluster) { c.Servers, _ = lb.Servers() }, log)
			log.Info("servers", "addresses", servers)
		}
		_, err := slicesInformer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { learn() }, UpdateFunc: func(any, any) { learn() }, DeleteFunc: func(any) { learn() },
		})
		if err != nil {
			return fmt.Errorf("watch servers: %w", err)
		}
		ready()
		factory.Start(ctx.Done())
		<-ctx.Done()
		factory.Shutdown()
		return nil
	})
}

// serversOf are the addresses in EndpointSlices, "host:port".
func serversOf(objects []any) []string {
	var servers []string
	for _, obj := range objects {
		if slice, ok := obj.(*discoveryv1.EndpointSlice); ok {
			servers = append(servers, join.ServerAddresses(slice)...)
		}
	}
	return servers
}
