package config

import (
	"net/netip"
	"strconv"
)

// idle says that a flag does nothing because of another; when is whether the
// other has that effect. Saying so beats leaving a user to wonder.
type idle struct {
	flag, other, because string
	when                 func(*Server) bool
}

func idleFlags() []idle {
	noFlannel := func(s *Server) bool { return s.Network.FlannelBackend == FlannelNone }
	external := func(s *Server) bool { return s.Runtime.External() }
	const (
		backend  = "is none"
		runtime  = "names a runtime with a configuration of its own"
		disabled = "is set"
		store    = "names no datastore on the network"
	)
	return []idle{
		{"flannel-iface", "flannel-backend", backend, noFlannel},
		{"flannel-ipv6-masq", "flannel-backend", backend, noFlannel},
		{"flannel-external-ip", "flannel-backend", backend, noFlannel},
		{"flannel-conf", "flannel-backend", backend, noFlannel},
		{"flannel-cni-conf", "flannel-backend", backend, noFlannel},
		{"default-runtime", "container-runtime-endpoint", runtime, external},
		{"snapshotter", "container-runtime-endpoint", runtime, external},
		{"private-registry", "container-runtime-endpoint", runtime, external},
		{"disable-default-registry-endpoint", "container-runtime-endpoint", runtime, external},
		{"nonroot-devices", "container-runtime-endpoint", runtime, external},
		{"alsologtostderr", "log", "is not set", func(s *Server) bool { return s.Logging.File == "" }},
		{"kube-scheduler-arg", "disable-scheduler", disabled, func(s *Server) bool { return !s.Components.Scheduler }},
		{"kube-proxy-arg", "disable-kube-proxy", disabled, func(s *Server) bool { return !s.Components.KubeProxy }},
		{"kube-proxy-arg", "disable-agent", disabled, func(s *Server) bool { return !s.Components.Agent }},
		{"kubelet-arg", "disable-agent", disabled, func(s *Server) bool { return !s.Components.Agent }},
		{"backup-schedule", "disable-backups", disabled, func(s *Server) bool { return !s.Backup.Scheduled }},
		{"datastore-cafile", "datastore-endpoint", store, localStore},
		{"datastore-certfile", "datastore-endpoint", store, localStore},
		{"datastore-keyfile", "datastore-endpoint", store, localStore},
	}
}

// checkIdle reports the flags that do nothing. A role without the other flag
// cannot have them idle.
func (l *loader) checkIdle(s *Server) {
	for _, i := range idleFlags() {
		if l.flags[i.flag] == nil || l.flags[i.other] == nil {
			continue
		}
		if l.given(i.flag) && !l.off(i.flag) && l.fine(i.flag, i.other) && i.when(s) {
			l.conflict(i.flag, "has no effect because --%s %s; change one of them", i.other, i.because)
		}
	}
}

func localStore(s *Server) bool { return s.Datastore.Local() }

// check reports what contradicts each other. It only compares flags whose own
// values are fine.
func (l *loader) check(s *Server) {
	l.checkPairs()
	l.checkRegistryFile(s)
	l.checkNode(s)
	if l.role == RoleAgent && !l.given("server") {
		l.report("--server", "", "is needed: the URL of a server, such as https://192.0.2.10:6443; KNARR_URL or `server:` in the configuration file do as well")
	}
	if l.role == RoleServer {
		l.checkRanges(s)
		l.checkAddresses(s)
	}
	l.checkBackup(s)
	l.checkEtcd(s)
	l.checkIdle(s)
}

// checkBackup sees to it that where backups are sent is said in full or not at all.
func (l *loader) checkBackup(s *Server) {
	if l.role != RoleServer || !l.fine("backup-s3") {
		return
	}
	const secret = "backup-s3-config-secret"
	if s.Backup.S3.Enabled && !l.given("backup-s3-bucket") && !l.given(secret) {
		l.conflict("backup-s3", "needs --backup-s3-bucket or --"+secret+" as well")
	}
	for _, f := range backupS3Flags()[1:] {
		switch {
		case !l.given(f.Name) || l.off(f.Name):
		case !s.Backup.S3.Enabled:
			l.conflict(f.Name, "has no effect because --backup-s3 is not set; set it, or remove this")
		case f.Name != secret && l.given(secret):
			l.conflict(f.Name, "has no effect because --"+secret+" is set; put it into the Secret, or remove one of them")
		}
	}
}

