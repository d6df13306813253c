package kubelet

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/tracing"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	"k8s.io/kubernetes/pkg/kubelet"
)

// useClients gives the kubelet its three clients, as server.go:705-746 makes them from a kubeconfig. Like there, the
// kubelet itself does nothing when heartbeats fail: HTTP/2 finds out by itself that a connection is dead.
func (c *Component) useClients(deps *kubelet.Dependencies, server *options.KubeletServer) error {
	config, err := c.client()
	if err != nil {
		return err
	}
	config = rest.CopyConfig(config)
	registering := newRegistering(server.RegisterNode)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return registering.before(patient{next}) })
	if server.Tracing != nil {
		config.Wrap(tracing.WrapperFor(deps.TracerProvider))
	}
	events, beats := rest.CopyConfig(config), rest.CopyConfig(config)
	if config.QPS == 0 { // the connection has no limit of its own
		config.QPS, config.Burst = float32(server.KubeAPIQPS), int(server.KubeAPIBurst)
		events.QPS, events.Burst = float32(server.EventRecordQPS), int(server.EventBurst)
		if events.QPS == 0 {
			events.QPS = -1
		}
		beats.QPS = -1
	}
	beats.Timeout = min(server.NodeStatusUpdateFrequency.Duration, time.Duration(server.NodeLeaseDurationSeconds)*time.Second)
	clients := make([]*kubernetes.Clientset, 3)
	for i, config := range []*rest.Config{config, events, beats} {
		if clients[i], err = kubernetes.NewForConfig(config); err != nil {
			return fmt.Errorf("make a client of the kubelet: %w", err)
		}
	}
	deps.KubeClient, deps.EventClient, deps.HeartbeatClient = clients[0], clients[1].CoreV1(), clients[2]
	deps.OnHeartbeatFailure = c.config.HeartbeatsFail
	return nil
}

// registering keeps questions for a CSINode waiting until the kubelet has registered its Node. Upstream asks while it
// registers, and makes the CSINode when it is answered, which fails without a Node: it tries again 0.03, 0.3, 2, 17 and
// 140 s later (pkg/volume/csi/csi_plugin.go:367), and calls the node ready only after that. To register takes a small
// machine seconds.
type registering struct {
	done chan struct{}
	end  func()
}

// newRegistering is for a kubelet that registers its Node, or leaves that to others.
func newRegistering(itself bool) *registering {
	r := &registering{done: make(chan struct{})}
	r.end = sync.OnceFunc(func() { close(r.done) })
	if !itself {
		r.end()
	}
	return r
}

func (r *registering) before(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		if req.Method == http.MethodGet && strings.HasPrefix(req.URL.Path, "/apis/storage.k8s.io/v1/csinodes/") {
			select {
			case <-r.done:
			case <-req.Context().Done():
				return nil, req.Context().Err()
			}
		}
		resp, err := next.RoundTrip(req)
		if err == nil && req.Method == http.MethodPost && req.URL.Path == "/api/v1/nodes" &&
			(resp.StatusCode == http.StatusCreated || resp.StatusCode == http.StatusConflict) { // it was there already
			r.end()
		}
		return resp, err
	})
}

// roundTripper is a function as an [http.RoundTripper].
type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip calls the function.
func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }
