package config

import (
	"io/fs"
	"net/netip"
	"time"
)

// The paths a user meets.
const (
	DefaultConfigFile   = "/etc/knarr/config.yaml"
	DefaultKubeconfig   = "/etc/knarr/knarr.yaml"
	DefaultRegistryFile = "/etc/knarr/registries.yaml"
	DefaultDataDir      = "/var/lib/knarr"
)

func configFlags() []Flag {
	return []Flag{
		{Name: "config", Aliases: []string{"c"}, Env: "KNARR_CONFIG_FILE", Default: DefaultConfigFile, Roles: Both,
			Category: "Configuration and logging", Usage: "Read the configuration from `FILE` and from FILE.d/*.yaml",
			bind: one(file(), func(s *Server) *string { return &s.ConfigFile })},
		{Name: "debug", Env: "KNARR_DEBUG", Default: "false", Roles: Both,
			Category: "Configuration and logging", Usage: "Log knarr's debug messages",
			bind: toggle(func(s *Server) *bool { return &s.Logging.Debug })},
		{Name: "v", Default: "0", Roles: Both,
			Category: "Configuration and logging", Usage: "Log the Kubernetes components up to `LEVEL`",
			bind: one(count(), func(s *Server) *int { return &s.Logging.Verbosity })},
		{Name: "vmodule", Roles: Both,
			Category: "Configuration and logging", Usage: "Log source files that match PATTERN up to LEVEL, as `PATTERN=LEVEL`",
			bind: many(module(), func(s *Server) *List[string] { return &s.Logging.VModule })},
		{Name: "log", Aliases: []string{"l"}, Roles: Both,
			Category: "Configuration and logging", Usage: "Log to `FILE` in place of standard error",
			bind: one(file(), func(s *Server) *string { return &s.Logging.File })},
		{Name: "alsologtostderr", Default: "false", Roles: Both,
			Category: "Configuration and logging", Usage: "With --log, log to standard error as well",
			bind: toggle(func(s *Server) *bool { return &s.Logging.AlsoToStderr })},
	}
}

func listenerFlags() []Flag {
	return []Flag{
		{Name: "bind-address", DefaultText: "0.0.0.0, or :: in a cluster with IPv6", Roles: RoleServer,
			Category: "Listener and data", Usage: "Serve the API on `IP`",
			bind: one(address(), func(s *Server) *netip.Addr { return &s.Listener.BindAddress })},
		{Name: "https-listen-port", Default: "6443", Roles: RoleServer,
			Category: "Listener and data", Usage: "Serve the API on `PORT`",
			bind: one(port(), func(s *Server) *uint16 { return &s.Listener.Port })},
		{Name: "advertise-address", DefaultText: "the node's external or own address", Roles: RoleServer,
			Category: "Listener and data", Usage: "Tell the members of the cluster to reach the API at `IP`",
			bind: one(reachable(), func(s *Server) *netip.Addr { return &s.Listener.AdvertiseAddress })},
		{Name: "tls-san", Roles: RoleServer,
			Category: "Listener and data", Usage: "Make the API's certificate valid for `NAME` as well",
			bind: many(hostOrIP(), func(s *Server) *List[string] { return &s.Listener.TLSSANs })},
		{Name: "data-dir", Aliases: []string{"d"}, Env: "KNARR_DATA_DIR", Default: DefaultDataDir, Roles: Both,
			Category: "Listener and data", Usage: "Keep all state in `DIR`",
			bind: one(dataDir(), func(s *Server) *string { return &s.DataDir })},
	}
}

