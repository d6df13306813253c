package apiserver

import (
	"net/http"
	"strings"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/egressselector"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

// useSeams puts what the process gives into the configuration. An egress selector, upstream's own way to replace the
// network, is read from a file that can only name sockets (k8s.io/apiserver/pkg/server/egressselector/config.go); its two
// points of use are set here instead.
func (c *Component) useSeams(config *app.Config) {
	if dial := c.seams.NodeDial; dial != nil {
		to := utilnet.DialFunc(dial)
		// cmd/kube-apiserver/app/server.go:265: kubelets.
		config.KubeAPIs.Extra.KubeletClientConfig.Lookup = func(egressselector.NetworkContext) (utilnet.DialFunc, error) { return to, nil }
		// Webhooks (k8s.io/apiserver/pkg/util/webhook/authentication.go:94), aggregated APIs
		// (k8s.io/kube-aggregator/pkg/apiserver/apiserver.go:246) and the proxy subresources share this one transport.
		config.KubeAPIs.ControlPlane.Extra.ProxyTransport.DialContext = to
	}
	// The aggregator's chain is the first that sees a request (cmd/kube-apiserver/app/server.go:190).
	generic := &config.Aggregator.GenericConfig.Config
	build := generic.BuildHandlerChainFunc
	generic.BuildHandlerChainFunc = func(api http.Handler, config *genericapiserver.Config) http.Handler {
		chain := c.whenReady(build(api, config))
		if c.seams.Front != nil {
			chain = c.seams.Front(chain)
		}
		return chain
	}
}

// holdLimit is how long a caller is kept waiting for the API to be ready.
const holdLimit = 5 * time.Second

// whenReady keeps callers from the network waiting while the API starts. Upstream listens before its authorizer knows
// what RBAC says, and clients that were told "forbidden" at a restart come back late. Health is answered at once, and so
// is kube-apiserver itself, whose start waits for its own informers.
func (c *Component) whenReady(api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-c.up:
		default:
			if r.TLS != nil && !isLoopback(r) && !isHealth(r.URL.Path) {
				c.hold(r)
			}
		}
		api.ServeHTTP(w, r)
	})
}

func (c *Component) hold(r *http.Request) {
	limit := time.NewTimer(holdLimit)
	defer limit.Stop()
	select {
	case <-c.up:
	case <-limit.C:
	case <-r.Context().Done():
	}
}

// isLoopback tells kube-apiserver's client of itself by the server name that no other client asks for.
func isLoopback(r *http.Request) bool {
	return r.TLS.ServerName == genericapiserver.LoopbackClientServerNameOverride
}

func isHealth(path string) bool {
	for _, p := range []string{"/healthz", "/livez", "/readyz"} {
		if path == p || strings.HasPrefix(path, p+"/") {
			return true
		}
	}
	return false
}
