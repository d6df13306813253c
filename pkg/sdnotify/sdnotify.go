// Package sdnotify tells systemd how the process is doing (sd_notify(3)).
//
// It takes the environment away first: the embedded apiserver and kubelet would
// otherwise each send READY=1 of their own, and every child would inherit the
// socket. That is why it speaks the protocol itself: go-systemd's daemon
// package reads the environment again with every message.
//
// It keeps no connection and starts no goroutine; Watchdog stops with its
// context. The zero Notifier, and one captured where there is no systemd, does
// nothing and succeeds.
package sdnotify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// sendTimeout bounds one message: systemd's queue may be full.
const sendTimeout = 2 * time.Second

// Notifier sends messages to the service manager. All methods may be called
// from any goroutine.
type Notifier struct {
	socket   string        // a path, or "@" and an abstract name; "" for none
	interval time.Duration // within which systemd wants to hear from us; 0 for never
}

// Capture returns the Notifier that the environment asks for and removes
// NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID from it. Call it once, first
// thing in main. The Notifier is usable even with an error, which is about a
// variable that makes no sense.
func Capture() (Notifier, error) {
	env := map[string]string{}
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		env[name] = os.Getenv(name)
		if err := os.Unsetenv(name); err != nil {
			return Notifier{}, fmt.Errorf("unset %s: %w", name, err)
		}
	}
	return parse(env, os.Getpid())
}

func parse(env map[string]string, pid int) (Notifier, error) {
	socket := env["NOTIFY_SOCKET"]
	if socket == "" {
		return Notifier{}, nil
	}
	if socket[0] != '/' && socket[0] != '@' {
		return Notifier{}, fmt.Errorf("NOTIFY_SOCKET=%q is neither an absolute path nor an abstract socket (@name): unset it", socket)
	}
	n := Notifier{socket: socket}
	usec, owner := env["WATCHDOG_USEC"], env["WATCHDOG_PID"]
	if usec == "" {
		return n, nil
	}
	if owner != "" && owner != strconv.Itoa(pid) { // meant for a parent that left them in place
		return n, nil
	}
	us, err := strconv.ParseInt(usec, 10, 64)
	if err != nil || us <= 0 {
		return n, fmt.Errorf("WATCHDOG_USEC=%q is not a positive number of microseconds: unset it, or set WatchdogSec in the unit", usec)
	}
	n.interval = time.Duration(us) * time.Microsecond
	return n, nil
}

// Ready tells that the start is complete.
func (n Notifier) Ready() error { return n.send("READY=1") }

// Stopping tells that the stop has begun.
func (n Notifier) Stopping() error { return n.send("STOPPING=1") }

// Extend asks for more time to stop than the unit's TimeoutStopSec: d from now on.
func (n Notifier) Extend(d time.Duration) error {
	return n.send("EXTEND_TIMEOUT_USEC=" + strconv.FormatInt(d.Microseconds(), 10))
}

// Status sets the line that systemctl status shows.
func (n Notifier) Status(line string) error { return n.send(status(line)) }

// status leaves line breaks out: each would begin another variable.
func status(line string) string { return "STATUS=" + strings.Join(strings.Fields(line), " ") }

// Watchdog tells systemd twice in each watchdog interval that the process is
// alive, as long as healthy returns nil; while it does not, systemd hears why
// instead, and ends the process when the interval is over. healthy gets a
// context that ends before the next turn.
//
// It returns when ctx is done, also when there is no watchdog to feed. It
// cannot fail: a message that cannot be sent is logged, and systemd is the judge.
func (n Notifier) Watchdog(ctx context.Context, log *slog.Logger, healthy func(context.Context) error) {
	if n.interval == 0 {
		<-ctx.Done()
		return
	}
	beat(ctx, log, n.interval/2, healthy, n.send)
}

func beat(ctx context.Context, log *slog.Logger, every time.Duration, healthy func(context.Context) error, send func(string) error) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	wasHealthy := true
	for {
		turn, cancel := context.WithTimeout(ctx, every)
		err := healthy(turn)
		cancel()
		if ctx.Err() != nil {
			return
		}
		message := "WATCHDOG=1"
		switch {
		case err != nil:
			log.Error("unhealthy: systemd's watchdog is not fed", "error", err)
			message = status("unhealthy: " + err.Error())
		case !wasHealthy:
			log.Info("healthy again: systemd's watchdog is fed")
			message += "\n" + status("healthy again")
		}
		wasHealthy = err == nil
		if err := send(message); err != nil {
			log.Error("systemd's watchdog cannot be reached", "error", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (n Notifier) send(message string) error {
	if n.socket == "" {
		return nil
	}
	if err := n.deliver(message); err != nil {
		return fmt.Errorf("notify systemd at %s of %s: %w", n.socket, message, err)
	}
	return nil
}

func (n Notifier) deliver(message string) (err error) {
	// Package net takes a leading "@" for an abstract socket, as systemd does.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	_, err = conn.Write([]byte(message))
	return err
}
