// Package server is a knarr server: a control plane, and a node beside it. [Assemble] maps the configuration to
// components and their order, and reads as the architecture does.
//
// It contains no logic of its own: what a component does is in its package. [Run] is the whole life of the process.
package server

import (
	"log/slog"
	"net/netip"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/knarr-io/knarr/pkg/agent"
	"github.com/knarr-io/knarr/pkg/backup"
	"github.com/knarr-io/knarr/pkg/bootstrap"
	"github.com/knarr-io/knarr/pkg/controllers/addon"
	"github.com/knarr-io/knarr/pkg/controllers/leader"
	"github.com/knarr-io/knarr/pkg/datastore"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/upstream/apiserver"
	"github.com/knarr-io/knarr/pkg/upstream/csi"
	"github.com/knarr-io/knarr/pkg/upstream/host"
)

// Parts are the components that the process itself asks for something.
type Parts struct {
	Store  *datastore.Component
	Addons *addon.Controller
	// Shared is nil where there is one server.
	Shared *bootstrap.Component
	// Elector is nil where there is one server.
	Elector *leader.Elector
}

// Assemble adds everything that a server runs to g, all of it after base: what must outlive it.
func Assemble(g *lifecycle.Group, base lifecycle.Ref, p Plan, log *slog.Logger) (parts Parts, err error) {
	if p.Node.IPs.Len() == 0 {
		g.Add(host.Follow(p.nodeIPs(), func(now []netip.Addr) []netip.Addr { return p.Network.NodeIPs(p.Node.IPs, now) }, log), lifecycle.After(base))
	}
	store := datastore.New(p.datastore(), log)
	parts.Store = store
	keys, db, err := p.addStore(g, base, store, &parts, log)
	if err != nil {
		return parts, err
	}

	gate := p.gate(store, log)
	var shared agent.Shared // what serves metrics or makes backups asks for its client when it needs it
	client := func() (kubernetes.Interface, error) {
		if !p.Components.APIServer {
			return nil, errNoAPI
		}
		return shared.Client()
	}
	if p.Backup.Scheduled {
		g.Add(backup.NewScheduler(p.backups(client, log), log), lifecycle.After(db))
	}
	if !p.Components.APIServer {
		g.Add(p.supervisor(gate, log), lifecycle.After(db, keys))
		return parts, nil
	}
	kube, err := apiserver.New(p.apiServer(store.Access()), apiserver.Seams{
		EtcdDial: func() apiserver.Dial { return store.Access().Dial }, NodeDial: gate.tunnels.DialContext, Front: p.front(gate, log),
		Extensions: p.apis(client, log),
	})
	if err != nil {
		return parts, err
	}
	ranges := g.Add(p.podRanges(store, log), lifecycle.After(db, keys))
	api := g.Add(kube, lifecycle.After(db, keys, ranges))

	shared = agent.NewShared(newClient(kube))
	cache := g.Add(shared, lifecycle.After(api))
	gate.open(g, shared, cache)
	if p.hasEtcd() {
		g.Add(gate.quorum(store), lifecycle.After(cache), lifecycle.Optional())
	}
	parts.Addons = p.addControllers(g, cache, kube, shared, store, log)
	guard := &csi.Guard{}
	loops := func(g *lifecycle.Group, after ...lifecycle.Ref) error {
		return p.addLoops(g, after, kube, shared, guard, log)
	}
	if p.several() {
		parts.Elector = p.elector(shared, loops, log)
		g.Add(parts.Elector, lifecycle.After(cache), lifecycle.Grace(electorGrace))
		if p.Listener.VirtualIP.IsValid() {
			g.Add(p.virtualIP(shared, log), lifecycle.After(cache))
		}
	} else if err := loops(g, cache); err != nil {
		return parts, err
	}
	if !p.Components.Agent {
		return parts, nil
	}
	return parts, agent.AddNode(g, p.node(), agent.API{
		Base:  base,
		Ready: cache,
		Kubelet: func() (*rest.Config, error) {
			return kube.ClientConfig("system:node:"+p.NodeName, user.NodesGroup), nil
		},
		CSI:       guard,
		Client:    shared.Client,
		Reader:    shared.Client,
		Informers: shared.Informers,
		Registered: func(registered lifecycle.Ref) {
			g.Add(p.registration(shared, store, log), lifecycle.After(registered))
		},
	}, log)
}
