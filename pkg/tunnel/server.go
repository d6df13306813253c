package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

const (
	// serverLimit is how long a silent agent counts as alive on the server, and serverEvery how often it is probed.
	serverLimit, serverEvery = 15 * time.Second, 3 * time.Second
	// askTimeout is how long an agent may take to connect to what is asked for.
	askTimeout = 10 * time.Second
)

// errStopping is what an agent gets whose server ends.
var errStopping = errors.New("the server is stopping")

// Server is the end on a server. Use [NewServer].
type Server struct {
	informers func() informers.SharedInformerFactory
	log       *slog.Logger

	sessions sync.WaitGroup

	mu      sync.Mutex
	stopped bool
	paused  bool
	byNode  map[string][]*session // the newest last
	routes  map[string]route      // by node
}

// route is what is reached through a node.
type route struct {
	addresses []netip.Addr
	pods      []netip.Prefix
}

// session is the connection of one agent.
type session struct {
	node string
	conn *watchedConn
	http *http.ClientConn
}

// NewServer makes the component. factory is called when it runs; Node objects say which addresses are which node's.
func NewServer(factory func() informers.SharedInformerFactory, log *slog.Logger) *Server {
	return &Server{informers: factory, log: log, byNode: make(map[string][]*session), routes: make(map[string]route)}
}

// Name is "agent-tunnels".
func (*Server) Name() string { return "agent-tunnels" }

// Run keeps the routes until ctx ends, and then ends all sessions.
func (s *Server) Run(ctx context.Context, ready func()) error {
	factory := s.informers()
	nodes := factory.Core().V1().Nodes().Informer()
	registration, err := nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    s.learn,
		UpdateFunc: func(_, obj any) { s.learn(obj) },
		DeleteFunc: s.forget,
	})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	defer func() { _ = nodes.RemoveEventHandler(registration) }() // fails only for a handler of another informer
	factory.Start(ctx.Done())
	ready()
	<-ctx.Done()
	s.mu.Lock()
	s.stopped = true
	s.endAll()
	s.mu.Unlock()
	s.sessions.Wait()
	return nil
}

// endAll ends the sessions; mu is held.
func (s *Server) endAll() {
	for _, sessions := range s.byNode {
		for _, one := range sessions {
			_ = one.conn.Close() // ends what Serve waits for
		}
	}
}

// Pause ends all tunnels and takes no new ones until it is called with false: agents turn to other servers.
func (s *Server) Pause(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = on
	if on {
		s.endAll()
	}
}

func (s *Server) isPaused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.paused
}

func (s *Server) learn(obj any) {
	node, ok := obj.(*corev1.Node)
	if !ok {
		return
	}
	var r route
	for _, a := range node.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil {
			r.addresses = append(r.addresses, ip.Unmap())
		}
	}
	for _, c := range node.Spec.PodCIDRs {
		if p, err := netip.ParsePrefix(c); err == nil {
			r.pods = append(r.pods, p)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.routes[node.Name] = r
}

func (s *Server) forget(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	if node, ok := obj.(*corev1.Node); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.routes, node.Name)
	}
}

// Serve turns the request of node's agent into a session and returns when that has ended.
func (s *Server) Serve(w http.ResponseWriter, r *http.Request, node string) error {
	if r.Header.Get("Upgrade") != Protocol {
		http.Error(w, "want an upgrade to "+Protocol, http.StatusUpgradeRequired)
		return nil
	}
	if s.isPaused() {
		http.Error(w, "this server has no datastore now: use another", http.StatusServiceUnavailable)
		return nil
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return fmt.Errorf("take over the connection of agent %s: %w", node, err)
	}
	defer func() { _ = conn.Close() }()
	if buffered.Reader.Buffered() > 0 {
		return fmt.Errorf("agent %s spoke before it was its turn", node)
	}
	one, err := s.open(r.Context(), conn, node)
	if err != nil {
		return fmt.Errorf("start the tunnel of agent %s: %w", node, err)
	}
	if err := s.add(one); err != nil {
		return err
	}
	defer s.sessions.Done()
	defer s.remove(one)
	s.log.Debug("tunnel of an agent is open", "node", node, "from", r.RemoteAddr)
	one.wait()
	s.log.Debug("tunnel of an agent has ended", "node", node, "from", r.RemoteAddr)
	return nil
}

