package config

import (
	"io/fs"
	"net/netip"
	"slices"
	"time"
)

// Server is the configuration of `knarr server`. It is a value: copies share
// nothing that can be changed. Fields hold what the user said or the default;
// what follows from several fields is a method (derive.go).
type Server struct {
	Common
	Listener   Listener
	Network    Network
	Kubeconfig Kubeconfig
	Args       ServerArgs
	Datastore  Datastore
	Backup     Backup
	Components Components
	// AgentToken is the secret that joins agents only; not set means that they
	// join with the token.
	AgentToken Secret
	// SystemRegistry is a registry that all of knarr's own images come from
	// instead of their own; "" for none. See [Server.SystemImage].
	SystemRegistry string
}

// Agent is the configuration of `knarr agent`.
type Agent struct{ Common }

// Common is what servers and agents have alike.
type Common struct {
	// ConfigFile is the absolute path of the configuration file, which may not
	// exist; ConfigFiles are the files that were read, in order of merging.
	ConfigFile  string
	ConfigFiles List[string]

	Logging Logging
	// DataDir is the absolute path of the data-dir.
	DataDir string
	// Token is the cluster's secret, from --token or the --token-file; not set
	// when neither was given.
	Token Secret
	// Join is how an agent, or a server that is not the first, finds its
	// cluster.
	Join     Join
	Node     Node
	Runtime  Runtime
	NodeArgs NodeArgs
	// Profiling serves pprof on the API's port.
	Profiling bool
	// Told are the settings shared by the members of a cluster that the user
	// gave, although for one who joins the cluster decides them; see
	// [Server.Shared].
	Told List[Setting]
}

// Join is the way of a machine to its cluster.
type Join struct {
	// Server is the URL of a server, https://HOST:PORT; "" on a server that
	// joins none.
	Server string
	// BalancerPort is the port on loopback at which the node's components reach
	// the servers.
	BalancerPort uint16
}

// Logging is what is logged and where to.
type Logging struct {
	// Debug logs knarr's own debug messages.
	Debug bool
	// Verbosity is klog's -v, for the parts that are upstream Kubernetes.
	Verbosity int
	// VModule is klog's -vmodule, PATTERN=LEVEL each.
	VModule List[string]
	// File is the absolute path of the log file; "" logs to standard error.
	File string
	// AlsoToStderr logs to standard error as well when File is set.
	AlsoToStderr bool
}

// Listener is where the API is reached.
type Listener struct {
	// BindAddress is where the API is served; not valid when not given. See
	// [Server.ListenAddress].
	BindAddress netip.Addr
	// Port is the TCP port of the API.
	Port uint16
	// AdvertiseAddress is the address other members reach the API at; not valid
	// when not given. See [Server.AdvertiseAddress].
	AdvertiseAddress netip.Addr
	// VirtualIP is an address that one of several servers has at any time; not
	// valid for none.
	VirtualIP netip.Addr
	// TLSSANs are more names and addresses for the API's certificate.
	TLSSANs List[string]
}

// Network is the cluster's network. The ranges are one or two, of different
// families; the first one's family is the primary one, the same in both lists.
type Network struct {
	ClusterCIDRs List[netip.Prefix]
	ServiceCIDRs List[netip.Prefix]
	// NodePorts is the range NodePort services take their ports from.
	NodePorts PortRange
	// DNS is empty when not given. See [Server.ClusterDNS].
	DNS List[netip.Addr]
	// Domain is the DNS domain of the cluster.
	Domain string
	// FlannelBackend is one of the Flannel constants.
	FlannelBackend string
	// FlannelIPv6Masquerade hides pods behind the node for IPv6, too.
	FlannelIPv6Masquerade bool
	// FlannelExternalIP has nodes send to each other's external addresses.
	FlannelExternalIP bool
}

// The values of [Network.FlannelBackend].
const (
	FlannelVXLAN  = "vxlan"
	FlannelHostGW = "host-gw"
	// FlannelWireGuard encrypts; the kernel has to have WireGuard.
	FlannelWireGuard = "wireguard-native"
	// FlannelNone leaves the pod network to the user.
	FlannelNone = "none"
)

// Kubeconfig is the administrator's kubeconfig that the server writes.
type Kubeconfig struct {
	Path string
	Mode fs.FileMode
	// Group is a name or a number; "" leaves the group alone.
	Group string
}

// ServerArgs are the user's extra arguments of the control plane, each
// "key=value" or "key", without leading dashes, in the order given (see
// [SplitArg]).
type ServerArgs struct {
	APIServer         List[string]
	ControllerManager List[string]
	Scheduler         List[string]
	// Etcd is for the embedded etcd.
	Etcd List[string]
}

// NodeArgs are the user's extra arguments of what runs on every node, as in
// [ServerArgs].
type NodeArgs struct {
	Kubelet   List[string]
	KubeProxy List[string]
}

// Datastore says where the cluster's state is.
type Datastore struct {
	// Endpoint is an address, which may hold a password; not set means the
	// SQLite database in the data-dir.
	Endpoint Secret
	// CAFile, CertFile and KeyFile are absolute paths, "" when not given.
	CAFile   string
	CertFile string
	KeyFile  string
	// ClusterInit begins an embedded etcd. A server that has one goes on with
	// it without.
	ClusterInit bool
	// ClusterReset makes an etcd cluster of this server alone, with the backup
	// ClusterResetRestore if that is not empty.
	ClusterReset        bool
	ClusterResetRestore string
	// ExposeMetrics serves the metrics of the embedded etcd.
	ExposeMetrics bool
}

