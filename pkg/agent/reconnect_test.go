package agent

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"

	"github.com/knarr-io/knarr/pkg/join"
	"github.com/knarr-io/knarr/pkg/loadbalancer"
	"github.com/knarr-io/knarr/pkg/tunnel"
)

// reconnectLimit is what is promised for an agent whose server has died.
const reconnectLimit = 3 * time.Second

// watched are the resources that the agent of these tests watches, by path, and their kinds.
func watched() map[string][2]string {
	return map[string][2]string{
		"/api/v1/pods": {"v1", "Pod"}, "/api/v1/services": {"v1", "Service"}, "/api/v1/nodes": {"v1", "Node"},
		"/api/v1/namespaces": {"v1", "Namespace"}, "/api/v1/configmaps": {"v1", "ConfigMap"}, "/api/v1/secrets": {"v1", "Secret"},
		"/apis/discovery.k8s.io/v1/endpointslices":   {"discovery.k8s.io/v1", "EndpointSlice"},
		"/apis/networking.k8s.io/v1/networkpolicies": {"networking.k8s.io/v1", "NetworkPolicy"},
		"/apis/storage.k8s.io/v1/csidrivers":         {"storage.k8s.io/v1", "CSIDriver"},
		"/apis/node.k8s.io/v1/runtimeclasses":        {"node.k8s.io/v1", "RuntimeClass"},
		"/apis/coordination.k8s.io/v1/leases":        {"coordination.k8s.io/v1", "Lease"},
		"/apis/scheduling.k8s.io/v1/priorityclasses": {"scheduling.k8s.io/v1", "PriorityClass"},
	}
}

// peer is a server: an API of which there is nothing but lists, which are empty, and watches, and the end of tunnels.
type peer struct {
	*httptest.Server
	tunnels  *tunnel.Server
	end      context.CancelFunc
	requests *atomic.Int64 // of all peers
	watches  atomic.Int64  // that are open
}

const peerNode = "192.0.2.7:10250"

func newPeer(t *testing.T, requests *atomic.Int64) *peer {
	t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.7"}}}}
	factory := informers.NewSharedInformerFactory(fake.NewClientset(node), 0)
	p := &peer{tunnels: tunnel.NewServer(func() informers.SharedInformerFactory { return factory }, slog.New(slog.DiscardHandler)), requests: requests}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.tunnels.Run(ctx, func() {}) }()
	p.end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	p.Server = httptest.NewUnstartedServer(p)
	p.EnableHTTP2 = true
	p.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	p.StartTLS()
	t.Cleanup(p.die)
	return p
}

// die is what a kill -9 looks like from outside: nobody listens any more, and all connections end.
func (p *peer) die() {
	_ = p.Listener.Close()
	p.end()
	p.CloseClientConnections()
}

func (p *peer) address() string { return p.Listener.Addr().String() }

func (p *peer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == join.PathTunnel {
		_ = p.tunnels.Serve(w, r, "n1") // how a session ended is no news
		return
	}
	p.requests.Add(1)
	kind, known := watched()[r.URL.Path]
	w.Header().Set("Content-Type", "application/json")
	switch {
	case !known:
		http.NotFound(w, r)
	case r.URL.Query().Get("watch") == "":
		fmt.Fprintf(w, `{"kind":"%sList","apiVersion":"%s","metadata":{"resourceVersion":"1"},"items":[]}`, kind[1], kind[0])
	default:
		p.watches.Add(1)
		defer p.watches.Add(-1)
		fmt.Fprintf(w, `{"type":"BOOKMARK","object":{"kind":"%s","apiVersion":"%s","metadata":{"resourceVersion":"1","annotations":{"%s":"true"}}}}`+"\n",
			kind[1], kind[0], metav1.InitialEventsAnnotationKey)
		if err := http.NewResponseController(w).Flush(); err == nil {
			<-r.Context().Done()
		}
	}
}

// soon waits for something, and returns how long it took.
func soon(t *testing.T, what string, limit time.Duration, is func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ; !is(); <-tick.C {
		if time.Since(began) > limit {
			t.Fatalf("no %s within %v", what, limit)
		}
	}
	return time.Since(began)
}

