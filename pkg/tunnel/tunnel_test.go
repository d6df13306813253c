package tunnel

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/knarr-io/knarr/tests/bed"
)

// rig is both ends, and an echo that stands for a kubelet at an address which only the agent knows the way to.
type rig struct {
	server *Server
	http   *httptest.Server
	door   *door
	client *Client
	echo   net.Listener
	ups    chan string
	downs  chan string
}

const (
	nodeAddress = "192.0.2.7:10250"
	podAddress  = "10.42.3.9:8080"
)

func newRig(t *testing.T) *rig {
	t.Helper()
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1"},
		Spec:       corev1.NodeSpec{PodCIDRs: []string{"10.42.3.0/24"}},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.7"}}},
	}
	log := slog.New(slog.DiscardHandler)
	factory := informers.NewSharedInformerFactory(fake.NewClientset(node), 0)
	r := &rig{server: NewServer(func() informers.SharedInformerFactory { return factory }, log), ups: make(chan string, 100), downs: make(chan string, 100)}
	var err error
	if r.echo, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.echo.Close() })
	go echo(r.echo)
	r.http = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if err := r.server.Serve(w, req, "n1"); err != nil && !errors.Is(err, errStopping) {
			t.Errorf("serve: %v", err)
		}
	}))
	r.http.Listener.Close()
	r.door = &door{TCPListener: bed.Listen(t), taken: make(chan *net.TCPConn, 100)}
	r.http.Listener, r.http.Config.ErrorLog = r.door, slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	r.http.StartTLS()
	t.Cleanup(r.http.Close)
	roots := x509.NewCertPool()
	roots.AddCert(r.http.Certificate())
	r.client = NewClient(Config{
		Path: "/tunnel", TLS: func() (*tls.Config, error) { return &tls.Config{RootCAs: roots}, nil },
		Servers: func() ([]string, <-chan struct{}) { return []string{r.http.Listener.Addr().String()}, nil },
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			if address != nodeAddress && address != podAddress {
				return nil, errors.New("not mine")
			}
			return (&net.Dialer{}).DialContext(ctx, "tcp", r.echo.Addr().String())
		},
		Up: func(s string) { r.ups <- s }, Down: func(s string) { r.downs <- s },
	}, log)
	return r
}

func echo(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn)
		}()
	}
}

// start runs a component until the test ends, or stop is called.
func start(t *testing.T, run func(context.Context, func()) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, func() {}) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Error("it does not stop")
		}
	})
	t.Cleanup(stop)
	return stop
}

func wait(t *testing.T, from chan string, what string) {
	t.Helper()
	select {
	case <-from:
	case <-time.After(10 * time.Second):
		t.Fatalf("no %s", what)
	}
}

// connected waits until the server has the session and the node's addresses.
func (r *rig) connected(t *testing.T) {
	t.Helper()
	wait(t, r.ups, "tunnel")
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); r.server.find(nodeAddress) == nil; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("the server does not know the way")
		}
	}
}

func TestConnectionsThroughTheTunnel(t *testing.T) {
	r := newRig(t)
	start(t, r.server.Run)
	start(t, r.client.Run)
	r.connected(t)
	payload := make([]byte, 3<<20)
	rand.Read(payload)
	var all sync.WaitGroup
	for _, address := range []string{nodeAddress, podAddress, nodeAddress} {
		all.Go(func() {
			conn, err := r.server.DialContext(t.Context(), "tcp", address)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			if got := conn.RemoteAddr().String(); got != address {
				t.Errorf("remote address %s, want %s", got, address)
			}
			go func() { _, _ = conn.Write(payload) }()
			got := make([]byte, len(payload))
			if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, payload) {
				t.Errorf("%s: what came back differs, %v", address, err)
			}
		})
	}
	all.Wait()
	if !r.client.Connected(r.http.Listener.Addr().String()) || r.client.Connected("192.0.2.1:6443") {
		t.Error("the agent does not know where it is connected to")
	}
	if !r.server.Connected("n1") || r.server.Connected("n2") {
		t.Error("the server does not know who is connected")
	}
}