// Backup says when backups are made and where they go.
type Backup struct {
	// Schedule is a cron expression, in local time.
	Schedule string
	// Scheduled is false when the schedule does not count.
	Scheduled bool
	// BeforeUpgrade makes a backup before another version first uses the data.
	BeforeUpgrade bool
	// Retention is how many stay, at least one.
	Retention int
	// Dir is an absolute path; "" when not given. See [Server.BackupDir].
	Dir string
	// Name is what the names of backups begin with.
	Name string
	// Compression is fast, default, better or best.
	Compression string
	// Passphrase encrypts them; not set means that they are not encrypted.
	Passphrase Secret
	S3         BackupS3
}

// BackupS3 is where in an S3 service backups are kept. Without keys, those of
// the environment or of the machine are used, as AWS's tools do.
type BackupS3 struct {
	Enabled bool
	// Endpoint is HOST or HOST:PORT.
	Endpoint string
	// CAFile is an absolute path, "" for the system's CAs.
	CAFile                             string
	SkipVerify, Insecure               bool
	Bucket, Lookup, Folder, Region     string
	AccessKey, SecretKey, SessionToken Secret
	// Retention is how many stay there, at least one.
	Retention int
	// Proxy is a URL, which may hold a password; not set for the environment's.
	Proxy Secret
	// Timeout bounds each exchange.
	Timeout time.Duration
	// ConfigSecret is a Secret in kube-system that says all of the above; ""
	// when that is said here.
	ConfigSecret string
}

// Components says what runs besides the API.
type Components struct {
	Scheduler       bool
	CloudController bool
	KubeProxy       bool
	NetworkPolicy   bool
	HelmController  bool
	// APIServer, ControllerManager and Etcd are the roles that servers can
	// share out among them.
	APIServer         bool
	ControllerManager bool
	Etcd              bool
	// Agent is the node beside the control plane.
	Agent bool
	// LocalStorage is the absolute path where nodes keep local volumes; "" for
	// the place in each node's data-dir.
	LocalStorage string
	// Disabled are names out of [PackagedComponents].
	Disabled List[string]
	// AlwaysOn are names out of [RestingComponents].
	AlwaysOn List[string]
	// RestAfter is how long a component goes on running after its last use.
	RestAfter time.Duration
}

// Packaged tells whether the packaged component name is to run.
func (c Components) Packaged(name string) bool { return !slices.Contains(c.Disabled.Slice(), name) }

// Node is what the node is called and how it looks to the cluster.
type Node struct {
	// Name is --node-name or the host's name, in lower case. See
	// [Common.NodeName] for the name to register under.
	Name string
	// WithID appends the node's id to the name.
	WithID bool
	// IPs and ExternalIPs are at most one of each family; empty means that the
	// host's own addresses are to be found out.
	IPs         List[netip.Addr]
	ExternalIPs List[netip.Addr]
	Labels      List[Label]
	Taints      List[Taint]
	// ResolvConf is the kubelet's resolv.conf; "" means to choose one.
	ResolvConf string
	// FlannelIface is the network interface between nodes; "" means the one
	// that holds the node's address.
	FlannelIface string
	// FlannelConf and FlannelCNIConf are files with options of the backend
	// and a CNI plugin list in place of the generated one; "" for none.
	FlannelConf    string
	FlannelCNIConf string
	// ProtectKernelDefaults makes the kubelet fail where kernel settings are
	// not as it wants them, in place of changing them.
	ProtectKernelDefaults bool
	// CredentialBinDir and CredentialConfig are the kubelet's image credential
	// providers; both "" when there are none.
	CredentialBinDir string
	CredentialConfig string
	// PreferBundledBin puts the bundled nft and iptables before the host's.
	PreferBundledBin bool
}

// Runtime is what runs containers.
type Runtime struct {
	// Endpoint is the CRI socket of a runtime of the user's, as unix://PATH;
	// "" means the containerd inside.
	Endpoint string
	// ImageEndpoint is the CRI socket for images; "" means that of Endpoint.
	ImageEndpoint string
	// DefaultRuntime is the name of containerd's default runtime.
	DefaultRuntime string
	// Snapshotter is the name of containerd's snapshotter.
	Snapshotter string
	// PauseImage is the full name of the user's sandbox image; "" means the
	// bundled one, by way of [Server.SystemImage].
	PauseImage string
	// PrivateRegistry is the path of registries.yaml, which need not exist
	// unless it was named.
	PrivateRegistry string
	// DefaultRegistryEndpoint tries a registry itself after its mirrors.
	DefaultRegistryEndpoint bool
	// NonrootDevices gives a container's devices to its user.
	NonrootDevices bool
	// SELinux labels containers.
	SELinux bool
}

// Label is one label of the node.
type Label struct{ Key, Value string }

// String is key=value.
func (l Label) String() string { return l.Key + "=" + l.Value }

// Taint is one taint of the node; Effect is NoSchedule, PreferNoSchedule or
// NoExecute.
type Taint struct{ Key, Value, Effect string }

// String is key=value:effect, as the kubelet's --register-with-taints has it.
func (t Taint) String() string { return t.Key + "=" + t.Value + ":" + t.Effect }

// PortRange is a range of ports, both ends included.
type PortRange struct{ First, Last uint16 }