// TestAServerDies has an agent with the load balancer and the tunnels of a real one, and with client-go's informers, lose one
// of three servers after the other. It has its watches and its tunnels back in time, and asks for nothing twice.
func TestAServerDies(t *testing.T) {
	var requests atomic.Int64
	var peers []*peer
	var addresses []string
	for range 3 {
		p := newPeer(t, &requests)
		peers, addresses = append(peers, p), append(addresses, p.address())
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: peers[0].Certificate().Raw})
	log := slog.New(slog.DiscardHandler)
	port := freePort(t)
	lb := loadbalancer.New(loadbalancer.Config{Listen: port, Default: addresses[0], Servers: addresses}, log)
	m := &member{client: &join.Client{CA: ca}}
	tunnels := m.tunnels(lb, make(chan string, waitingServers), log)
	for _, run := range []func(context.Context, func()) error{lb.Run, tunnels.Run} {
		running(t, run)
	}
	follow(t, &rest.Config{Host: "https://" + port.String(), QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: ca}})

	for len(peers) > 1 {
		open := func() (n int64) {
			for _, p := range peers {
				n += p.watches.Load()
			}
			return n
		}
		all := int64(len(watched()))
		soon(t, "tunnels and watches", 10*time.Second, func() bool {
			for _, p := range peers {
				if !p.tunnels.Connected("n1") {
					return false
				}
			}
			return open() == all
		})
		steady(t) // client-go takes a watch that ends within a second of its beginning for a fault
		dying := used(peers)
		victim := peers[dying]
		peers = append(append([]*peer{}, peers[:dying]...), peers[dying+1:]...)
		before, began := requests.Load(), time.Now()
		victim.die()
		for _, p := range peers { // as for logs and exec
			conn, err := p.tunnels.DialContext(t.Context(), "tcp", peerNode)
			if err == nil {
				conn.Close()
			} else if !strings.Contains(err.Error(), "502") { // the agent has been asked, and has no such address
				t.Errorf("the tunnel to a server that lives does not work: %v", err)
			}
		}
		took := soon(t, "watches through another server", reconnectLimit, func() bool { return open() == all })
		steady(t)
		again := requests.Load() - before
		t.Logf("%d watches are back after %v, with %d requests in %v", all, took, again, time.Since(began).Round(time.Millisecond))
		if again > all+all/2 {
			t.Errorf("%d watches came back with %d requests", all, again)
		}
	}
}

// used is the server that has the watches.
func used(peers []*peer) int {
	for i, p := range peers {
		if p.watches.Load() > 0 {
			return i
		}
	}
	return 0
}

// steady lets a little more than a second pass.
func steady(t *testing.T) {
	t.Helper()
	timer := time.NewTimer(1200 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// follow watches all that is watched until the test ends.
func follow(t *testing.T, conf *rest.Config) {
	t.Helper()
	client, err := kubernetes.NewForConfig(conf)
	if err != nil {
		t.Fatal(err)
	}
	f := informers.NewSharedInformerFactory(client, 0)
	for _, i := range []interface{ HasSynced() bool }{
		f.Core().V1().Pods().Informer(), f.Core().V1().Services().Informer(), f.Core().V1().Nodes().Informer(), f.Core().V1().Namespaces().Informer(),
		f.Core().V1().ConfigMaps().Informer(), f.Core().V1().Secrets().Informer(), f.Discovery().V1().EndpointSlices().Informer(),
		f.Networking().V1().NetworkPolicies().Informer(), f.Storage().V1().CSIDrivers().Informer(), f.Node().V1().RuntimeClasses().Informer(),
		f.Coordination().V1().Leases().Informer(), f.Scheduling().V1().PriorityClasses().Informer(),
	} {
		if i.HasSynced() {
			t.Fatal("an informer has what it never asked for")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	f.StartWithContext(ctx)
	t.Cleanup(func() { cancel(); f.Shutdown() })
}

// running runs a component until the test ends.
func running(t *testing.T, run func(context.Context, func()) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-done:
		done <- nil
		t.Fatal(errors.Join(err, io.ErrUnexpectedEOF))
	}
}

// freePort is an address on which nobody listens.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}
