package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/knarr-io/knarr/pkg/retry"
)

const (
	// openTimeout is how long the first words may take.
	openTimeout = 5 * time.Second
	// comeBack bounds the wait between attempts at a server that was there once, and notYet at one that never was.
	comeBack = 2 * time.Second
	notYet   = 30 * time.Second
	// maxStreams bounds the connections through one tunnel, each a log that is followed or a command that runs.
	maxStreams = 10_000
)

// Config is what the end on an agent needs.
type Config struct {
	// Path is where the server takes the agent's request.
	Path string
	// TLS verifies a server and shows the agent's certificate. It is called for each connection.
	TLS func() (*tls.Config, error)
	// Servers are the servers to keep a tunnel to, "host:port", and a channel that is closed when they change.
	Servers func() ([]string, <-chan struct{})
	// Default is a server to keep a tunnel to while there is none to any of Servers: their addresses may be of no use
	// here.
	Default string
	// Dial connects to what a server asks for, or refuses.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Up and Down are told when a tunnel opens and when it has ended.
	Up, Down func(server string)
	// Failed, when not nil, is told when a tunnel could not be opened.
	Failed func(server string)
}

// Client is the end on an agent. Use [NewClient].
type Client struct {
	config Config
	log    *slog.Logger

	mu      sync.Mutex
	all     map[string]bool // the servers to which there is a tunnel
	open    int             // tunnels to config.Servers
	changed chan struct{}   // closed and replaced when open changes
}

// NewClient makes the component.
func NewClient(c Config, log *slog.Logger) *Client {
	return &Client{config: c, log: log, all: make(map[string]bool), changed: make(chan struct{})}
}

// Name is "server-tunnels".
func (*Client) Name() string { return "server-tunnels" }

// Run keeps a tunnel to each server until ctx ends. It is ready at once: a node goes on without a server.
func (c *Client) Run(ctx context.Context, ready func()) error {
	ready()
	var keepers sync.WaitGroup
	defer keepers.Wait()
	running := make(map[string]context.CancelFunc)
	defer func() {
		for _, stop := range running {
			stop()
		}
	}()
	for {
		servers, changed := c.config.Servers()
		open, others := c.count()
		if open == 0 && c.config.Default != "" {
			servers = append(servers, c.config.Default)
		}
		c.reconcile(ctx, &keepers, running, servers, open > 0)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-others:
		}
	}
}

// reconcile starts keepers of tunnels that are wanted and, once there is another way, stops those that are not.
func (c *Client) reconcile(ctx context.Context, keepers *sync.WaitGroup, running map[string]context.CancelFunc, servers []string, other bool) {
	wanted := make(map[string]bool)
	for _, s := range servers {
		wanted[s] = true
		if running[s] == nil {
			one, stop := context.WithCancel(ctx)
			running[s] = stop
			keepers.Go(func() { c.keep(one, s) })
		}
	}
	for s, stop := range running {
		if !wanted[s] && other {
			stop()
			delete(running, s)
		}
	}
}

func (c *Client) count() (int, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open, c.changed
}

// opened counts a tunnel, unless it stands in for those to the servers that are known, and returns what takes it back.
func (c *Client) opened(server string) (ended func()) {
	n := 0
	if listed, _ := c.config.Servers(); slices.Contains(listed, server) {
		n = 1
	}
	c.add(server, true, n)
	return func() { c.add(server, false, -n) }
}

// Connected reports whether there is a tunnel to server.
func (c *Client) Connected(server string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all[server]
}

func (c *Client) add(server string, there bool, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all[server] = there
	c.open += n
	close(c.changed)
	c.changed = make(chan struct{})
}

// keep has a tunnel to server for as long as ctx lasts.
func (c *Client) keep(ctx context.Context, server string) {
	limit := notYet
	if server == c.config.Default {
		limit = comeBack // it is tried only while there is no other way
	}
	for ctx.Err() == nil {
		// Each round ends when a tunnel that was open has ended, and the next begins with a short wait again.
		err := retry.Until(ctx, "a tunnel to "+server, retry.Backoff{First: 200 * time.Millisecond, Max: limit}, func(ctx context.Context) (bool, error) {
			opened, err := c.hold(ctx, server)
			if !opened && ctx.Err() == nil && c.config.Failed != nil {
				c.config.Failed(server)
			}
			if err != nil && ctx.Err() == nil {
				c.log.Debug("no tunnel", "server", server, "opened", opened, "error", err)
			}
			return opened, err
		})
		if err != nil && ctx.Err() == nil {
			limit = comeBack
			c.log.Info("the tunnel to a server has ended", "server", server, "error", err)
			scatter(ctx)
		}
	}
}

