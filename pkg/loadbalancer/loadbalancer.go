// Package loadbalancer lets the components of an agent reach the API at one local address, whichever servers are alive:
// it accepts TCP connections on loopback and carries each to a server.
//
// It is not a proxy that understands what it carries: TLS goes through it from end to end. It does not find servers
// ([Balancer.SetServers] tells it), and it does not ask them how they are: connections are opened only when a client
// wants one, and whoever has a better sign of a server's death ([Balancer.Down]) tells it.
//
// While no server can be reached, a client is kept waiting instead of being refused: a client that is refused comes back
// later and later, one that waits is served the moment a server is back.
//
// It stops when its context ends: it closes its listener and all connections and waits for their goroutines.
package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/knarr-io/knarr/pkg/retry"
)

const (
	// patience is how long a client is kept waiting for a server. client-go gives up a TLS handshake after 10 s
	// (k8s.io/apimachinery/pkg/util/net/http.go); a waiting client has to be let go before.
	patience = 9 * time.Second
	// dialTimeout is how long one server may take to accept: longer than a lost SYN is repeated after.
	dialTimeout = 1500 * time.Millisecond
	// unacknowledged is how long a server's machine may take to acknowledge what it was sent. When packets are lost, TCP
	// waits twice as long before each further attempt; a new connection begins anew, with the shortest wait.
	unacknowledged = 5 * time.Second
	// Clients that were sent elsewhere because requests fail are left alone for firstRespite, and when it did not help for
	// twice the time, up to lastRespite: the trouble may be everybody's.
	firstRespite, lastRespite = 30 * time.Second, 10 * time.Minute
	// restFor is how long a server that could not be reached is tried last.
	restFor = 5 * time.Second
)

// Config is data.
type Config struct {
	// Listen is the local address, normally 127.0.0.1:6444.
	Listen netip.AddrPort
	// Default is the server that the user named, "host:port". It is tried when none of the others can be reached.
	Default string
	// Servers are those known from earlier, "host:port".
	Servers []string
}

// Balancer is the component. Use [New].
type Balancer struct {
	config Config
	log    *slog.Logger

	mu      sync.Mutex
	servers []string
	current string // the one that served last; it is tried first, so that connections do not wander
	resting map[string]time.Time
	dead    map[string]bool     // servers said to be down, and not up since
	open    map[net.Conn]string // to servers
	changed chan struct{}       // closed and replaced when servers change
	givenUp time.Time           // when GiveUp last did so
	respite time.Duration       // after which it may again
}

// New makes the component; it listens when it runs.
func New(c Config, log *slog.Logger) *Balancer {
	return &Balancer{
		config: c, log: log, servers: slices.Clone(c.Servers), resting: make(map[string]time.Time),
		dead: make(map[string]bool), open: make(map[net.Conn]string), changed: make(chan struct{}),
	}
}

// Name is "load-balancer".
func (*Balancer) Name() string { return "load-balancer" }

// Servers are those known now, and a channel that is closed when they change.
func (b *Balancer) Servers() ([]string, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.servers), b.changed
}

// Current is the server that served last; empty when it has died since.
func (b *Balancer) Current() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.current
}

// Default is the server that the user named.
func (b *Balancer) Default() string { return b.config.Default }

// SetServers replaces the list and reports whether it differs. An empty list is ignored: that there is no server is
// never what a server says. Connections to servers that left stay until they end.
func (b *Balancer) SetServers(servers []string) bool {
	servers = slices.Clone(servers)
	slices.Sort(servers)
	servers = slices.Compact(servers)
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(servers) == 0 || slices.Equal(servers, b.servers) {
		return false
	}
	b.servers = servers
	close(b.changed)
	b.changed = make(chan struct{})
	return true
}

// Down says that a server has just died. Clients connected to it are cut off, so that they go to another server now
// rather than when TCP finds out, if there is another.
func (b *Balancer) Down(server string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.resting[server] = time.Now().Add(restFor)
	b.dead[server] = true
	if b.current == server {
		b.current = ""
	}
	if !slices.ContainsFunc(b.servers, func(s string) bool { return s != server }) {
		return
	}
	b.cut()
}

// cut ends the connections to dead servers; mu is held.
func (b *Balancer) cut() {
	for conn, to := range b.open {
		if b.dead[to] {
			_ = conn.Close() // the goroutines that use it report nothing: the end of a connection is no news
		}
	}
}

// GiveUp says that requests fail, although their server takes connections and what it is sent. All clients are cut off, so
// that they go to another one, if there is another.
func (b *Balancer) GiveUp() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	alive := slices.DeleteFunc(slices.Clone(b.servers), func(s string) bool { return b.dead[s] })
	switch since := now.Sub(b.givenUp); {
	case len(alive) < 2, since < b.respite:
		return
	case since < 2*b.respite: // it did not help
		b.respite = min(2*b.respite, lastRespite)
	default:
		b.respite = firstRespite
	}
	b.givenUp, b.current = now, ""
	var left []string
	for conn, to := range b.open {
		b.resting[to] = now.Add(restFor)
		left = append(left, to)
		_ = conn.Close()
	}
	slices.Sort(left)
	b.log.Warn("requests to the API fail: this node turns to another server", "from", slices.Compact(left))
}

