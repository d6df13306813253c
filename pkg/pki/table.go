package pki

import "path/filepath"

// CA names a certificate authority.
type CA int

// The certificate authorities, each a row of the CA table.
const (
	ServerCA CA = iota
	ClientCA
	RequestHeaderCA
	EtcdServerCA
	EtcdPeerCA
	numCAs
)

// Leaf names a certificate signed by one of the authorities.
type Leaf int

// The leaf certificates, each a row of the leaf table.
const (
	APIServerServing Leaf = iota
	APIServerKubeletClient
	AuthProxyClient
	AdminClient
	ControllerManagerClient
	SchedulerClient
	CloudControllerClient
	SupervisorClient
	ControllerClient
	KubeProxyClient
	KubeletClient
	KubeletServing
	AgentControllerClient
	EtcdServer
	EtcdPeer
	EtcdClient
	numLeaves
)

// Kubeconfig names a kubeconfig file.
type Kubeconfig int

// The kubeconfigs, each a row of the kubeconfig table.
const (
	AdminFile Kubeconfig = iota // Config.Admin.Path, for people
	AdminKubeconfigFile
	ControllerManagerKubeconfig
	SchedulerKubeconfig
	CloudControllerKubeconfig
	SupervisorKubeconfig
	ControllerKubeconfig
	KubeletKubeconfig
	KubeProxyKubeconfig
	numKubeconfigs
)

// place is the machine role that a row belongs to.
type place int

const (
	onServer place = iota
	onAgent        // on every node, a server's own too
	onJoined       // on a node without a server
	onEtcd         // a server that is a member of the etcd cluster
)

// planned reports whether a row belongs on the machine of c.
func (p place) planned(c Config) bool {
	switch p {
	case onServer:
		return !c.Joined
	case onAgent:
		return c.Agent || c.Joined
	case onEtcd:
		return c.Etcd
	default:
		return c.Joined
	}
}

// caRow describes one certificate authority. Paths are below Config.DataDir,
// without the .crt and .key they get.
type caRow struct {
	name string // also the start of the subject: knarr-<name>@<unix time>
	file string
	// copyTo is where an agent expects the certificate, without its key.
	copyTo string
}

func caTable() [numCAs]caRow {
	return [numCAs]caRow{
		ServerCA:        {"server-ca", "server/tls/server-ca", "agent/server-ca.crt"},
		ClientCA:        {"client-ca", "server/tls/client-ca", "agent/client-ca.crt"},
		RequestHeaderCA: {"request-header-ca", "server/tls/request-header-ca", ""},
		EtcdServerCA:    {"etcd-server-ca", "server/tls/etcd/server-ca", ""},
		EtcdPeerCA:      {"etcd-peer-ca", "server/tls/etcd/peer-ca", ""},
	}
}

// leafRow describes one leaf certificate. A row with names serves TLS, one
// without authenticates a client; etcd's peers do both.
type leafRow struct {
	name    string
	service string // the name `knarr certificate rotate --service` knows it by
	place   place
	file    string
	ca      CA
	user    string // common name; %s stands for the node name
	groups  []string
	names   func(Config) []string
}

const mastersGroup = "system:masters" // every permission, without RBAC

func leafTable() [numLeaves]leafRow {
	masters := []string{mastersGroup}
	return [numLeaves]leafRow{
		APIServerServing:        {"kube-apiserver serving", "api-server", onServer, "server/tls/serving-kube-apiserver", ServerCA, "kube-apiserver", nil, apiServerNames},
		APIServerKubeletClient:  {"kube-apiserver to kubelet", "api-server", onServer, "server/tls/client-kube-apiserver", ClientCA, "system:apiserver", masters, nil},
		AuthProxyClient:         {"auth-proxy", "auth-proxy", onServer, "server/tls/client-auth-proxy", RequestHeaderCA, RequestHeaderUser, nil, nil},
		AdminClient:             {"admin", "admin", onServer, "server/tls/client-admin", ClientCA, "system:admin", masters, nil},
		ControllerManagerClient: {"kube-controller-manager", "controller-manager", onServer, "server/tls/client-controller", ClientCA, "system:kube-controller-manager", nil, nil},
		SchedulerClient:         {"kube-scheduler", "scheduler", onServer, "server/tls/client-scheduler", ClientCA, "system:kube-scheduler", nil, nil},
		CloudControllerClient:   {"cloud-controller-manager", "cloud-controller", onServer, "server/tls/client-knarr-cloud-controller", ClientCA, UserCloudController, nil, nil},
		SupervisorClient:        {"supervisor", "knarr-server", onServer, "server/tls/client-supervisor", ClientCA, "system:knarr-supervisor", masters, nil},
		ControllerClient:        {"controllers", "knarr-controller", onServer, "server/tls/client-knarr-controller", ClientCA, UserController, nil, nil},
		KubeProxyClient:         {"kube-proxy", "kube-proxy", onAgent, "agent/client-kube-proxy", ClientCA, "system:kube-proxy", nil, nil},
		KubeletClient:           {"kubelet", "kubelet", onAgent, "agent/client-kubelet", ClientCA, "system:node:%s", []string{"system:nodes"}, nil},
		KubeletServing:          {"kubelet serving", "kubelet", onAgent, "agent/serving-kubelet", ServerCA, "%s", nil, kubeletNames},
		AgentControllerClient:   {"controllers", "knarr-controller", onJoined, "agent/client-knarr-controller", ClientCA, UserController, nil, nil},
		EtcdServer:              {"etcd serving", "etcd", onEtcd, "server/tls/etcd/server-client", EtcdServerCA, "%s", nil, kubeletNames},
		EtcdPeer:                {"etcd peer", "etcd", onEtcd, "server/tls/etcd/peer-server-client", EtcdPeerCA, "%s", nil, kubeletNames},
		EtcdClient:              {"etcd client", "etcd", onEtcd, "server/tls/etcd/client", EtcdServerCA, "knarr-etcd-client", nil, nil},
	}
}

