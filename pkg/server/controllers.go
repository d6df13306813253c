package server

import (
	"log/slog"

	"github.com/knarr-io/knarr/pkg/agent"
	"github.com/knarr-io/knarr/pkg/controllers/addon"
	"github.com/knarr-io/knarr/pkg/controllers/dns"
	"github.com/knarr-io/knarr/pkg/controllers/etcdmember"
	"github.com/knarr-io/knarr/pkg/controllers/localpath"
	nodecontroller "github.com/knarr-io/knarr/pkg/controllers/node"
	"github.com/knarr-io/knarr/pkg/datastore"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/upstream/apiserver"
)

// addControllers adds knarr's own control loops to g, all of them after cache. What the cluster can live without for a
// while is started again when it fails; the others take the process along.
func (p Plan) addControllers(
	g *lifecycle.Group, cache lifecycle.Ref, kube *apiserver.Component, shared agent.Shared, store *datastore.Component, log *slog.Logger,
) *addon.Controller {
	required := func(c lifecycle.Component) { g.Add(c, lifecycle.After(cache)) }
	restarted := func(c lifecycle.Component) {
		g.Add(lifecycle.Restarted(c, log), lifecycle.After(cache), lifecycle.Optional())
	}

	if p.Components.CloudController {
		required(nodecontroller.New(shared.Client, shared.Informers, log))
	}
	if p.hasEtcd() {
		required(etcdmember.New(shared.Informers, store.RemoveNode, log))
	}

	addons := p.addons(kube, log)
	restarted(addons)
	if p.Components.Packaged("traefik") {
		restarted(p.ingress(kube, addons, log))
	} else {
		restarted(withdrawal(shared))
	}
	restarted(p.serviceLB(shared, log))
	if p.Components.Packaged("local-storage") {
		restarted(localpath.New(shared.Client, shared.Informers, log))
	}
	restarted(p.runtimeClasses(shared, log))
	if p.Components.HelmController {
		restarted(p.helm(kube, shared, log))
	}
	if p.Components.Packaged("coredns") {
		restarted(dns.New(dns.Config{Place: !p.Components.Agent}, shared.Client, shared.Informers, log))
	}
	return addons
}
