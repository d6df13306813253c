// Package pki owns every key and certificate of a knarr server: the three
// certificate authorities, the leaf certificates they sign, the key that signs
// service account tokens, and the kubeconfigs that point at them.
//
// What exists is written down in three tables (table.go) and one key; Ensure
// runs one loop over each table and makes the files match: it creates what is
// missing, keeps what is valid, and issues anew what expires soon, is damaged,
// or no longer matches the configuration. A certificate authority is created
// only where there was none; a damaged one is reported and never replaced,
// because every node and every kubeconfig trusts it.
//
// On a server, SignNode answers the signing requests of agents; on an agent,
// EnsureJoined looks after the node's own certificates with an authority that
// is elsewhere. The package speaks to nobody itself: it is not a client of the
// API, and carries no request to a server. It does not decide what may be overridden, and it reads no user
// configuration: Config is data the caller fills in.
//
// Nothing here runs by itself except a Renewer, which calls Ensure once a day
// and stops when its context is cancelled. ReloadingCertificate starts no
// goroutine: it looks at the files when a client connects.
package pki

import (
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"strings"
	"time"
)

const (
	// CALifetime is the life of a certificate authority made by Ensure (ten
	// years, as k3s). It is never renewed by itself.
	CALifetime = 3650 * 24 * time.Hour

	// DefaultLeafLifetime is the life of a leaf certificate.
	DefaultLeafLifetime = 365 * 24 * time.Hour

	// DefaultRenewBefore is the remaining life below which a leaf certificate
	// is issued anew, both at start and by a running Renewer.
	DefaultRenewBefore = 120 * 24 * time.Hour

	// RequestHeaderUser is the only common name that kube-apiserver may accept
	// on the request-header CA: --requestheader-allowed-names. Without it
	// kube-apiserver refuses to start when that CA and the client CA share a
	// certificate (kubernetes v1.37.1 pkg/kubeapiserver/options/authentication.go:307-319).
	RequestHeaderUser = "system:auth-proxy"
)

// The users that the client certificates authenticate as and that are bound
// to no role by upstream's bootstrap policy: whoever starts their controllers
// must create the bindings.
const (
	UserController      = "system:knarr-controller"
	UserCloudController = "knarr-cloud-controller-manager"
)

// Config says what to make. It is data: no defaults are read from elsewhere.
type Config struct {
	// DataDir is the root of knarr's state, normally /var/lib/knarr. Absolute,
	// because kubeconfigs name the files below it.
	DataDir string

	// Agent is true where a kubelet runs beside the server: it adds the rows of
	// the tables that live under DataDir/agent.
	Agent bool

	// Joined is true on an agent: the keys of the authorities are on the
	// servers, and the tables shrink to what a node needs. See EnsureJoined.
	Joined bool
	// Etcd is true where a member of the etcd cluster runs in the server: it
	// adds the certificates below DataDir/server/tls/etcd.
	Etcd bool

	// NodeName is the name of this machine's Node object.
	NodeName string
	// NodeIPs are the addresses of this node, internal and external.
	NodeIPs []netip.Addr
	// AdvertiseAddress is the address kube-apiserver announces; the zero value
	// adds nothing.
	AdvertiseAddress netip.Addr
	// ServiceCIDRs are the service ranges, one per address family: the first
	// address of each is the cluster address of the kubernetes Service.
	ServiceCIDRs []netip.Prefix
	// ClusterDomain is the DNS domain of the cluster, normally cluster.local.
	ClusterDomain string
	// ExtraSANs are the host names and addresses of --tls-san.
	ExtraSANs []string

	// ServerURL is where this machine's own clients reach kube-apiserver,
	// normally https://127.0.0.1:6443; it goes into the kubeconfigs of the
	// control plane and of the administrator.
	ServerURL string
	// AgentServerURL is the same for kubelet and kube-proxy, whose way leads
	// through the client-side load balancer on an agent. Empty means ServerURL.
	AgentServerURL string

	// Admin is the kubeconfig for people, which carries its certificates inside
	// so that it can be copied to another machine.
	Admin AdminKubeconfig

	// LeafLifetime and RenewBefore default to DefaultLeafLifetime and
	// DefaultRenewBefore when zero. RenewBefore counts for at most a third of
	// LeafLifetime, so that a short life does not mean a renewal at each check.
	LeafLifetime time.Duration
	RenewBefore  time.Duration
}

// AdminKubeconfig says where the administrator's kubeconfig goes and who may
// read it.
type AdminKubeconfig struct {
	// Path is normally /etc/knarr/knarr.yaml; empty writes none.
	Path string
	// Mode defaults to 0600 when zero.
	Mode fs.FileMode
	// Group is a group name or number that owns the file; empty leaves it alone.
	Group string
}

// Validate reports all that is wrong with c, without looking at any file.
func (c Config) Validate() error {
	var wrong []string
	if !filepath.IsAbs(c.DataDir) {
		wrong = append(wrong, fmt.Sprintf("data directory %q is not an absolute path", c.DataDir))
	}
	if c.ServerURL == "" {
		wrong = append(wrong, "the server URL is empty")
	}
	if c.ClusterDomain == "" {
		wrong = append(wrong, "the cluster domain is empty")
	}
	if c.Agent && c.NodeName == "" {
		wrong = append(wrong, "the node name is empty")
	}
	if p := c.Admin.Path; p != "" && !filepath.IsAbs(p) {
		wrong = append(wrong, fmt.Sprintf("admin kubeconfig %q is not an absolute path", p))
	}
	for _, san := range c.ExtraSANs {
		if err := checkSAN(san); err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("certificate configuration: %s", strings.Join(wrong, "; "))
	}
	return nil
}

func (c Config) leafLifetime() time.Duration {
	if c.LeafLifetime > 0 {
		return c.LeafLifetime
	}
	return DefaultLeafLifetime
}

func (c Config) renewBefore() time.Duration {
	before := c.RenewBefore
	if before <= 0 {
		before = DefaultRenewBefore
	}
	return min(before, c.leafLifetime()/3)
}

func (c Config) agentServerURL() string {
	if c.AgentServerURL != "" {
		return c.AgentServerURL
	}
	return c.ServerURL
}
