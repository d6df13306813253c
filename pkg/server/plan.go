package server

import (
	"net/netip"
	"slices"

	"github.com/knarr-io/knarr/pkg/agent"
	"github.com/knarr-io/knarr/pkg/bundle"
	"github.com/knarr-io/knarr/pkg/config"
	"github.com/knarr-io/knarr/pkg/datadir"
	"github.com/knarr-io/knarr/pkg/datastore"
	"github.com/knarr-io/knarr/pkg/pki"
	"github.com/knarr-io/knarr/pkg/upstream/apiserver"
	"github.com/knarr-io/knarr/pkg/upstream/controllermanager"
	"github.com/knarr-io/knarr/pkg/upstream/host"
	"github.com/knarr-io/knarr/pkg/upstream/scheduler"
)

// Plan is the configuration with what had to be found out on the host. Its methods are the configurations of the
// components; they are pure.
type Plan struct {
	config.Server
	Dir      datadir.Dir
	Run      datadir.Run
	NodeName string
	// NodeID is the end of NodeName with --with-node-id, else empty.
	NodeID string
	// Store is the datastore as configured and found on the disk.
	Store datastore.Config
	Host  host.Host
	// HostIPs are the host's own addresses, at most one for each family.
	HostIPs []netip.Addr
}

// nodeIPs are the internal addresses to register: the user's, else the host's of the families that the cluster has.
func (p Plan) nodeIPs() []netip.Addr { return p.Network.NodeIPs(p.Node.IPs, p.HostIPs) }

// Certificates are those of the server that a configuration describes, for the commands that look at them. It looks at the
// host, and changes nothing.
func Certificates(c config.Server) (pki.Config, error) {
	p, err := newPlan(c)
	if err != nil {
		return pki.Config{}, err
	}
	return p.certificates(), nil
}

func (p Plan) certificates() pki.Config {
	return pki.Config{
		DataDir:          p.Dir.Root(),
		Agent:            p.Components.Agent,
		Etcd:             p.inEtcd(),
		NodeName:         p.NodeName,
		NodeIPs:          append(p.nodeIPs(), p.Node.ExternalIPs.Slice()...),
		AdvertiseAddress: p.AdvertiseAddress(p.HostIPs...),
		ServiceCIDRs:     p.Network.ServiceCIDRs.Slice(),
		ClusterDomain:    p.Network.Domain,
		ExtraSANs:        p.names(),
		ServerURL:        p.APIServerURL(),
		Admin:            pki.AdminKubeconfig{Path: p.Kubeconfig.Path, Mode: p.Kubeconfig.Mode, Group: p.Kubeconfig.Group},
	}
}

// names are more names of the API.
func (p Plan) names() []string {
	names := slices.Clone(p.Listener.TLSSANs.Slice())
	if a := p.Listener.VirtualIP; a.IsValid() {
		names = append(names, a.String())
	}
	return names
}

func (p Plan) apiServer(store datastore.Access) apiserver.Config {
	keys := p.certificates()
	serving, proxy, kubelet := keys.LeafPair(pki.APIServerServing), keys.LeafPair(pki.AuthProxyClient), keys.LeafPair(pki.APIServerKubeletClient)
	return apiserver.Config{
		BindAddress:             p.ListenAddress().Addr(),
		Port:                    int(p.Listener.Port),
		AdvertiseAddress:        keys.AdvertiseAddress,
		ServiceCIDRs:            p.Network.ServiceCIDRs.Slice(),
		NodePortRange:           p.Network.NodePorts.String(),
		ClusterDomain:           p.Network.Domain,
		CertDir:                 p.Dir.TLS(),
		TLSCert:                 serving.Cert,
		TLSKey:                  serving.Key,
		ClientCA:                keys.CAPair(pki.ClientCA).Cert,
		RequestHeaderCA:         keys.CAPair(pki.RequestHeaderCA).Cert,
		ProxyClientCert:         proxy.Cert,
		ProxyClientKey:          proxy.Key,
		KubeletCA:               keys.CAPair(pki.ServerCA).Cert,
		KubeletClientCert:       kubelet.Cert,
		KubeletClientKey:        kubelet.Key,
		ServiceAccountKey:       keys.ServiceKey(),
		ServiceAccountPublicKey: keys.ServiceKey(),
		EtcdEndpoints:           store.Endpoints,
		EtcdCA:                  store.CAFile,
		EtcdClientCert:          store.CertFile,
		EtcdClientKey:           store.KeyFile,
		Alone:                   !p.several(),
		EnableProfiling:         p.Profiling,
		ExtraArgs:               p.Args.APIServer.Slice(),
	}
}

func (p Plan) controllerManager() controllermanager.Config {
	keys := p.certificates()
	return controllermanager.Config{
		Kubeconfig:        keys.KubeconfigPath(pki.ControllerManagerKubeconfig),
		ClusterCIDRs:      p.Network.ClusterCIDRs.Slice(),
		ServiceCIDRs:      p.Network.ServiceCIDRs.Slice(),
		RootCA:            keys.CAPair(pki.ServerCA).Cert,
		ServiceAccountKey: keys.ServiceKey(),
		ClientCA:          keys.CAPair(pki.ClientCA).Cert,
		ClientCAKey:       keys.CAPair(pki.ClientCA).Key,
		ServingCA:         keys.CAPair(pki.ServerCA).Cert,
		ServingCAKey:      keys.CAPair(pki.ServerCA).Key,
		FlexVolumeDir:     agent.FlexVolumes(p.Dir),
		ExtraArgs:         p.Args.ControllerManager.Slice(),
	}
}

func (p Plan) scheduler() scheduler.Config {
	return scheduler.Config{
		Kubeconfig: p.certificates().KubeconfigPath(pki.SchedulerKubeconfig),
		ExtraArgs:  p.Args.Scheduler.Slice(),
	}
}

// roles are those of the server's node, as k3s names them.
func (p Plan) roles() []string {
	roles := []string{"control-plane"}
	if p.hasEtcd() {
		roles = append(roles, "etcd")
	}
	return roles
}

func (p Plan) node() agent.Node {
	pause := p.Runtime.PauseImage
	if pause == "" {
		pause = p.SystemImage(bundle.PauseImage)
	}
	return agent.Node{
		Common: p.Common,
		Cluster: agent.Cluster{Network: p.Network, DNS: p.ClusterDNS().Slice(), KubeProxy: p.Components.KubeProxy, NetworkPolicy: p.Components.NetworkPolicy, PauseImage: pause, ServiceLB: p.Components.Packaged("servicelb"),
			LocalStorage: p.Components.Packaged("local-storage"), LocalStoragePath: p.Components.LocalStorage, Ingress: p.Components.Packaged("traefik")},
		Name:  p.NodeName,
		Host:  p.Host,
		IPs:   p.nodeIPs(),
		Roles: p.roles(),
		Dir:   p.Dir,
		Run:   p.Run,
		Keys:  p.certificates(),
	}
}
