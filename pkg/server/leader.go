package server

import (
	"log/slog"
	"time"

	"github.com/knarr-io/knarr/pkg/agent"
	"github.com/knarr-io/knarr/pkg/controllers/leader"
	"github.com/knarr-io/knarr/pkg/lifecycle"
)

const (
	// managerGrace is above the 10 s that upstream gives its controllers (--controller-shutdown-timeout).
	managerGrace = 12 * time.Second
	// electorGrace lets the control loops stop, and the lease be handed over.
	electorGrace = managerGrace + 3*time.Second
)

// several tells whether the datastore is one that several servers can use. Where it is not, there is no lease.
func (p Plan) several() bool { return p.inEtcd() || !p.Datastore.Local() }

// elector is what has the control loops run on one of the servers.
func (p Plan) elector(s agent.Shared, loops func(*lifecycle.Group, ...lifecycle.Ref) error, log *slog.Logger) *leader.Elector {
	return leader.New(leader.Config{
		Name: "leader-election", Lease: leader.Lease, Identity: p.NodeName, Terms: leader.DefaultTerms(),
	}, s.Client, func(g *lifecycle.Group) error { return loops(g) }, log)
}