func networkFlags() []Flag {
	return []Flag{
		{Name: "cluster-cidr", Default: "10.42.0.0/16", Roles: RoleServer,
			Category: "Network", Usage: "Give pods addresses from `CIDR`, one range or one of each IP family",
			bind: many(cidr(), func(s *Server) *List[netip.Prefix] { return &s.Network.ClusterCIDRs })},
		{Name: "service-cidr", Default: "10.43.0.0/16", Roles: RoleServer,
			Category: "Network", Usage: "Give services addresses from `CIDR`, one range or one of each IP family",
			bind: many(cidr(), func(s *Server) *List[netip.Prefix] { return &s.Network.ServiceCIDRs })},
		{Name: "service-node-port-range", Default: "30000-32767", Roles: RoleServer,
			Category: "Network", Usage: "Give NodePort services ports from `RANGE`",
			bind: one(portRange(), func(s *Server) *PortRange { return &s.Network.NodePorts })},
		{Name: "cluster-dns", DefaultText: "the tenth address of each service-cidr", Roles: RoleServer,
			Category: "Network", Usage: "Give the cluster's DNS service the address `IP`",
			bind: many(address(), func(s *Server) *List[netip.Addr] { return &s.Network.DNS })},
		{Name: "cluster-domain", Default: "cluster.local", Roles: RoleServer,
			Category: "Network", Usage: "Name the cluster's DNS `DOMAIN`",
			bind: one(domain(), func(s *Server) *string { return &s.Network.Domain })},
		{Name: "flannel-backend", Default: FlannelVXLAN, Roles: RoleServer,
			Category: "Network", Usage: "Connect the pods of different nodes by `BACKEND`: vxlan, host-gw, wireguard-native, or none, which leaves the network to you",
			bind: one(choice(FlannelVXLAN, FlannelHostGW, FlannelWireGuard, FlannelNone), func(s *Server) *string { return &s.Network.FlannelBackend })},
		{Name: "flannel-ipv6-masq", Default: "false", Roles: RoleServer,
			Category: "Network", Usage: "Hide pods behind their node for IPv6, too",
			bind: toggle(func(s *Server) *bool { return &s.Network.FlannelIPv6Masquerade })},
		{Name: "flannel-external-ip", Default: "false", Roles: RoleServer,
			Category: "Network", Usage: "Connect nodes over their external addresses, where they have any",
			bind: toggle(func(s *Server) *bool { return &s.Network.FlannelExternalIP })},
		{Name: "flannel-conf", Roles: Both,
			Category: "Network", Usage: "Take options of the flannel backend from `FILE`, a net-conf.json",
			bind: one(readable(), func(s *Server) *string { return &s.Node.FlannelConf })},
		{Name: "flannel-cni-conf", Roles: Both,
			Category: "Network", Usage: "Connect pods to their node by the CNI plugin list in `FILE`",
			bind: one(readable(), func(s *Server) *string { return &s.Node.FlannelCNIConf })},
		{Name: "flannel-iface", DefaultText: "the one with the node's address", Roles: Both,
			Category: "Network", Usage: "Connect nodes over the network interface `NAME`",
			bind: one(iface(), func(s *Server) *string { return &s.Node.FlannelIface })},
		{Name: "node-ip", Aliases: []string{"i"}, DefaultText: "the address of the default route's interface", Roles: Both,
			Category: "Network", Usage: "Announce the node under `IP`, at most one of each IP family",
			bind: many(reachable(), func(s *Server) *List[netip.Addr] { return &s.Node.IPs })},
		{Name: "node-external-ip", Roles: Both,
			Category: "Network", Usage: "Announce the node to the outside under `IP`, at most one of each IP family",
			bind: many(reachable(), func(s *Server) *List[netip.Addr] { return &s.Node.ExternalIPs })},
		{Name: "resolv-conf", Env: "KNARR_RESOLV_CONF", DefaultText: "the host's, if pods can use its nameservers", Roles: Both,
			Category: "Network", Usage: "Take the nameservers for pods from `FILE`",
			bind: one(readable(), func(s *Server) *string { return &s.Node.ResolvConf })},
	}
}

func clusterFlags() []Flag {
	return []Flag{
		{Name: "server", Aliases: []string{"s"}, Env: "KNARR_URL", Roles: Both,
			Category: "Cluster", Usage: "Join the cluster of the server at `URL`",
			bind: one(serverURL(), func(s *Server) *string { return &s.Join.Server })},
		{Name: "virtual-ip", Roles: RoleServer,
			Category: "Cluster", Usage: "Have one of the servers, another when it dies, answer at `IP` as well, an unused address of their network",
			bind: one(reachable(), func(s *Server) *netip.Addr { return &s.Listener.VirtualIP })},
		{Name: "lb-server-port", Env: "KNARR_LB_SERVER_PORT", Default: "6444", Roles: RoleAgent,
			Category: "Cluster", Usage: "Reach the servers by way of `PORT` on 127.0.0.1, where the agent's load balancer listens",
			bind: one(port(), func(s *Server) *uint16 { return &s.Join.BalancerPort })},
		{Name: "token", Aliases: []string{"t"}, Env: "KNARR_TOKEN", DefaultText: "made on the first start", Roles: Both,
			Category: "Cluster", Usage: "The cluster's secret is `TOKEN`",
			bind: one(token(), func(s *Server) *Secret { return &s.Token })},
		{Name: "token-file", Env: "KNARR_TOKEN_FILE", Roles: Both,
			Category: "Cluster", Usage: "Read the cluster's secret from `FILE`",
			bind: one(secretFile(), func(s *Server) *Secret { return &s.Token })},
		{Name: "agent-token", Env: "KNARR_AGENT_TOKEN", DefaultText: "the token", Roles: RoleServer,
			Category: "Cluster", Usage: "The secret that joins agents, but no servers, is `TOKEN`",
			bind: one(token(), func(s *Server) *Secret { return &s.AgentToken })},
		{Name: "agent-token-file", Env: "KNARR_AGENT_TOKEN_FILE", Roles: RoleServer,
			Category: "Cluster", Usage: "Read the secret that joins agents from `FILE`",
			bind: one(secretFile(), func(s *Server) *Secret { return &s.AgentToken })},
		{Name: "write-kubeconfig", Aliases: []string{"o"}, Env: "KNARR_KUBECONFIG_OUTPUT", Default: DefaultKubeconfig, Roles: RoleServer,
			Category: "Cluster", Usage: "Write the administrator's kubeconfig to `FILE`",
			bind: one(file(), func(s *Server) *string { return &s.Kubeconfig.Path })},
		{Name: "write-kubeconfig-mode", Env: "KNARR_KUBECONFIG_MODE", Default: "600", Roles: RoleServer,
			Category: "Cluster", Usage: "Give the kubeconfig the permissions `MODE`",
			bind: one(fileMode(), func(s *Server) *fs.FileMode { return &s.Kubeconfig.Mode })},
		{Name: "write-kubeconfig-group", Env: "KNARR_KUBECONFIG_GROUP", Roles: RoleServer,
			Category: "Cluster", Usage: "Give the kubeconfig to `GROUP`",
			bind: one(group(), func(s *Server) *string { return &s.Kubeconfig.Group })},
	}
}

