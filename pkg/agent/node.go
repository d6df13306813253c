// Package agent is what runs on every node: container runtime, kubelet, kube-proxy, pod network. [AddNode] maps a node's
// configuration to components and their order; a server adds them beside its control plane.
//
// It contains no logic of its own: what a component does is in its package.
package agent

import (
	"cmp"
	"net/netip"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"

	"github.com/knarr-io/knarr/pkg/bundle"
	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/controllers/netpol"
	"github.com/knarr-io/knarr/pkg/datadir"
	"github.com/knarr-io/knarr/pkg/pki"
	"github.com/knarr-io/knarr/pkg/registry"
	"github.com/knarr-io/knarr/pkg/resolver"
	"github.com/knarr-io/knarr/pkg/upstream/containerd"
	"github.com/knarr-io/knarr/pkg/upstream/containerd/images"
	"github.com/knarr-io/knarr/pkg/upstream/flannel"
	"github.com/knarr-io/knarr/pkg/upstream/host"
	"github.com/knarr-io/knarr/pkg/upstream/kubelet"
	"github.com/knarr-io/knarr/pkg/upstream/kubeproxy"
)

// kubeletRoot cannot be moved: CSI drivers and other tools on the node know it.
const kubeletRoot = "/var/lib/kubelet"

const (
	// OOMScoreAdj is what upstream gives kubelet and kube-proxy (pkg/kubelet/qos/policy.go:30); the process has one.
	OOMScoreAdj = -999
	// maxOpenFiles is the kubelet's default (pkg/kubelet/apis/config/v1beta1/defaults.go).
	maxOpenFiles = 1_000_000
)

// Node is all that the components of one node are configured from.
type Node struct {
	config.Common
	Cluster Cluster
	Name    string // as registered
	Host    host.Host
	// IPs are this node's internal addresses, at most one for each family.
	IPs []netip.Addr
	// Roles are the node's, such as control-plane; an agent may not claim any.
	Roles []string
	// Offline is whether no server could be reached at the start.
	Offline bool
	Dir     datadir.Dir
	Run     datadir.Run
	Keys    pki.Config
}

// Cluster is what all nodes of a cluster must agree on.
type Cluster struct {
	Network   config.Network
	DNS       []netip.Addr
	KubeProxy bool
	// NetworkPolicy has policies enforced.
	NetworkPolicy bool
	// PauseImage is the full name of the sandbox image.
	PauseImage string
	// ServiceLB is whether Services get the addresses of nodes.
	ServiceLB bool
	// Ingress is whether nodes have the ingress controller's program.
	Ingress bool
	// LocalStorage makes directories into volumes, in LocalStoragePath, or in the node's data-dir when that is "".
	LocalStorage     bool
	LocalStoragePath string
}

func (n Node) helpers() bundle.Layout { return bundle.Current(n.Dir.Helpers()) }

// cni are the directories of CNI plugins and of the pod network's configuration. A network that the user brings finds what
// it expects on any node: the manifests of all of them write to these two.
func (n Node) cni() (plugins []string, networks string) {
	plugins, networks = []string{n.helpers().CNI}, n.Dir.CNIConfig()
	if n.Cluster.Network.FlannelBackend == config.FlannelNone {
		plugins, networks = append(plugins, "/opt/cni/bin"), "/etc/cni/net.d"
	}
	return plugins, networks
}

// proxyMode is nftables where the kernel has it.
func (n Node) proxyMode() string {
	if n.Host.NFTables {
		return "nftables"
	}
	return "iptables"
}

func (n Node) containerd() containerd.Config {
	helpers := n.helpers()
	plugins, networks := n.cni()
	return containerd.Config{
		ConfigFile:       n.Dir.ContainerdConfig(),
		DropIns:          filepath.Join(filepath.Dir(n.Dir.ContainerdConfig()), "conf.d", "*.toml"),
		Root:             n.Dir.Containerd(),
		State:            n.Run.Containerd(),
		Address:          n.Run.ContainerdSocket(),
		Snapshotter:      n.Runtime.Snapshotter,
		DefaultRuntime:   n.Runtime.DefaultRuntime,
		PauseImage:       n.Cluster.PauseImage,
		Shim:             helpers.Bin + "/containerd-shim-runc-v2",
		Runc:             helpers.Bin + "/runc",
		RuncState:        filepath.Join(n.Run.Root(), "runc"),
		Runtimes:         n.Host.Runtimes,
		CNIBins:          plugins,
		CNIConfig:        networks,
		RegistryConfig:   n.Dir.RegistryConfig(),
		SystemdCgroups:   n.Host.SystemdCgroups,
		RestrictOOMScore: !n.Host.SysResource || n.Host.UserNamespace,
		DisableHugetlb:   !n.Host.HasController("hugetlb"),
		DisableApparmor:  !n.Host.AppArmor,
		SELinux:          n.Runtime.SELinux,
		NonrootDevices:   n.Runtime.NonrootDevices,
	}
}

func (n Node) registries() registry.Options {
	return registry.Options{
		File:      n.Runtime.PrivateRegistry,
		Dir:       n.Dir.RegistryConfig(),
		NoDefault: !n.Runtime.DefaultRegistryEndpoint,
	}
}

func (n Node) images() images.Config {
	return images.Config{
		Address:     n.Run.ContainerdSocket(),
		Snapshotter: n.Runtime.Snapshotter,
		Dir:         n.Dir.Images(),
		Record:      filepath.Join(n.Dir.Agent(), "images.json"),
	}
}