func (s *Server) open(ctx context.Context, conn net.Conn, node string) (*session, error) {
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	beneath := conn
	if t, ok := conn.(*tls.Conn); ok {
		beneath = t.NetConn()
	}
	if err := keepAlive(beneath, serverEvery, serverLimit); err != nil {
		return nil, err
	}
	const answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + Protocol + "\r\n\r\n"
	if _, err := io.WriteString(conn, answer); err != nil {
		return nil, err
	}
	watched := watch(conn)
	transport := &http.Transport{
		Protocols:   http2Alone(),
		DialContext: func(context.Context, string, string) (net.Conn, error) { return watched, nil },
	}
	client, err := transport.NewClientConn(ctx, "http", "agent:80") // the address is nobody's: the connection is there
	if err != nil {
		return nil, err
	}
	return &session{node: node, conn: watched, http: client}, nil
}

func (s *session) wait() { <-s.conn.ended }

func (s *Server) add(one *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || s.paused { // since Serve looked
		return errStopping
	}
	s.sessions.Add(1)
	s.byNode[one.node] = append(s.byNode[one.node], one)
	return nil
}

func (s *Server) remove(one *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rest := slices.DeleteFunc(s.byNode[one.node], func(other *session) bool { return other == one })
	if s.byNode[one.node] = rest; len(rest) == 0 {
		delete(s.byNode, one.node)
	}
}

// DialContext connects to address: through the tunnel of the node whose address or pod it is, and directly where there
// is no such tunnel. It is a net.Dialer's in kind.
func (s *Server) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if one := s.find(address); one != nil {
		return one.dial(ctx, address)
	}
	return (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext(ctx, network, address)
}

// Connected reports whether node has a tunnel to this server.
func (s *Server) Connected(node string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byNode[node]) > 0
}

// find is the session that leads to address.
func (s *Server) find(address string) *session {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil // a name: not what a node or a pod is reached by
	}
	ip := to.Addr().Unmap()
	s.mu.Lock()
	defer s.mu.Unlock()
	for node, sessions := range s.byNode {
		r := s.routes[node]
		if slices.Contains(r.addresses, ip) || slices.ContainsFunc(r.pods, func(p netip.Prefix) bool { return p.Contains(ip) }) {
			return sessions[len(sessions)-1]
		}
	}
	return nil
}

// dial asks the agent to connect to address.
func (s *session) dial(ctx context.Context, address string) (net.Conn, error) {
	// The stream outlives ctx, which is about dialling only.
	streaming, cancel := context.WithCancel(context.WithoutCancel(ctx))
	body, send := io.Pipe()
	req := (&http.Request{
		Method: http.MethodConnect, URL: &url.URL{Scheme: "https", Host: address}, Host: address,
		Header: http.Header{}, Body: body, ContentLength: -1,
	}).WithContext(streaming)
	timer := time.AfterFunc(askTimeout, cancel)
	stop := context.AfterFunc(ctx, cancel)
	resp, err := s.http.RoundTrip(req)
	if !stop() || !timer.Stop() {
		err = errors.Join(err, errors.New("the agent did not answer in time"))
	}
	if err == nil && resp.StatusCode != http.StatusOK {
		reason, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // the status tells enough
		err = fmt.Errorf("%s %s", resp.Status, reason)
	}
	if err != nil {
		cancel()
		_ = send.CloseWithError(err)
		return nil, fmt.Errorf("connect to %s through the tunnel of node %s: %w", address, s.node, err)
	}
	// A pipe gives the caller deadlines, which a stream does not have.
	near, far := net.Pipe()
	go func() { // ends with either end of the connection, or with the session
		defer cancel()
		join(streaming, far, &stream{resp.Body, send})
	}()
	return &connTo{near, s.conn.LocalAddr(), address}, nil
}

// stream is a CONNECT stream as seen by its client.
type stream struct {
	io.ReadCloser
	send *io.PipeWriter
}

func (s *stream) Write(p []byte) (int, error) { return s.send.Write(p) }

func (s *stream) Close() error { return errors.Join(s.send.Close(), s.ReadCloser.Close()) }

// connTo has the addresses that a direct connection would have.
type connTo struct {
	net.Conn
	local  net.Addr
	remote string
}

// Read and Write fail as those of a connection that was closed do, for callers that tell that from other errors.
func (c *connTo) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, closed(err)
}

func (c *connTo) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, closed(err)
}

func closed(err error) error {
	if errors.Is(err, io.ErrClosedPipe) {
		return net.ErrClosed
	}
	return err
}

func (c *connTo) LocalAddr() net.Addr { return c.local }

func (c *connTo) RemoteAddr() net.Addr {
	to, err := netip.ParseAddrPort(c.remote)
	if err != nil {
		return c.Conn.RemoteAddr()
	}
	return net.TCPAddrFromAddrPort(to)
}
