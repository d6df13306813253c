package server

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/knarr-io/knarr/pkg/bundle"
	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/control"
	"github.com/knarr-io/knarr/pkg/datadir"
	"github.com/knarr-io/knarr/pkg/datastore"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/sdnotify"
	"github.com/knarr-io/knarr/pkg/upstream/globals"
	"github.com/knarr-io/knarr/pkg/upstream/host"
	"github.com/knarr-io/knarr/pkg/version"
)

// Process is what the server is given by the process it is the whole life of.
type Process struct {
	Handler slog.Handler
	Notify  sdnotify.Notifier
	Start   time.Time
	// Observe sees every change of a component's state; Ready is called once, when all are ready. Both may be nil.
	Observe func(lifecycle.Status)
	Ready   func()
}

// Run runs a server until ctx ends or a component fails.
func Run(ctx context.Context, c config.Server, proc Process) (err error) {
	dir := datadir.New(c.DataDir)
	lock, err := dir.Open(version.Version)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	plan, err := newPlan(c, dir)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)

	log := slog.New(proc.Handler)
	g := lifecycle.NewGroup(log, lifecycle.Observer(func(s lifecycle.Status) {
		if proc.Observe != nil {
			proc.Observe(s)
		}
	}))
	desk := &desk{plan: plan, proc: proc, group: g}
	g.Add(control.New(control.Config{Dir: plan.Run.Root(), Status: desk.status, Stop: func() { stop(errStopped) }, Logger: log}))
	g.Add(processSettings{plan, proc.Handler})
	if desk.store, err = Assemble(g, plan, log); err != nil {
		return err
	}
	return desk.run(ctx)
}

var errStopped = errors.New("knarr stop")

// newPlan finds out what the configuration leaves to the host.
func newPlan(c config.Server, dir datadir.Dir) (Plan, error) {
	p := Plan{Server: c, Dir: dir, Run: datadir.NewRun(datadir.DefaultRun)}
	id := ""
	var err error
	if c.Node.WithID {
		if id, err = dir.EnsureNodeID(); err != nil {
			return Plan{}, err
		}
	}
	p.NodeName = c.NodeName(id)
	if p.Host, err = host.Find(); err != nil {
		return Plan{}, err
	}
	if p.HostIPs, err = host.Addresses(); err != nil && c.Node.IPs.Len() == 0 {
		return Plan{}, err
	}
	p.HostResolvConf, _ = host.ResolvConf()
	return p, nil
}

// processSettings applies the settings of the process before anything starts, and after everything has been parsed.
type processSettings struct {
	plan    Plan
	handler slog.Handler
}

func (processSettings) Name() string { return "process" }

func (s processSettings) Prepare(context.Context) error {
	helpers := bundle.Current(s.plan.Dir.Helpers())
	path := helpers.PATH(os.Getenv("PATH"))
	if s.plan.Node.PreferBundledBin {
		path = helpers.Bin + ":" + helpers.Aux + ":" + os.Getenv("PATH")
	}
	if err := globals.Apply(globals.Config{
		Handler:     s.handler,
		Verbosity:   s.plan.Logging.Verbosity,
		VModule:     s.plan.Logging.VModule.Slice(),
		PATH:        path,
		TempDir:     filepath.Join(s.plan.Dir.Root(), "tmp"),
		OOMScoreAdj: oomScoreAdj,
		GCPercent:   gcPercent,
	}); err != nil {
		return err
	}
	return globals.ApplyFeatureGates()
}

// Run has nothing to do: the settings are made.
func (processSettings) Run(ctx context.Context, ready func()) error {
	ready()
	<-ctx.Done()
	return nil
}

const (
	// oomScoreAdj is what upstream gives kubelet and kube-proxy (pkg/kubelet/qos/policy.go:30).
	oomScoreAdj = -999
	// gcPercent trades a little CPU at start for a smaller heap at rest; docs/performance.md has the figures.
	gcPercent = 75
)

// desk answers for the process: to knarr status, to systemd, to whoever waits for it to be ready.
type desk struct {
	plan     Plan
	proc     Process
	group    *lifecycle.Group
	store    *datastore.Component
	ready    atomic.Pointer[time.Time]
	stopping atomic.Bool
}

func (d *desk) run(ctx context.Context) error {
	watch, done := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.watch(watch)
	}()
	context.AfterFunc(ctx, func() {
		d.stopping.Store(true)
		_ = d.proc.Notify.Stopping() // systemd also sees the process end
	})
	err := d.group.Run(ctx)
	done()
	<-ended
	return err
}

// watch tells systemd and the caller when all is ready, and then keeps the watchdog fed while all is healthy.
func (d *desk) watch(ctx context.Context) {
	if d.group.Ready(ctx) != nil {
		return // stopped or failed first: Run returns the reason
	}
	now := time.Now()
	d.ready.Store(&now)
	if d.proc.Ready != nil {
		d.proc.Ready()
	}
	log := slog.New(d.proc.Handler)
	if err := d.proc.Notify.Ready(); err != nil {
		log.Warn("cannot tell systemd that knarr is ready", "error", err)
	}
	d.proc.Notify.Watchdog(ctx, log, d.group.Check)
}

func (d *desk) status() control.Status {
	p := d.plan
	s := control.Status{
		Version: version.Version, PID: os.Getpid(), StartTime: d.proc.Start, Role: "server",
		NodeName: p.NodeName, DataDir: p.DataDir, Endpoint: p.APIServerURL(), LogFile: p.Logging.File,
		Ready: d.ready.Load(), Stopping: d.stopping.Load(), Components: d.group.Status(),
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	db, err := d.store.Status(ctx)
	s.Datastore = &control.Datastore{Kind: db.Engine, SizeBytes: db.DiskBytes, Revision: db.Revision}
	if err != nil {
		s.Datastore.Error = err.Error()
	}
	return s
}