func datastoreFlags() []Flag {
	return []Flag{
		{Name: "datastore-endpoint", Env: "KNARR_DATASTORE_ENDPOINT", DefaultText: "a SQLite database in the data-dir", Roles: RoleServer,
			Category: "Datastore", Usage: "Keep the cluster's state in the datastore at `ENDPOINT`",
			bind: one(endpoint(), func(s *Server) *Secret { return &s.Datastore.Endpoint })},
		{Name: "datastore-cafile", Env: "KNARR_DATASTORE_CAFILE", Roles: RoleServer,
			Category: "Datastore", Usage: "Trust the datastore if the CAs in `FILE` do",
			bind: one(readable(), func(s *Server) *string { return &s.Datastore.CAFile })},
		{Name: "datastore-certfile", Env: "KNARR_DATASTORE_CERTFILE", Roles: RoleServer,
			Category: "Datastore", Usage: "Log in to the datastore with the certificate in `FILE`",
			bind: one(readable(), func(s *Server) *string { return &s.Datastore.CertFile })},
		{Name: "datastore-keyfile", Env: "KNARR_DATASTORE_KEYFILE", Roles: RoleServer,
			Category: "Datastore", Usage: "Log in to the datastore with the key in `FILE`",
			bind: one(readable(), func(s *Server) *string { return &s.Datastore.KeyFile })},
	}
}

func etcdFlags() []Flag {
	return []Flag{
		{Name: "cluster-init", Env: "KNARR_CLUSTER_INIT", Default: "false", Roles: RoleServer,
			Category: "Datastore", Usage: "Keep the cluster's state in an embedded etcd, which more servers can join; what SQLite holds moves there",
			bind: toggle(func(s *Server) *bool { return &s.Datastore.ClusterInit })},
		{Name: "cluster-reset", Env: "KNARR_CLUSTER_RESET", Default: "false", Roles: RoleServer,
			Category: "Datastore", Usage: "Make an etcd cluster of this server alone out of what it has, and end",
			bind: toggle(func(s *Server) *bool { return &s.Datastore.ClusterReset })},
		{Name: "cluster-reset-restore-path", Roles: RoleServer,
			Category: "Datastore", Usage: "With --cluster-reset, begin with the backup `FILE`, or with that in the S3 bucket",
			bind: one(plainText(), func(s *Server) *string { return &s.Datastore.ClusterResetRestore })},
		{Name: "etcd-expose-metrics", Default: "false", Roles: RoleServer,
			Category: "Datastore", Usage: "Serve the metrics of the embedded etcd on port 2381 of the node, over HTTP, to everybody",
			bind: toggle(func(s *Server) *bool { return &s.Datastore.ExposeMetrics })},
	}
}