// Up says that a server is alive. Whoever is still connected to one that died when it was the only one, such as the same
// server at the address that it had before, is cut off now.
func (b *Balancer) Up(server string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.resting, server)
	delete(b.dead, server)
	b.cut()
}

// Run serves until ctx ends. It is ready when it listens: that a server can be reached is not for it to promise, since a
// node goes on without.
func (b *Balancer) Run(ctx context.Context, ready func()) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", b.config.Listen.String())
	if err != nil {
		return fmt.Errorf("listen for this node's own requests to the API: %w; choose another port with --lb-server-port", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel() // before waiting
	ready()
	for {
		conn, err := b.accept(ctx, listener)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept this node's own requests to the API: %w", err)
		}
		clients.Go(func() { b.serve(ctx, conn) })
	}
}

// accept waits for a client. What the kernel lacks for one more, it may have again a moment later.
func (b *Balancer) accept(ctx context.Context, from net.Listener) (conn net.Conn, err error) {
	err = retry.Until(ctx, "a client", retry.Backoff{First: 5 * time.Millisecond, Max: time.Second}, func(context.Context) (bool, error) {
		conn, err = from.Accept()
		lacking := func(e syscall.Errno) bool { return errors.Is(err, e) }
		if !slices.ContainsFunc([]syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM}, lacking) {
			return true, err
		}
		b.log.Warn("cannot accept this node's own requests to the API for the moment; it goes on", "error", err)
		return false, err
	})
	return conn, err
}

// serve carries one client.
func (b *Balancer) serve(ctx context.Context, client net.Conn) {
	defer func() { _ = client.Close() }()
	server, name, err := b.connect(ctx)
	if err != nil {
		b.log.Debug("no server for a client", "error", err)
		return
	}
	b.mu.Lock()
	b.open[server] = name
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.open, server)
		b.mu.Unlock()
		_ = server.Close()
	}()
	stop := context.AfterFunc(ctx, func() {
		_ = client.Close()
		_ = server.Close()
	})
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		carry(server, client)
	}()
	carry(client, server)
	<-done
}

// carry copies until from ends, and then ends both: TLS has no use for half of a connection.
func carry(to, from net.Conn) {
	_, _ = io.Copy(to, from) // how a connection ended is for its two ends to report
	_ = to.Close()
	_ = from.Close()
}

// connect reaches a server: the first that accepts, in the order of preference, again and again for a while.
func (b *Balancer) connect(ctx context.Context) (conn net.Conn, server string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = retry.Until(ctx, "a server", retry.Backoff{First: 50 * time.Millisecond, Max: time.Second}, func(ctx context.Context) (bool, error) {
		var errs []error
		for _, server = range b.preference() {
			conn, err = dial(ctx, server)
			if err == nil {
				b.served(server)
				return true, nil
			}
			b.Failed(server)
			errs = append(errs, err)
		}
		return false, errors.Join(errs...)
	})
	return conn, server, err
}

// dial connects to a server. The kernel sends no probes of its own: with a bound for what is unacknowledged, it would
// give an idle connection up for one that is lost (net/ipv4/tcp_timer.c, tcp_keepalive_timer). Who is dead, Down tells.
func dial(ctx context.Context, server string) (net.Conn, error) {
	bound := func(_, _ string, c syscall.RawConn) error {
		var optErr error
		err := c.Control(func(fd uintptr) {
			optErr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledged.Milliseconds()))
		})
		return errors.Join(err, optErr)
	}
	return (&net.Dialer{Timeout: dialTimeout, KeepAlive: -1, Control: bound}).DialContext(ctx, "tcp", server)
}

// preference is the current server, then the others in random order so that the agents of a cluster spread, then those
// that rest, then the one that the user named unless it is among them.
func (b *Balancer) preference() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	order := slices.Clone(b.servers)
	rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	if !slices.Contains(order, b.config.Default) {
		order = append(order, b.config.Default)
	}
	now := time.Now()
	rank := func(s string) int {
		switch until := b.resting[s]; {
		case s == b.current:
			return 0
		case until.After(now):
			return 3
		case !slices.Contains(b.servers, s):
			return 2
		default:
			return 1
		}
	}
	slices.SortStableFunc(order, func(x, y string) int { return rank(x) - rank(y) })
	return order
}

func (b *Balancer) served(server string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current = server
	delete(b.resting, server)
	delete(b.dead, server)
}

// Failed says that a server does not do: it is tried last for a while. Connections to it stay.
func (b *Balancer) Failed(server string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current == server {
		b.current = ""
	}
	b.resting[server] = time.Now().Add(restFor)
}