func (n Node) kubelet() kubelet.Config {
	c := kubelet.Config{
		NodeName:              n.Name,
		NodeIPs:               n.IPs,
		Kubeconfig:            n.Dir.KubeletKubeconfig(),
		ClientCA:              n.Keys.AgentCA(pki.ClientCA),
		ServingCert:           n.Keys.LeafPair(pki.KubeletServing).Cert,
		ServingKey:            n.Keys.LeafPair(pki.KubeletServing).Key,
		RootDir:               kubeletRoot,
		FlexVolumeDir:         FlexVolumes(n.Dir),
		IPTables:              !n.Host.NFTables,
		CertDir:               filepath.Join(n.Dir.Agent(), "kubelet"),
		DropInDir:             n.Dir.KubeletConfig(),
		StaticPodDir:          n.Dir.PodManifests(),
		RuntimeEndpoint:       n.runtimeEndpoint(),
		ImageEndpoint:         n.Runtime.ImageEndpoint,
		ClusterDNS:            n.Cluster.DNS,
		ClusterDomain:         n.Cluster.Network.Domain,
		ResolvConf:            cmp.Or(n.Node.ResolvConf, filepath.Join(n.Run.DNS(), resolver.ConfName)),
		CgroupDriver:          n.Host.CgroupDriver(),
		CredentialBinDir:      n.Node.CredentialBinDir,
		CredentialConfig:      n.Node.CredentialConfig,
		ProtectKernelDefaults: n.Node.ProtectKernelDefaults,
		InhibitShutdown:       n.Host.Logind,
		OOMScoreAdj:           n.Host.LowestOOMScoreAdj(OOMScoreAdj),
		MaxOpenFiles:          int64(min(n.Host.OpenFiles, maxOpenFiles)),
		ExtraArgs:             n.NodeArgs.Kubelet.Slice(),
	}
	for _, l := range n.Node.Labels.All() {
		c.Labels = append(c.Labels, l.String())
	}
	for _, t := range n.Node.Taints.All() {
		c.Taints = append(c.Taints, corev1.Taint{Key: t.Key, Value: t.Value, Effect: corev1.TaintEffect(t.Effect)})
	}
	return c
}

// runtimeEndpoint is the CRI socket, the user's or ours.
func (n Node) runtimeEndpoint() string {
	if n.Runtime.External() {
		return n.Runtime.Endpoint
	}
	return "unix://" + n.Run.ContainerdSocket()
}

// runtimeClasses are those that pods on this node can choose: of an external runtime, the process knows nothing.
func (n Node) runtimeClasses() []string {
	var classes []string
	if !n.Runtime.External() {
		for _, r := range n.Host.Runtimes {
			classes = append(classes, r.Class)
		}
	}
	return classes
}

// FlexVolumes is where users of FlexVolume put their drivers; kubelet and controllers look there.
func FlexVolumes(dir datadir.Dir) string { return filepath.Join(dir.Agent(), "flexvolume") }

// resolvers are the DNS servers that pods can use: the user's choice, or the host's.
func (n Node) resolvers() resolver.Config {
	c := resolver.Config{Sources: resolver.HostSources(), Dir: n.Run.DNS(), Excluded: n.Cluster.Network.ServiceCIDRs.Slice()}
	if n.Node.ResolvConf != "" {
		c.Sources = []string{n.Node.ResolvConf}
	}
	return c
}

func (n Node) kubeProxy() kubeproxy.Config {
	return kubeproxy.Config{
		Steady:            filepath.Join(n.Run.Root(), "kube-proxy.kubeconfig"),
		Kubeconfig:        n.Dir.KubeProxyKubeconfig(),
		NodeName:          n.Name,
		ClusterCIDRs:      n.Cluster.Network.ClusterCIDRs.Slice(),
		Mode:              n.proxyMode(),
		ConntrackReadOnly: !n.Host.ConntrackWritable,
		OOMScoreAdj:       n.Host.LowestOOMScoreAdj(OOMScoreAdj),
		ExtraArgs:         n.NodeArgs.KubeProxy.Slice(),
	}
}

func (n Node) networkPolicy() netpol.Config {
	c := netpol.Config{NodeName: n.Name, Disabled: !n.Cluster.NetworkPolicy, Hasty: n.Offline}
	if n.Cluster.Network.FlannelBackend != config.FlannelNone {
		c.Bridge = flannel.Bridge
	}
	return c
}

func (n Node) flannel() flannel.Config {
	var public []netip.Addr
	if n.Cluster.Network.FlannelExternalIP {
		public = n.Node.ExternalIPs.Slice()
	}
	return flannel.Config{
		NodeName:       n.Name,
		Backend:        n.Cluster.Network.FlannelBackend,
		Options:        n.Node.FlannelConf,
		Interface:      n.Node.FlannelIface,
		NodeIPs:        n.IPs,
		PublicIPs:      public,
		CNITemplate:    n.Node.FlannelCNIConf,
		WireGuardKey:   n.Dir.WireGuardKey(),
		ClusterCIDRs:   n.Cluster.Network.ClusterCIDRs.Slice(),
		MasqueradeIPv6: n.Cluster.Network.FlannelIPv6Masquerade,
		CNIConfigFile:  n.Dir.CNIConfig() + "/10-flannel.conflist",
		NFTables:       n.Host.NFTables,
	}
}