func componentFlags() []Flag {
	return []Flag{
		{Name: "disable", Roles: RoleServer,
			Category: "Components", Usage: "Do not install the packaged component `NAME`",
			bind: many(component(), func(s *Server) *List[string] { return &s.Components.Disabled })},
		{Name: "always-on", Roles: RoleServer,
			Category: "Components", Usage: "Keep the packaged component `NAME` running while nobody uses it: traefik",
			bind: many(choice(RestingComponents()...), func(s *Server) *List[string] { return &s.Components.AlwaysOn })},
		{Name: "rest-after", Default: "5m", Roles: RoleServer,
			Category: "Components", Usage: "Let a packaged component that nobody uses any more rest after `TIME`",
			bind: one(duration(), func(s *Server) *time.Duration { return &s.Components.RestAfter })},
		{Name: "default-local-storage-path", DefaultText: "<data-dir>/storage", Roles: RoleServer,
			Category: "Components", Usage: "Keep local volumes in the directory `DIR` of each node",
			bind: one(dataDir(), func(s *Server) *string { return &s.Components.LocalStorage })},
		{Name: "disable-apiserver", Default: "false", Roles: RoleServer,
			Category: "Components", Usage: "Run the embedded etcd alone: no API, no controllers, no node",
			bind: untoggle(func(s *Server) *bool { return &s.Components.APIServer })},
		{Name: "disable-controller-manager", Default: "false", Roles: RoleServer,
			Category: "Components", Usage: "Run no kube-controller-manager",
			bind: untoggle(func(s *Server) *bool { return &s.Components.ControllerManager })},
		{Name: "disable-etcd", Default: "false", Roles: RoleServer,
			Category: "Components", Usage: "With --server, keep the cluster's state in the etcd of the other servers",
			bind: untoggle(func(s *Server) *bool { return &s.Components.Etcd })},
		{Name: "disable-scheduler", Default: "false", Roles: RoleServer,
			Category: "Components", Usage: "Run no kube-scheduler",
			bind: untoggle(func(s *Server) *bool { return &s.Components.Scheduler })},
		{Name: "disable-cloud-controller", Default: "false", Roles: RoleServer,
			Category: "Components", Usage: "Run no cloud-controller-manager",
			bind: untoggle(func(s *Server) *bool { return &s.Components.CloudController })},
		{Name: "disable-kube-proxy", Default: "false", Roles: RoleServer,
			Category: "Components", Usage: "Run no kube-proxy",
			bind: untoggle(func(s *Server) *bool { return &s.Components.KubeProxy })},
		{Name: "disable-network-policy", Default: "false", Roles: RoleServer,
			Category: "Components", Usage: "Do not enforce network policies, and remove the rules made for them",
			bind: untoggle(func(s *Server) *bool { return &s.Components.NetworkPolicy })},
		{Name: "disable-helm-controller", Default: "false", Roles: RoleServer,
			Category: "Components", Usage: "Install no Helm charts: HelmChart and HelmChartConfig objects are left alone",
			bind: untoggle(func(s *Server) *bool { return &s.Components.HelmController })},
		{Name: "disable-agent", Default: "false", Roles: RoleServer,
			Category: "Components", Usage: "Run no node: a control plane alone, without container runtime, kubelet, kube-proxy and pod network",
			bind: untoggle(func(s *Server) *bool { return &s.Components.Agent })},
	}
}

func argumentFlags() []Flag {
	return []Flag{
		{Name: "kube-apiserver-arg", Roles: RoleServer,
			Category: "Component arguments", Usage: "Start kube-apiserver with the extra argument `ARG`",
			bind: words(componentArg(), func(s *Server) *List[string] { return &s.Args.APIServer })},
		{Name: "kube-controller-manager-arg", Aliases: []string{"kube-controller-arg"}, Roles: RoleServer,
			Category: "Component arguments", Usage: "Start kube-controller-manager with the extra argument `ARG`",
			bind: words(componentArg(), func(s *Server) *List[string] { return &s.Args.ControllerManager })},
		{Name: "kube-scheduler-arg", Roles: RoleServer,
			Category: "Component arguments", Usage: "Start kube-scheduler with the extra argument `ARG`",
			bind: words(componentArg(), func(s *Server) *List[string] { return &s.Args.Scheduler })},
		{Name: "etcd-arg", Roles: RoleServer,
			Category: "Component arguments", Usage: "Start the embedded etcd with the extra argument `ARG`",
			bind: words(componentArg(), func(s *Server) *List[string] { return &s.Args.Etcd })},
		{Name: "kubelet-arg", Roles: Both,
			Category: "Component arguments", Usage: "Start the kubelet with the extra argument `ARG`",
			bind: words(componentArg(), func(s *Server) *List[string] { return &s.NodeArgs.Kubelet })},
		{Name: "kube-proxy-arg", Roles: Both,
			Category: "Component arguments", Usage: "Start kube-proxy with the extra argument `ARG`",
			bind: words(componentArg(), func(s *Server) *List[string] { return &s.NodeArgs.KubeProxy })},
	}
}
