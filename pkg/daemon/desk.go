package daemon

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/knarr-io/knarr/pkg/control"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/service"
	"github.com/knarr-io/knarr/pkg/shutdown"
	"github.com/knarr-io/knarr/pkg/upstream/globals"
	"github.com/knarr-io/knarr/pkg/version"
)

// desk answers for the process: to knarr status, to systemd, to whoever waits for it to be ready.
type desk struct {
	config   Config
	proc     Process
	log      *slog.Logger
	group    *lifecycle.Group
	ready    atomic.Pointer[time.Time]
	stopping atomic.Bool
	// pods, when not nil, is how pods end when the process stops.
	pods atomic.Pointer[shutdown.Request]
}

// hostLimit is how long pods may take to end when the host goes down: service managers do not wait for ever.
const hostLimit = time.Minute

// endPods has the pods end with the process.
func (d *desk) endPods(grace time.Duration) {
	d.pods.Store(&shutdown.Request{Reason: "knarr stop --all", Grace: grace})
}

// reason is why the process stops for cause; a [shutdown.Request] when its pods are to end with it.
func (d *desk) reason(cause error) error {
	var request *shutdown.Request
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	switch {
	case errors.As(cause, &request):
	case d.pods.Load() != nil:
		request = d.pods.Load()
		cause = request
	case service.Host{}.GoingDown(ctx):
		request = &shutdown.Request{Reason: "the host goes down", Limit: hostLimit}
		cause = request
	default:
		return cause
	}
	if err := d.proc.Notify.Extend(cmp.Or(request.Limit, shutdown.Longest) + hostLimit); err != nil {
		d.log.Warn("cannot tell systemd that the stop takes longer", "error", err)
	}
	return cause
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

// timerSlack is how much later than asked for an idle process may wake: enough that a hundred wake-ups a second are
// left of six hundred (docs/performance.md), and less than any time that upstream's components wait for one another.
const timerSlack = 50 * time.Millisecond

// settle gives the memory back that only the start needed, and lets an idle process sleep.
func (d *desk) settle(ctx context.Context) {
	timer := time.NewTimer(settleAfter)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return
	case <-timer.C:
	}
	if err := globals.ReleaseMemory(); err != nil {
		d.log.Debug("not all memory that the start needed was given back", "error", err)
	}
	if d.config.Host.HasOwnShims() {
		return // they would hand the slack down to containers
	}
	if err := globals.CoalesceTimers(timerSlack); err != nil {
		d.log.Debug("an idle process wakes for each timer", "error", err)
	}
}

func (d *desk) status() control.Status {
	c := d.config
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = d.group.Check(ctx) // what it finds is in the status of the components
	s := control.Status{
		Version: version.Version, PID: os.Getpid(), StartTime: d.proc.Start, Role: c.Role,
		NodeName: c.NodeName, DataDir: c.DataDir, Endpoint: c.Endpoint, LogFile: c.Logging.File,
		Ready: d.ready.Load(), Stopping: d.stopping.Load(), Components: d.group.Status(),
	}
	if c.Status != nil {
		c.Status(ctx, &s)
	}
	return s
}
