// Package apiserver runs upstream's kube-apiserver, unpatched, as a component of the process.
//
// It adds one thing to upstream: callers in the same process reach the API without sockets or TLS, under an identity
// that the process asserts (see [Component.ClientConfig]); RBAC decides about them as about anybody.
//
// It stops when its context ends: upstream drains the requests under way, then the listener closes.
package apiserver

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/knarr-io/knarr/pkg/upstream/argv"
)

// Config is what one kube-apiserver needs to know. All paths are absolute.
type Config struct {
	BindAddress      netip.Addr
	Port             int
	AdvertiseAddress netip.Addr // zero: upstream finds the host's own
	ServiceCIDRs     []netip.Prefix
	NodePortRange    string // "30000-32767"
	ClusterDomain    string

	CertDir                               string // where upstream may write self-signed certificates; unused while TLSCert is set
	TLSCert, TLSKey                       string
	ClientCA                              string
	RequestHeaderCA                       string
	ProxyClientCert, ProxyClientKey       string
	KubeletCA                             string
	KubeletClientCert, KubeletClientKey   string
	ServiceAccountKey                     string // signs tokens
	ServiceAccountPublicKey               string // verifies them
	EtcdEndpoints                         []string
	EtcdCA, EtcdClientCert, EtcdClientKey string

	// Alone says that there is no other kube-apiserver, so that nothing is written every ten seconds to tell others where
	// this one is.
	Alone bool
	// EnableProfiling serves /debug/pprof on the API's port.
	EnableProfiling bool
	// ExtraArgs are the user's, "name=value"; they win.
	ExtraArgs []string
}

// Args is the argument list, the user's last.
func (c Config) Args() []string {
	advertise := ""
	if c.AdvertiseAddress.IsValid() {
		advertise = c.AdvertiseAddress.String()
	}
	reconciler, gates := "", ""
	if c.Alone {
		// By leases in the datastore an API server that died is found out by the others, and peers find each other to proxy
		// requests of other versions. The count of one writes the address once.
		reconciler, gates = "master-count", "UnknownVersionInteroperabilityProxy=false"
	}
	return argv.List{}.With(
		"advertise-address", advertise,
		"bind-address", c.BindAddress.String(),
		"secure-port", strconv.Itoa(c.Port),
		"cert-dir", c.CertDir,
		"tls-cert-file", c.TLSCert,
		"tls-private-key-file", c.TLSKey,
		"etcd-servers", strings.Join(c.EtcdEndpoints, ","),
		"etcd-cafile", c.EtcdCA,
		"etcd-certfile", c.EtcdClientCert,
		"etcd-keyfile", c.EtcdClientKey,
		"service-cluster-ip-range", argv.Join(c.ServiceCIDRs),
		"service-node-port-range", c.NodePortRange,
		// Who is there: certificates, service accounts, bootstrap tokens, front proxies; nobody anonymously.
		"anonymous-auth", "false",
		"client-ca-file", c.ClientCA,
		"enable-bootstrap-token-auth", "true",
		"requestheader-client-ca-file", c.RequestHeaderCA,
		"requestheader-allowed-names", "system:auth-proxy",
		"requestheader-extra-headers-prefix", "X-Remote-Extra-",
		"requestheader-group-headers", "X-Remote-Group",
		"requestheader-username-headers", "X-Remote-User",
		"proxy-client-cert-file", c.ProxyClientCert,
		"proxy-client-key-file", c.ProxyClientKey,
		"service-account-issuer", "https://kubernetes.default.svc."+c.ClusterDomain,
		"service-account-key-file", c.ServiceAccountPublicKey,
		"service-account-signing-key-file", c.ServiceAccountKey,
		"api-audiences", "https://kubernetes.default.svc."+c.ClusterDomain+",knarr",
		// What they may do.
		"authorization-mode", "Node,RBAC",
		"enable-admission-plugins", "NodeRestriction",
		"allow-privileged", "true",
		// How it reaches nodes and aggregated APIs: endpoints directly, since the server may run no kube-proxy.
		"enable-aggregator-routing", "true",
		"kubelet-certificate-authority", c.KubeletCA,
		"kubelet-client-certificate", c.KubeletClientCert,
		"kubelet-client-key", c.KubeletClientKey,
		"kubelet-preferred-address-types", "InternalIP,ExternalIP,Hostname",
		"endpoint-reconciler-type", reconciler,
		"feature-gates", gates,
		"profiling", strconv.FormatBool(c.EnableProfiling),
	).Merge(c.ExtraArgs)
}
