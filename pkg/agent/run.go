package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/knarr-io/knarr/pkg/bundle"
	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/daemon"
	"github.com/knarr-io/knarr/pkg/datadir"
	"github.com/knarr-io/knarr/pkg/join"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/logging"
	"github.com/knarr-io/knarr/pkg/pki"
	"github.com/knarr-io/knarr/pkg/registry"
	"github.com/knarr-io/knarr/pkg/token"
	"github.com/knarr-io/knarr/pkg/upstream/host"
	"github.com/knarr-io/knarr/pkg/version"
)

// plan is an agent's configuration with what had to be found out on the host.
type plan struct {
	config.Agent
	dir      datadir.Dir
	run      datadir.Run
	server   *url.URL
	token    token.Token
	nodeName string
	// nodeID is the end of nodeName with --with-node-id, else empty.
	nodeID string
	host   host.Host
	// hostIPs are the host's own addresses, at most one for each family.
	hostIPs []netip.Addr
}

// Run runs an agent until ctx ends or a component fails. What can be found wrong in the configuration is found before
// anything is written.
func Run(ctx context.Context, c config.Agent, proc daemon.Process) error {
	if os.Geteuid() != 0 {
		return errors.New("knarr agent must run as root: it mounts, makes network links and cgroups; use sudo")
	}
	p, err := newPlan(c)
	if err != nil {
		return err
	}
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	m := &member{plan: p, leave: leave}
	err = daemon.Run(ctx, daemon.Config{
		Common: c.Common, Role: "agent", NodeName: p.nodeName, NodeID: p.nodeID, Endpoint: p.endpoint(),
		Dir: p.dir, Run: p.run, Host: p.host, Boot: p.boot(proc.Start),
		OOMScoreAdj: p.host.LowestOOMScoreAdj(OOMScoreAdj),
		Join:        m.join,
		Status:      m.status,
		Assemble: func(g *lifecycle.Group, base lifecycle.Ref, log *slog.Logger) error {
			return m.assemble(g, base, log)
		},
	}, proc)
	return errors.Join(err, m.left(ctx))
}

// newPlan finds out what the configuration leaves to the host, and changes nothing.
func newPlan(c config.Agent) (plan, error) {
	p := plan{Agent: c, dir: datadir.New(c.DataDir), run: datadir.NewRun(datadir.DefaultRun)}
	if err := p.dir.Check(version.Version); err != nil {
		return plan{}, err
	}
	if _, err := registry.Load(c.Runtime.PrivateRegistry); err != nil {
		return plan{}, err
	}
	if _, err := os.Stat(p.dir.TLS()); err == nil {
		return plan{}, fmt.Errorf("%s is the data of a server: an agent needs a data-dir of its own, or `knarr uninstall` first", p.dir.Root())
	}
	var err error
	if p.server, err = url.Parse(c.Join.Server); err != nil {
		return plan{}, fmt.Errorf("--server: %w", err)
	}
	if c.Token.IsSet() {
		if p.token, err = token.Parse(c.Token.Reveal()); err != nil {
			return plan{}, fmt.Errorf("--token: %w", err)
		}
	}
	if c.Node.WithID {
		if p.nodeID, err = p.dir.ReadNodeID(); err != nil {
			return plan{}, err
		}
	}
	p.nodeName = c.NodeName(p.nodeID)
	if p.host, err = host.Find(); err != nil {
		return plan{}, err
	}
	if p.hostIPs, err = host.Addresses(); err != nil && c.Node.IPs.Len() == 0 {
		return plan{}, err
	}
	return p, nil
}

// balancer is where the node's components reach the API.
func (p plan) balancer() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), p.Join.BalancerPort)
}

func (p plan) endpoint() string { return "https://" + p.balancer().String() }

func (p plan) state() join.State {
	return join.State{
		File:         filepath.Join(p.dir.Agent(), "cluster.json"),
		PasswordFile: filepath.Join(filepath.Dir(config.DefaultConfigFile), "node", "password"),
	}
}

// nodeIPs are the internal addresses to register: the user's, else the host's of the families that the cluster has.
func (p plan) nodeIPs(cluster config.Server) []netip.Addr {
	return cluster.Network.NodeIPs(p.Node.IPs, p.hostIPs)
}

func (p plan) certificates(cluster config.Server) pki.Config {
	return pki.Config{
		DataDir:       p.dir.Root(),
		Joined:        true,
		NodeName:      p.nodeName,
		NodeIPs:       append(p.nodeIPs(cluster), p.Node.ExternalIPs.Slice()...),
		ClusterDomain: cluster.Network.Domain,
		ServerURL:     p.endpoint(),
	}
}

func (p plan) node(cluster config.Server) Node {
	pause := p.Runtime.PauseImage
	if pause == "" {
		pause = cluster.SystemImage(bundle.PauseImage)
	}
	return Node{
		Common: p.Common,
		Cluster: Cluster{
			Network: cluster.Network, DNS: cluster.ClusterDNS().Slice(), KubeProxy: cluster.Components.KubeProxy,
			NetworkPolicy: cluster.Components.NetworkPolicy, ServiceLB: cluster.Components.Packaged("servicelb"), PauseImage: pause,
			Ingress:      cluster.Components.Packaged("traefik"),
			LocalStorage: cluster.Components.Packaged("local-storage"), LocalStoragePath: cluster.Components.LocalStorage,
		},
		Name: p.nodeName,
		Host: p.host,
		IPs:  p.nodeIPs(cluster),
		Dir:  p.dir,
		Run:  p.run,
		Keys: p.certificates(cluster),
	}
}

// boot is what the boot screen shows.
func (p plan) boot(start time.Time) logging.BootConfig {
	return logging.BootConfig{
		Version: version.Version, Role: "agent", Node: p.nodeName, Started: start,
		Facts: []logging.Fact{
			{Name: "data-dir", Value: p.DataDir},
			{Name: "server", Value: p.Join.Server},
			{Name: "log", Value: p.Logging.File},
		},
		Result: []logging.Fact{{Name: "try", Value: "knarr kubectl get nodes, on a server"}},
		Help:   []string{"knarr check-config looks for what on this host stands in the way."},
	}
}
