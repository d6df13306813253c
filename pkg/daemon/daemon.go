// Package daemon is the life of a knarr process, a server's or an agent's: it sets up the log and the process, locks the
// data-dir, runs the components of one group, and answers for them to systemd and to `knarr status`.
//
// It does not know what the components are: [Config.Assemble] adds them.
//
// [Run] ends when its context does, when a component fails, or by `knarr stop`. When a component asks for it
// ([lifecycle.Restart]), the caller starts the process again.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/knarr-io/knarr/pkg/bundle"
	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/control"
	"github.com/knarr-io/knarr/pkg/datadir"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/logging"
	"github.com/knarr-io/knarr/pkg/sdnotify"
	"github.com/knarr-io/knarr/pkg/upstream/globals"
	"github.com/knarr-io/knarr/pkg/upstream/host"
	"github.com/knarr-io/knarr/pkg/version"
)

// Process is what a daemon is given by the process it is the whole life of.
type Process struct {
	// Stderr shows the boot, and the log unless it goes to a file.
	Stderr io.Writer
	Notify sdnotify.Notifier
	Start  time.Time
}

// Config is one process.
type Config struct {
	config.Common
	// Role is "server" or "agent".
	Role     string
	NodeName string
	// NodeID is the end of NodeName with --with-node-id, else empty.
	NodeID string
	// Endpoint is the URL at which this process reaches the API.
	Endpoint string
	Dir      datadir.Dir
	Run      datadir.Run
	Host     host.Host
	Boot     logging.BootConfig
	// OOMScoreAdj is of the process.
	OOMScoreAdj int
	// Upgrade, when not nil, is called before this version first writes to what another left; see datadir.Dir.Open.
	Upgrade func(ctx context.Context, previous string, log *slog.Logger) error
	// Join, when not nil, is called with the data-dir locked and before Assemble: what the components are made from has
	// to be fetched first.
	Join func(ctx context.Context, log *slog.Logger) error
	// Assemble adds the components, all of them after base. It does no I/O.
	Assemble func(g *lifecycle.Group, base lifecycle.Ref, log *slog.Logger) error
	// Compact deletes the datastore's history; nil where there is none.
	Compact func(ctx context.Context) error
	// SyncToken tells other servers of a token that was rotated here; nil where there is none to tell.
	SyncToken func(ctx context.Context) error
	// RemoveMember takes a server out of the etcd cluster; nil where there is none.
	RemoveMember func(ctx context.Context, node string) ([]string, error)
	// Status, when not nil, completes the status.
	Status func(ctx context.Context, s *control.Status)
}

// Run runs the process until ctx ends or a component fails. What can be found wrong in the configuration is found before
// anything is written.
func Run(ctx context.Context, c Config, proc Process) (err error) {
	boot := logging.NewBoot(c.Boot, proc.Stderr)
	defer boot.End()
	handler, closer, err := logging.New(logging.Config{
		Debug: c.Logging.Debug, File: c.Logging.File, AlsoToStderr: c.Logging.AlsoToStderr,
	}, boot)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closer.Close()) }()

	log := slog.New(boot.Handler(handler))
	g := lifecycle.NewGroup(log, lifecycle.Observer(boot.Observe))
	desk := &desk{config: c, proc: proc, log: log, group: g}
	asked := ctx
	ctx, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	defer context.AfterFunc(asked, func() { stop(desk.reason(context.Cause(asked))) })()
	base := g.Add(control.New(control.Config{
		Dir: c.Run.Root(), Status: desk.status, Compact: c.Compact, SyncToken: c.SyncToken, EndPods: desk.endPods, RemoveMember: c.RemoveMember,
		Stop: func() { stop(desk.reason(errStopped)) }, Logger: log,
	}))
	unlock, err := c.prepare(ctx, g, base, log)
	if unlock != nil {
		defer func() { err = errors.Join(err, unlock()) }()
	}
	if err != nil {
		return err
	}
	settings := c.globals(handler)
	settings.Exit = func(code int) {
		stop(fmt.Errorf("%w with code %d", errFatal, code))
		runtime.Goexit() // whoever called this expects not to go on
	}
	if err := errors.Join(c.keepNodeID(), globals.Apply(settings), globals.ApplyFeatureGates(), boot.Begin(g.Status)); err != nil {
		return err
	}
	err = desk.run(ctx)
	if again := new(lifecycle.Restart); errors.As(err, &again) && ctx.Err() != nil {
		err = nil // asked to stop meanwhile
	}
	if err != nil {
		return err
	}
	if cause := context.Cause(ctx); errors.Is(cause, errFatal) {
		return cause
	}
	return nil
}

// prepare locks the data-dir, joins and assembles. Without anything to join, a bad argument of a component is found
// before the data-dir is touched.
func (c Config) prepare(ctx context.Context, g *lifecycle.Group, base lifecycle.Ref, log *slog.Logger) (unlock func() error, err error) {
	if c.Join == nil {
		if err := c.Assemble(g, base, log); err != nil {
			return nil, err
		}
	}
	lock, err := c.Dir.Open(version.Version, func(previous string) error {
		if c.Upgrade == nil {
			return nil
		}
		return c.Upgrade(ctx, previous, log)
	})
	if err != nil {
		return nil, err
	}
	if c.Join == nil {
		return lock.Close, nil
	}
	if err := c.Join(ctx, log); err != nil {
		return lock.Close, err
	}
	return lock.Close, c.Assemble(g, base, log)
}

// errFatal is the end of a process that an upstream component asked for; the log has its reason.
var errFatal = errors.New("an upstream component called for the end of the process")

var errStopped = errors.New("knarr stop")

// keepNodeID makes the id in the node's name last.
func (c Config) keepNodeID() error {
	if c.NodeID == "" {
		return nil
	}
	return c.Dir.KeepNodeID(c.NodeID)
}

// gcPercent trades a little CPU at start for a smaller heap at rest; docs/performance.md has the figures.
const gcPercent = 50

func (c Config) globals(handler slog.Handler) globals.Config {
	helpers := bundle.Current(c.Dir.Helpers())
	path := helpers.PATH(os.Getenv("PATH"))
	if c.Node.PreferBundledBin {
		path = strings.Join([]string{helpers.Bin, helpers.Aux, os.Getenv("PATH")}, string(filepath.ListSeparator))
	}
	return globals.Config{
		Handler:      handler,
		Verbosity:    c.Logging.Verbosity,
		VModule:      c.Logging.VModule.Slice(),
		Debug:        c.Logging.Debug,
		PATH:         path,
		WireGuardKey: c.Dir.WireGuardKey(),
		TempDir:      filepath.Join(c.Dir.Root(), "tmp"),
		OOMScoreAdj:  c.OOMScoreAdj,
		GCPercent:    gcPercent,
	}
}
