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
	"github.com/knarr-io/knarr/pkg/upstream/controllermanager"
	"github.com/knarr-io/knarr/pkg/upstream/csi"
	"github.com/knarr-io/knarr/pkg/upstream/scheduler"
)

// addControllers adds the control loops that every server runs to g, all of them after cache: those that are about the
// server itself and its files.
func (p Plan) addControllers(
	g *lifecycle.Group, cache lifecycle.Ref, kube *apiserver.Component, shared agent.Shared, store *datastore.Component, log *slog.Logger,
) *addon.Controller {
	restarted := func(c lifecycle.Component) {
		g.Add(lifecycle.Restarted(c, log), lifecycle.After(cache), lifecycle.Optional())
	}
	if p.inEtcd() {
		g.Add(etcdmember.New(shared.Informers, store.RemoveNode, log), lifecycle.After(cache))
	}
	addons := p.addons(kube, log)
	restarted(addons)
	if p.Components.Packaged("traefik") {
		restarted(p.ingress(kube, addons, log))
	} else {
		restarted(withdrawal(shared))
	}
	return addons
}

// addLoops adds the control loops that a cluster has once to g: upstream's, and knarr's own. Of these, what the cluster
// can live without for a while is started again when it fails; the others take the process along.
func (p Plan) addLoops(g *lifecycle.Group, after []lifecycle.Ref, kube *apiserver.Component, shared agent.Shared, guard *csi.Guard, log *slog.Logger) error {
	required := func(c lifecycle.Component, more ...lifecycle.Option) {
		g.Add(c, append(more, lifecycle.After(after...))...)
	}
	restarted := func(c lifecycle.Component) {
		g.Add(lifecycle.Restarted(c, log), lifecycle.After(after...), lifecycle.Optional())
	}

	if p.Components.ControllerManager {
		manager, err := controllermanager.New(p.controllerManager(), kube, guard)
		if err != nil {
			return err
		}
		required(manager, lifecycle.Grace(managerGrace))
	}
	if p.Components.Scheduler {
		s, err := scheduler.New(p.scheduler(), kube)
		if err != nil {
			return err
		}
		required(s)
	}
	if p.Components.CloudController {
		required(nodecontroller.New(shared.Client, shared.Informers, log))
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
	return nil
}