// checkEtcd sees to it that there is one datastore.
func (l *loader) checkEtcd(s *Server) {
	if l.role != RoleServer {
		return
	}
	for _, name := range []string{"cluster-init", "cluster-reset", "etcd-arg", "etcd-expose-metrics"} {
		if l.given(name) && !l.off(name) && l.given("datastore-endpoint") {
			l.conflict(name, "is for the embedded etcd, and --datastore-endpoint names another datastore; remove one of them")
		}
	}
	l.checkRoles(s)
	if l.given("server") && s.Datastore.ClusterInit {
		l.conflict("cluster-init", "begins a cluster, and --server joins one; remove one of them")
	}
	if l.given("server") && l.given("datastore-endpoint") && s.Datastore.Local() {
		l.conflict("server", "joins a cluster of several servers, and what --datastore-endpoint names is for one; remove one of them")
	}
	if bind := s.Listener.BindAddress; l.given("virtual-ip") && l.given("bind-address") && bind.IsValid() && !bind.IsUnspecified() {
		l.conflict("virtual-ip", "can only be reached when the API listens at all addresses; remove --bind-address")
	}
	if l.given("cluster-reset-restore-path") && !s.Datastore.ClusterReset {
		l.conflict("cluster-reset-restore-path", "needs --cluster-reset as well")
	}
}

// checkRoles sees to it that a server without etcd has another's, and that one without an API has an etcd.
func (l *loader) checkRoles(s *Server) {
	if !s.Components.Etcd {
		if !l.given("server") {
			l.conflict("disable-etcd", "needs --server as well: the URL of a server with an embedded etcd")
		}
		for _, name := range []string{"datastore-endpoint", "cluster-init", "disable-apiserver"} {
			if l.given(name) && !l.off(name) {
				l.conflict("disable-etcd", "is for a server whose state is in the embedded etcd of others; remove it, or --%s", name)
			}
		}
	}
	if !s.Components.APIServer && l.given("datastore-endpoint") {
		l.conflict("disable-apiserver", "leaves the embedded etcd alone, and --datastore-endpoint names another datastore; remove one of them")
	}
}

// off reports whether a switch was given as false.
func (l *loader) off(name string) bool {
	on, err := boolean(false).parse(nil, l.origin[name].text)
	return l.flags[name].Boolean() && err == nil && !on
}

// checkPairs sees to flags that exclude or need each other.
func (l *loader) checkPairs() {
	for _, name := range []string{"token", "agent-token"} {
		if file := name + "-file"; l.given(name) && l.given(file) {
			l.conflict(file, "the token is given by %s already; remove one of them", l.where(name))
		}
	}
	for _, pair := range [][2]string{
		{"datastore-certfile", "datastore-keyfile"},
		{"backup-s3-access-key", "backup-s3-secret-key"},
		{"image-credential-provider-bin-dir", "image-credential-provider-config"},
	} {
		for i, name := range pair {
			if other := pair[1-i]; l.given(name) && !l.given(other) {
				l.conflict(name, "needs --%s as well", other)
			}
		}
	}
}

// checkRegistryFile sees to it that a registries.yaml that was named is there;
// the default one need not be.
func (l *loader) checkRegistryFile(s *Server) {
	if l.given("private-registry") && l.fine("private-registry") && s.Runtime.PrivateRegistry != DefaultRegistryFile {
		if _, err := l.in.readFile(s.Runtime.PrivateRegistry); err != nil {
			l.report(l.where("private-registry"), s.Runtime.PrivateRegistry, "cannot read it: "+err.Error()+"; want the path of a readable file")
		}
	}
}

// checkNode looks at the node's name, addresses, labels and taints.
func (l *loader) checkNode(s *Server) {
	const idLength = len("-01234567")
	if limit := 63 - idLength; s.Node.WithID && l.fine("node-name") && len(s.Node.Name) > limit {
		l.report(l.where("node-name"), s.Node.Name,
			"has "+strconv.Itoa(len(s.Node.Name))+" characters; want at most "+strconv.Itoa(limit)+", as --with-node-id adds 9")
	}
	l.oneOfEach("node-ip", families(s.Node.IPs.items))
	l.oneOfEach("node-external-ip", families(s.Node.ExternalIPs.items))
	labels := make(map[string]string)
	for _, x := range s.Node.Labels.All() {
		if first, ok := labels[x.Key]; ok && first != x.Value {
			l.conflict("node-label", "%s is given twice, as %q and %q", x.Key, first, x.Value)
		}
		labels[x.Key] = x.Value
	}
	taints := make(map[Taint]bool)
	for _, t := range s.Node.Taints.All() {
		key := Taint{Key: t.Key, Effect: t.Effect}
		if taints[key] {
			l.conflict("node-taint", "%s:%s is given twice; a node has one taint for a key and an effect", t.Key, t.Effect)
		}
		taints[key] = true
	}
}

// families says of each address whether it is IPv6.
func families(addrs []netip.Addr) []bool {
	var six []bool
	for _, a := range addrs {
		six = append(six, a.Is6())
	}
	return six
}

func rangeFamilies(ranges List[netip.Prefix]) []bool {
	var six []bool
	for _, p := range ranges.All() {
		six = append(six, p.Addr().Is6())
	}
	return six
}

// oneOfEach reports a list with two entries of one family.
func (l *loader) oneOfEach(name string, six []bool) bool {
	if len(six) > 2 || len(six) == 2 && six[0] == six[1] {
		l.conflict(name, "has %d entries; want at most one for IPv4 and one for IPv6", len(six))
		l.bad[name] = true
		return false
	}
	return true
}
