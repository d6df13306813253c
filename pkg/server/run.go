package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/knarr-io/knarr/pkg/agent"
	"github.com/knarr-io/knarr/pkg/bundle"
	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/control"
	"github.com/knarr-io/knarr/pkg/datadir"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/logging"
	"github.com/knarr-io/knarr/pkg/registry"
	"github.com/knarr-io/knarr/pkg/sdnotify"
	"github.com/knarr-io/knarr/pkg/upstream/globals"
	"github.com/knarr-io/knarr/pkg/upstream/host"
	"github.com/knarr-io/knarr/pkg/version"
)

// Process is what the server is given by the process it is the whole life of.
type Process struct {
	// Stderr shows the boot, and the log unless it goes to a file.
	Stderr io.Writer
	Notify sdnotify.Notifier
	Start  time.Time
}

// Run runs a server until ctx ends or a component fails. What can be found wrong in the configuration is found before
// anything is written.
func Run(ctx context.Context, c config.Server, proc Process) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("knarr server must run as root: it mounts, makes network links and cgroups; use sudo")
	}
	plan, err := newPlan(c)
	if err != nil {
		return err
	}
	boot := logging.NewBoot(plan.boot(proc.Start), proc.Stderr)
	defer boot.End()
	handler, closer, err := logging.New(logging.Config{
		Debug: c.Logging.Debug, File: c.Logging.File, AlsoToStderr: c.Logging.AlsoToStderr,
	}, boot)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closer.Close()) }()

	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	log := slog.New(boot.Handler(handler))
	g := lifecycle.NewGroup(log, lifecycle.Observer(boot.Observe))
	desk := &desk{plan: plan, proc: proc, log: log, group: g}
	base := g.Add(control.New(control.Config{Dir: plan.Run.Root(), Status: desk.status, Stop: func() { stop(errStopped) }, Logger: log}))
	if desk.parts, err = Assemble(g, base, plan, log); err != nil {
		return err
	}

	lock, err := plan.Dir.Open(version.Version, func(previous string) error { return plan.backUpBefore(ctx, previous, log) })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	settings := plan.globals(handler)
	settings.Exit = func(code int) {
		stop(fmt.Errorf("%w with code %d", errFatal, code))
		runtime.Goexit() // whoever called this expects not to go on
	}
	if err := errors.Join(plan.keepNodeID(), globals.Apply(settings), globals.ApplyFeatureGates(), boot.Begin(g.Status)); err != nil {
		return err
	}
	if err := desk.run(ctx); err != nil {
		return err
	}
	if cause := context.Cause(ctx); errors.Is(cause, errFatal) {
		return cause
	}
	return nil
}

// errFatal is the end of a process that an upstream component asked for; the log has its reason.
var errFatal = errors.New("an upstream component called for the end of the process")

var errStopped = errors.New("knarr stop")

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
	p.HostResolvConf, _ = host.ResolvConf()
	return p, nil
}

// keepNodeID makes the id in the node's name last.
func (p Plan) keepNodeID() error {
	if p.NodeID == "" {
		return nil
	}
	return p.Dir.KeepNodeID(p.NodeID)
}

// gcPercent trades a little CPU at start for a smaller heap at rest; docs/performance.md has the figures.
const gcPercent = 50

func (p Plan) globals(handler slog.Handler) globals.Config {
	helpers := bundle.Current(p.Dir.Helpers())
	path := helpers.PATH(os.Getenv("PATH"))
	if p.Node.PreferBundledBin {
		path = strings.Join([]string{helpers.Bin, helpers.Aux, os.Getenv("PATH")}, string(filepath.ListSeparator))
	}
	return globals.Config{
		Handler:     handler,
		Verbosity:   p.Logging.Verbosity,
		VModule:     p.Logging.VModule.Slice(),
		Debug:       p.Logging.Debug,
		PATH:        path,
		TempDir:     filepath.Join(p.Dir.Root(), "tmp"),
		OOMScoreAdj: p.Host.LowestOOMScoreAdj(agent.OOMScoreAdj),
		GCPercent:   gcPercent,
	}
}

// boot is what the boot screen shows.
func (p Plan) boot(start time.Time) logging.BootConfig {
	store := "SQLite in " + p.Dir.DB()
	if !p.Datastore.Embedded() {
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

// desk answers for the process: to knarr status, to systemd, to whoever waits for it to be ready.
type desk struct {
	plan     Plan
	proc     Process
	log      *slog.Logger
	group    *lifecycle.Group
	parts    Parts
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
	if err := d.proc.Notify.Ready(); err != nil {
		d.log.Warn("cannot tell systemd that knarr is ready", "error", err)
	}
	settling := make(chan struct{})
	go func() {
		defer close(settling)
		d.settle(ctx)
	}()
	d.proc.Notify.Watchdog(ctx, d.log, d.group.Check)
	<-settling
}

// settleAfter is when the start is over for the parts that go on by themselves after they are ready: caches have
// filled, API documents are built.
const settleAfter = 20 * time.Second

// settle gives the memory back that only the start needed.
func (d *desk) settle(ctx context.Context) {
	timer := time.NewTimer(settleAfter)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return
	case <-timer.C:
	}
	globals.ReleaseMemory()
}

func (d *desk) status() control.Status {
	p := d.plan
	s := control.Status{
		Version: version.Version, PID: os.Getpid(), StartTime: d.proc.Start, Role: "server",
		NodeName: p.NodeName, DataDir: p.DataDir, Endpoint: p.APIServerURL(), LogFile: p.Logging.File,
		Ready: d.ready.Load(), Stopping: d.stopping.Load(), Components: d.group.Status(),
	}
	s.Addons = d.addons()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	db, err := d.parts.Store.Status(ctx)
	s.Datastore = &control.Datastore{Kind: db.Engine, SizeBytes: db.DiskBytes, Revision: db.Revision}
	if err != nil {
		s.Datastore.Error = err.Error()
	}
	return s
}
