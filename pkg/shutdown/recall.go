package shutdown

import (
	"context"
	"log/slog"

	"github.com/godbus/dbus/v5"

	"github.com/knarr-io/knarr/pkg/lifecycle"
)

// What systemd-logind announces shutdowns with (org.freedesktop.login1(5)).
const (
	loginInterface = "org.freedesktop.login1.Manager"
	loginPath      = "/org/freedesktop/login1"
	loginSignal    = "PrepareForShutdown"
)

// Recall has the process start again when a shutdown of the host is called off that systemd-logind had announced. The
// kubelet has ended the pods by then, and is not ready for the next time: it closes its former inhibitor a second time,
// by a number that is the new one's, or anybody's in this process (pkg/kubelet/nodeshutdown/nodeshutdown_manager_linux.go:336).
//
// It ends when its context does, or with a [lifecycle.Restart]. Without a system bus it does nothing but say so.
type Recall struct{ log *slog.Logger }

// NewRecall makes the component, for hosts with a systemd-logind.
func NewRecall(log *slog.Logger) *Recall { return &Recall{log} }

// Name implements lifecycle.Component.
func (*Recall) Name() string { return "shutdown-recall" }

// Run listens until ctx ends or a shutdown is called off.
func (r *Recall) Run(ctx context.Context, ready func()) error {
	ready()
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx)) // which closes it
	signals := make(chan *dbus.Signal, 1)
	if err == nil {
		conn.Signal(signals)
		err = conn.AddMatchSignalContext(ctx, dbus.WithMatchInterface(loginInterface), dbus.WithMatchMember(loginSignal), dbus.WithMatchObjectPath(loginPath))
	}
	if err != nil && ctx.Err() == nil {
		r.log.Warn("cannot hear whether a shutdown of the host is called off: start knarr again after that", "error", err)
		<-ctx.Done()
		return nil
	}
	if calledOff(ctx, signals) {
		return &lifecycle.Restart{Reason: "a shutdown of this host was called off"}
	}
	<-ctx.Done() // or the bus has gone, which nobody outlives for long
	return nil
}

// calledOff waits for a shutdown to be announced and then not to be. It is false when there is nothing more to hear.
func calledOff(ctx context.Context, signals <-chan *dbus.Signal) bool {
	announced := false
	for {
		select {
		case <-ctx.Done():
			return false
		case s, open := <-signals:
			if !open {
				return false
			}
			if len(s.Body) == 0 || s.Name != loginInterface+"."+loginSignal {
				continue // the bus greets
			}
			down, _ := s.Body[0].(bool)
			if announced && !down {
				return true
			}
			announced = down
		}
	}
}