func TestDeadlines(t *testing.T) {
	r := newRig(t)
	start(t, r.server.Run)
	start(t, r.client.Run)
	r.connected(t)
	conn, err := r.server.DialContext(t.Context(), "tcp", nodeAddress)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := conn.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("got %v, want a timeout", err)
	}
	conn.Close()
	if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want net.ErrClosed", err)
	}
}

func TestAgentRefuses(t *testing.T) {
	r := newRig(t)
	start(t, r.server.Run)
	start(t, r.client.Run)
	r.connected(t)
	if conn, err := r.server.DialContext(t.Context(), "tcp", "10.42.3.1:22"); err == nil {
		conn.Close()
		t.Error("it connects to what the agent refuses")
	}
}

// TestOthersAreReachedDirectly dials what is no node's with a tunnel.
func TestOthersAreReachedDirectly(t *testing.T) {
	r := newRig(t)
	conn, err := r.server.DialContext(t.Context(), "tcp", r.echo.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// TestTheServerEnds is what an agent sees of it: its tunnel ends at once, and the next one is attempted soon.
func TestTheServerEnds(t *testing.T) {
	r := newRig(t)
	stop := start(t, r.server.Run)
	start(t, r.client.Run)
	r.connected(t)
	conn, err := r.server.DialContext(t.Context(), "tcp", nodeAddress)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	wait(t, r.downs, "end of the tunnel")
	if _, err := io.ReadAll(conn); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Logf("the connection ended with %v", err)
	}
	if r.server.Connected("n1") {
		t.Error("a server that has ended still has the session")
	}
}

// TestTheTunnelComesBack breaks the connection without the server's help.
func TestTheTunnelComesBack(t *testing.T) {
	r := newRig(t)
	start(t, r.server.Run)
	start(t, r.client.Run)
	r.connected(t)
	began := time.Now()
	r.http.CloseClientConnections()
	r.server.mu.Lock()
	for _, one := range r.server.byNode["n1"] {
		one.conn.Close()
	}
	r.server.mu.Unlock()
	wait(t, r.downs, "end of the tunnel")
	wait(t, r.ups, "second tunnel")
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the tunnel came back after %v", took)
	}
}

func TestRoutesFollowTheNode(t *testing.T) {
	s := NewServer(nil, slog.New(slog.DiscardHandler))
	s.byNode["n1"] = []*session{{node: "n1"}, {node: "n1", conn: nil}}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"fd00:42::/64"}}}
	s.learn(node)
	for address, want := range map[string]bool{"[fd00:42::9]:80": true, "192.0.2.7:1": false, "name:80": false} {
		if got := s.find(address) != nil; got != want {
			t.Errorf("find(%s) = %t", address, got)
		}
	}
	if s.find("[fd00:42::9]:80") != s.byNode["n1"][1] {
		t.Error("it is not the newest session")
	}
	s.forget(node)
	if s.find("[fd00:42::9]:80") != nil {
		t.Error("a node that is gone is still reached")
	}
}

// TestADeadServerIsTriedSoonButNotOften takes the attempts at a server that had a tunnel and answers no more: none is long
// after the one before, lest the server is back and not noticed, and there are few.
func TestADeadServerIsTriedSoonButNotOften(t *testing.T) {
	const (
		limit    = 3 * time.Second
		watching = 6 * time.Second
	)
	r := newRig(t)
	stop := start(t, r.server.Run)
	start(t, r.client.Run)
	r.connected(t)
	address := r.http.Listener.Addr().String()
	if err := r.http.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	dead, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	attempts := make(chan time.Time, 100)
	go func() {
		for {
			conn, err := dead.Accept()
			if err != nil {
				return
			}
			attempts <- time.Now()
			conn.Close()
		}
	}()
	last, n := time.Now(), 0
	stop()
	for end := time.After(watching); ; {
		select {
		case at := <-attempts:
			n++
			if gap := at.Sub(last); gap > limit {
				t.Errorf("the server was left alone for %v", gap)
			}
			last = at
			continue
		case <-end:
		}
		break
	}
	if gap := time.Since(last); gap > limit {
		t.Errorf("the server was left alone for %v", gap)
	}
	if n < 3 || n > 12 {
		t.Errorf("%d attempts in %v", n, watching)
	}
}
