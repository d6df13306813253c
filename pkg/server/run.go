package server

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/knarr-io/knarr/pkg/agent"
	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/control"
	"github.com/knarr-io/knarr/pkg/daemon"
	"github.com/knarr-io/knarr/pkg/datadir"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/logging"
	"github.com/knarr-io/knarr/pkg/registry"
	"github.com/knarr-io/knarr/pkg/upstream/host"
	"github.com/knarr-io/knarr/pkg/version"
)

// Run runs a server until ctx ends or a component fails. What can be found wrong in the configuration is found before
// anything is written.
func Run(ctx context.Context, c config.Server, proc daemon.Process) error {
	if os.Geteuid() != 0 {
		return errors.New("knarr server must run as root: it mounts, makes network links and cgroups; use sudo")
	}
	plan, err := newPlan(c)
	if err != nil {
		return err
	}
	if c.Datastore.ClusterReset {
		return plan.reset(ctx, proc.Stderr)
	}
	var parts Parts
	var enter func(context.Context, *slog.Logger) error
	if plan.joins() {
		enter = plan.join
	}
	return daemon.Run(ctx, daemon.Config{
		Common: c.Common, Role: "server", NodeName: plan.NodeName, NodeID: plan.NodeID, Endpoint: plan.APIServerURL(),
		Dir: plan.Dir, Run: plan.Run, Host: plan.Host, Boot: plan.boot(proc.Start),
		OOMScoreAdj: plan.Host.LowestOOMScoreAdj(agent.OOMScoreAdj),
		Upgrade:     plan.backUpBefore,
		Join:        enter,
		Assemble: func(g *lifecycle.Group, base lifecycle.Ref, log *slog.Logger) (err error) {
			parts, err = Assemble(g, base, plan, log)
			return err
		},
		SyncToken: func(ctx context.Context) error {
			if parts.Shared == nil {
				return nil
			}
			return parts.Shared.Sync(ctx)
		},
		Compact: func(ctx context.Context) error { return parts.Store.Compact(ctx) },
		RemoveMember: func(ctx context.Context, node string) ([]string, error) {
			if !plan.inEtcd() {
				return nil, errors.New("the datastore of this cluster is no etcd of its servers")
			}
			return parts.Store.RemoveMember(ctx, node)
		},
		Status: func(ctx context.Context, s *control.Status) {
			s.Addons = parts.addons()
			if e := parts.Elector; e != nil {
				s.Leader = e.Leader()
				s.Components = append(s.Components, e.Components()...)
			}
			db, err := parts.Store.Status(ctx)
			s.Datastore = &control.Datastore{Kind: db.Engine, SizeBytes: db.DiskBytes, Revision: db.Revision}
			for _, m := range db.Members {
				s.Datastore.Members = append(s.Datastore.Members, control.DatastoreMember{Name: m.Name, Leader: m.Leader, Learner: m.Learner})
			}
			if err != nil {
				s.Datastore.Error = err.Error()
			}
		},
	}, proc)
}

// newPlan finds out what the configuration leaves to the host, and changes nothing.
func newPlan(c config.Server) (Plan, error) {
	p := Plan{Server: c, Dir: datadir.New(c.DataDir), Run: datadir.NewRun(datadir.DefaultRun)}
	if err := p.Dir.Check(version.Version); err != nil {
		return Plan{}, err
	}
	if _, err := registry.Load(c.Runtime.PrivateRegistry); err != nil {
		return Plan{}, err
	}
	var err error
	if c.Node.WithID {
		if p.NodeID, err = p.Dir.ReadNodeID(); err != nil {
			return Plan{}, err
		}
	}
	p.NodeName = c.NodeName(p.NodeID)
	if p.Host, err = host.Find(); err != nil {
		return Plan{}, err
	}
	if p.HostIPs, err = host.Addresses(); err != nil && c.Node.IPs.Len() == 0 {
		return Plan{}, err
	}
	if p.Store, err = DatastoreConfig(c); err != nil {
		return Plan{}, err
	}
	err = errors.Join(p.checkRoles(), p.checkEtcdFlags(), p.checkVirtualIP())
	return p, err
}

// boot is what the boot screen shows.
func (p Plan) boot(start time.Time) logging.BootConfig {
	store := "SQLite in " + p.Dir.DB()
	switch {
	case p.hasEtcd(), p.joins() && p.Datastore.Embedded() && !p.elsewhere():
		store = "etcd in " + p.Dir.DB()
	case p.elsewhere():
		store = "etcd of other servers"
	case !p.Datastore.Embedded():
		store = "external"
	}
	return logging.BootConfig{
		Version: version.Version, Role: "server", Node: p.NodeName, Started: start,
		Facts: []logging.Fact{
			{Name: "data-dir", Value: p.DataDir},
			{Name: "datastore", Value: store},
			{Name: "API", Value: "https://" + netip.AddrPortFrom(p.AdvertiseAddress(p.HostIPs...), p.Listener.Port).String()},
			{Name: "log", Value: p.Logging.File},
		},
		Result: []logging.Fact{
			{Name: "kubeconfig", Value: p.Kubeconfig.Path},
			{Name: "try", Value: "knarr kubectl get nodes"},
		},
		Help: []string{"knarr check-config looks for what on this host stands in the way."},
	}
}