// kubeconfigRow describes one kubeconfig. Those for components name files,
// which client-go reads again by itself; the one for people holds the
// certificates inside.
type kubeconfigRow struct {
	name     string
	place    place
	file     string // below Config.DataDir; empty: Config.Admin.Path
	user     Leaf
	embedded bool
}

func kubeconfigTable() [numKubeconfigs]kubeconfigRow {
	return [numKubeconfigs]kubeconfigRow{
		AdminFile:                   {"admin", onServer, "", AdminClient, true},
		AdminKubeconfigFile:         {"admin", onServer, "server/cred/admin.kubeconfig", AdminClient, false},
		ControllerManagerKubeconfig: {"kube-controller-manager", onServer, "server/cred/controller.kubeconfig", ControllerManagerClient, false},
		SchedulerKubeconfig:         {"kube-scheduler", onServer, "server/cred/scheduler.kubeconfig", SchedulerClient, false},
		CloudControllerKubeconfig:   {"cloud-controller-manager", onServer, "server/cred/cloud-controller.kubeconfig", CloudControllerClient, false},
		SupervisorKubeconfig:        {"supervisor", onServer, "server/cred/supervisor.kubeconfig", SupervisorClient, false},
		ControllerKubeconfig:        {"controllers", onServer, "server/cred/knarr-controller.kubeconfig", ControllerClient, false},
		KubeletKubeconfig:           {"kubelet", onAgent, "agent/kubelet.kubeconfig", KubeletClient, false},
		KubeProxyKubeconfig:         {"kube-proxy", onAgent, "agent/kubeproxy.kubeconfig", KubeProxyClient, false},
	}
}

// serviceKeyFile holds the key that signs service account tokens; further
// private or public keys in it only verify (kubernetes v1.37.1
// pkg/controlplane/apiserver/options/options.go:307-308 signs with the first,
// pkg/kubeapiserver/options/authentication.go:626 verifies with all).
const serviceKeyFile = "server/tls/service.key"

// Pair is a certificate file and its private key.
type Pair struct {
	Cert string
	Key  string
}

func (c Config) pair(file string) Pair {
	base := filepath.Join(c.DataDir, file)
	return Pair{Cert: base + ".crt", Key: base + ".key"}
}

// CAPair returns the absolute paths of a certificate authority.
func (c Config) CAPair(ca CA) Pair { return c.pair(caTable()[ca].file) }

// AgentCA returns the absolute path of the certificate of ca for components
// of the agent, which have no access to the server's directory.
func (c Config) AgentCA(ca CA) string {
	if to := caTable()[ca].copyTo; to != "" {
		return filepath.Join(c.DataDir, to)
	}
	return c.CAPair(ca).Cert
}

// LeafPair returns the absolute paths of a leaf certificate.
func (c Config) LeafPair(l Leaf) Pair { return c.pair(leafTable()[l].file) }

// KubeconfigPath returns the absolute path of a kubeconfig.
func (c Config) KubeconfigPath(k Kubeconfig) string {
	if f := kubeconfigTable()[k].file; f != "" {
		return filepath.Join(c.DataDir, f)
	}
	return c.Admin.Path
}

// ServiceKey returns the absolute path of the service account signing key.
func (c Config) ServiceKey() string { return filepath.Join(c.DataDir, serviceKeyFile) }

// SharedFiles lists, relative to the data directory, what every server of a
// cluster must hold in common: the certificate authorities and the service
// account key. All else is made from them.
func SharedFiles() []string {
	var files []string
	for _, row := range caTable() {
		files = append(files, row.file+".crt", row.file+".key")
	}
	return append(files, serviceKeyFile)
}

// Services lists the names that Rotate takes, in the order of the table.
func Services() []string {
	var names []string
	seen := map[string]bool{}
	for _, row := range leafTable() {
		if !seen[row.service] {
			seen[row.service] = true
			names = append(names, row.service)
		}
	}
	return names
}
