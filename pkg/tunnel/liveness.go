package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An agent has to know within about two seconds that a server is dead, and must not take a lost packet for that: what
// it does then costs every connection that it has to this server. So the kernel probes the connection once a second
// while nothing is sent, for which no process has to wake up on the server; the agent looks once a second at what came
// back, and when a probe was not answered, it asks the server for new connections: several, since again a packet may be
// lost. The tunnel itself, and the logs and commands in it, survive that.
const (
	probeEvery = time.Second
	// allowance is how long the answer to a probe may take. It is two round trips where those are longer.
	allowance = 300 * time.Millisecond
	// longestTrip is the longest round trip that is believed: lost packets make the kernel measure much longer ones.
	longestTrip = 500 * time.Millisecond
	// attempts at a new connection are made every attemptEvery, and all of them have verdict and a round trip.
	attempts     = 5
	attemptEvery = 120 * time.Millisecond
	verdict      = 700 * time.Millisecond
	// tolerance is how long an agent waits for what the server must acknowledge, if it answers otherwise.
	tolerance = 15 * time.Second
)

// keepAlive makes the kernel find out that the other end is gone: it probes every so often while nothing is sent, and
// gives up when nothing was acknowledged within limit. conn is a TCP connection, or nothing happens.
func keepAlive(conn net.Conn, every, limit time.Duration) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	if err := tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: every, Interval: every, Count: int(limit / every)}); err != nil {
		return err
	}
	return control(tcp, func(fd int) error {
		// tcp(7): it bounds unacknowledged data, and overrides the count of keep-alive probes.
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
	})
}

func control(conn syscall.Conn, do func(fd int) error) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var doErr error
	err = raw.Control(func(fd uintptr) { doErr = do(int(fd)) })
	return errors.Join(err, doErr)
}

// pulse is how the other end of a connection was last heard of.
type pulse struct {
	silent time.Duration // since anything came, the answer to a probe included
	trip   time.Duration // to the other end and back
}

func feel(conn syscall.Conn) (p pulse, err error) {
	err = control(conn, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			p.silent = time.Duration(min(info.Last_data_recv, info.Last_ack_recv)) * time.Millisecond
			p.trip = time.Duration(info.Rtt) * time.Microsecond
		}
		return err
	})
	return p, err
}

// attend returns when the other end of a connection is dead, and why it thinks so, or when ctx ends.
func attend(ctx context.Context, feel func() (pulse, error), answers func(ctx context.Context, within time.Duration) bool) error {
	for {
		p, err := feel()
		if errors.Is(err, net.ErrClosed) {
			return nil // whoever uses it knows
		}
		if err != nil {
			return fmt.Errorf("ask the kernel about the connection: %w", err)
		}
		trip := min(p.trip, longestTrip)
		patience := probeEvery + max(allowance, 2*trip)
		left := patience - p.silent
		if left <= 0 {
			if !answers(ctx, verdict+trip) && ctx.Err() == nil {
				return fmt.Errorf("nothing came for %v, and no new connection is answered", p.silent)
			}
			left = patience
		}
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// answers tells whether server takes a connection.
func answers(ctx context.Context, server string, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	var dials sync.WaitGroup
	defer dials.Wait()
	defer cancel() // before waiting
	taken := make(chan bool, attempts)
	dial := func() {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", server)
		if err == nil {
			_ = conn.Close()
		}
		taken <- err == nil
	}
	next := time.NewTicker(attemptEvery)
	defer next.Stop()
	dials.Go(dial)
	for made, failed := 1, 0; failed < attempts; {
		select {
		case ok := <-taken:
			if ok {
				return true
			}
			failed++
		case <-next.C:
			if made < attempts {
				made++
				dials.Go(dial)
			}
		}
	}
	return false
}
