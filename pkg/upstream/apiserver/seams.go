package apiserver

import (
	"net/http"

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
	if front := c.seams.Front; front != nil {
		// The aggregator's chain is the first that sees a request (cmd/kube-apiserver/app/server.go:190).
		generic := &config.Aggregator.GenericConfig.Config
		build := generic.BuildHandlerChainFunc
		generic.BuildHandlerChainFunc = func(api http.Handler, c *genericapiserver.Config) http.Handler { return front(build(api, c)) }
	}
}