// scatter waits for a moment that differs between the agents which lost the same server.
func scatter(ctx context.Context) {
	timer := time.NewTimer(100*time.Millisecond + rand.N(400*time.Millisecond))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// hold opens a tunnel and serves it until it ends.
func (c *Client) hold(ctx context.Context, server string) (opened bool, err error) {
	conn, err := c.connect(ctx, server)
	if err != nil {
		return false, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer c.opened(server)()
	c.config.Up(server)
	defer c.config.Down(server)
	c.log.Debug("tunnel is open", "server", server)
	attending, served := context.WithCancel(ctx)
	defer served()
	var streams, attendant sync.WaitGroup
	err = errors.New("the connection ended")
	attendant.Go(func() {
		ask := func(ctx context.Context, within time.Duration) bool { return answers(ctx, server, within) }
		if dead := attend(attending, func() (pulse, error) { return feel(conn.beneath) }, ask); dead != nil {
			err = dead
			_ = conn.Close()
		}
	})
	serve(ctx, conn, func(w http.ResponseWriter, r *http.Request) {
		streams.Add(1)
		defer streams.Done()
		c.answer(w, r)
	})
	served()
	attendant.Wait()
	streams.Wait()
	return true, err
}

// serve answers the requests of HTTP/2 that come over one connection until that has ended.
func serve(ctx context.Context, conn net.Conn, handler http.HandlerFunc) {
	s := &http.Server{
		Handler: handler, Protocols: http2Alone(), HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	_ = s.Serve(&listener{watchedConn: watch(conn)}) // io.EOF, from the listener
}

// listener accepts one connection, which was dialled, and ends with it.
type listener struct {
	*watchedConn
	accepted bool
}

func (l *listener) Accept() (net.Conn, error) {
	if !l.accepted {
		l.accepted = true
		return l.watchedConn, nil
	}
	<-l.ended
	return nil, io.EOF
}

func (l *listener) Addr() net.Addr { return l.LocalAddr() }

// connect asks server for a tunnel.
func (c *Client) connect(ctx context.Context, server string) (_ *dialled, err error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	config, err := c.config.TLS()
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(server)
	if err != nil {
		return nil, err
	}
	config.ServerName, config.NextProtos = host, []string{"http/1.1"}
	plain, err := (&net.Dialer{}).DialContext(ctx, "tcp", server)
	if err != nil {
		return nil, err
	}
	beneath, ok := plain.(*net.TCPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the connection is a %T", plain), plain.Close())
	}
	conn := tls.Client(plain, config)
	stop := context.AfterFunc(ctx, func() { _ = plain.Close() })
	defer func() {
		if !stop() && err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			_ = plain.Close()
		}
	}()
	if err := keepAlive(plain, probeEvery, tolerance); err != nil {
		return nil, err
	}
	request := "GET " + c.config.Path + " HTTP/1.1\r\nHost: " + server + "\r\nConnection: Upgrade\r\nUpgrade: " + Protocol + "\r\n\r\n"
	if _, err := io.WriteString(conn, request); err != nil {
		return nil, err
	}
	// The server speaks next only after the answer's end, and waits for a preface before, so nothing else is read here.
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, nil)
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // the status tells enough
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%s: %s", resp.Status, text)
	}
	return &dialled{conn, reader, beneath}, nil
}

// dialled is the connection to a server, which reads first what was read ahead.
type dialled struct {
	net.Conn
	reader  *bufio.Reader
	beneath *net.TCPConn
}

func (c *dialled) Read(p []byte) (int, error) { return c.reader.Read(p) }

// answer connects a stream to what it asks for.
func (c *Client) answer(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.Error(w, "want CONNECT", http.StatusMethodNotAllowed)
		return
	}
	conn, err := c.config.Dial(r.Context(), r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	if err := control.Flush(); err != nil {
		_ = conn.Close()
		return // the session has ended
	}
	join(r.Context(), conn, &handled{r.Body, w, control})
}

// handled is a CONNECT stream as seen by its handler.
type handled struct {
	io.ReadCloser
	w       io.Writer
	control *http.ResponseController
}

func (h *handled) Write(p []byte) (int, error) {
	n, err := h.w.Write(p)
	if err == nil {
		err = h.control.Flush()
	}
	return n, err
}
