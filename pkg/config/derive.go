package config

import (
	"cmp"
	"net/netip"
	"path"
	"strconv"
	"strings"

	"github.com/distribution/reference"
)

// deriveNode fills what the node's defaults take from the host.
func (l *loader) deriveNode(s *Server) {
	if s.Node.Name == "" && l.fine("node-name") {
		name, err := nodeName().parse(&l.in, l.in.Hostname)
		if err != nil {
			l.report("the host's name", l.in.Hostname, err.Error()+"; set --node-name to "+nodeName().allowed)
			l.bad["node-name"] = true
		}
		s.Node.Name = name
	}
	if l.given("image-credential-provider-bin-dir") || l.given("image-credential-provider-config") {
		return // check sees to it that both are
	}
	bin := path.Join(s.DataDir, "credentialprovider", "bin")
	file := path.Join(s.DataDir, "credentialprovider", "config.yaml")
	_, binErr := l.in.readDir(bin)
	_, fileErr := l.in.readFile(file)
	if binErr == nil && fileErr == nil {
		s.Node.CredentialBinDir, s.Node.CredentialConfig = bin, file
	}
}

// NodeName is the name to register the node under. id is the node's id (see
// datadir); it is asked for when [Node.WithID] is set and otherwise not used.
func (c Common) NodeName(id string) string {
	if c.Node.WithID {
		return c.Node.Name + "-" + id
	}
	return c.Node.Name
}

// PrimaryIPv6 reports whether IPv6 is the cluster's primary family.
func (n Network) PrimaryIPv6() bool {
	return n.ServiceCIDRs.Len() > 0 && n.ServiceCIDRs.At(0).Addr().Is6()
}

// DualStack reports whether the cluster has both families.
func (n Network) DualStack() bool { return n.ServiceCIDRs.Len() > 1 }

// NodeIPs are the internal addresses of a node: those that the user gave, else
// those of the host's that are of the cluster's families, the primary one first.
func (n Network) NodeIPs(given List[netip.Addr], host []netip.Addr) []netip.Addr {
	if given.Len() > 0 {
		return given.Slice()
	}
	var ips []netip.Addr
	for _, cidr := range n.ServiceCIDRs.All() {
		for _, a := range host {
			if a.Is6() == cidr.Addr().Is6() {
				ips = append(ips, a)
			}
		}
	}
	return ips
}

// APIServiceIP is the first address of the primary service range, at which pods
// reach the API through the Service "kubernetes".
func (n Network) APIServiceIP() netip.Addr { return nth(n.ServiceCIDRs.At(0), 1) }

// ClusterDNS is the addresses of the cluster's DNS service: those given, or the
// tenth of each service range.
func (s Server) ClusterDNS() List[netip.Addr] {
	if s.Network.DNS.Len() > 0 {
		return s.Network.DNS
	}
	var dns List[netip.Addr]
	for _, p := range s.Network.ServiceCIDRs.All() {
		dns.items = append(dns.items, nth(p, 10))
	}
	return dns
}

// nth is the nth address of a range, counted from the range's own as 0; not
// valid when the range is too small.
func nth(p netip.Prefix, n int) netip.Addr {
	a := p.Addr()
	for range n {
		a = a.Next()
	}
	if !p.Contains(a) {
		return netip.Addr{}
	}
	return a
}

// ListenAddress is where the API listens: by default everywhere, on the primary
// family's unspecified address (for IPv6 that takes IPv4 as well).
func (s Server) ListenAddress() netip.AddrPort {
	addr := s.Listener.BindAddress
	switch {
	case addr.IsValid():
	case s.Network.PrimaryIPv6() || s.Network.DualStack():
		addr = netip.IPv6Unspecified()
	default:
		addr = netip.IPv4Unspecified()
	}
	return netip.AddrPortFrom(addr, s.Listener.Port)
}

// LocalAddress is the address at which this host reaches its own API: loopback,
// unless the API listens on one other address only.
func (s Server) LocalAddress() netip.AddrPort {
	listen := s.ListenAddress()
	if !listen.Addr().IsUnspecified() {
		return listen
	}
	if s.Listener.BindAddress.Is6() || s.Network.PrimaryIPv6() {
		return netip.AddrPortFrom(netip.IPv6Loopback(), listen.Port())
	}
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), listen.Port())
}

// APIServerURL is the URL of [Server.LocalAddress], without a slash at the end.
func (s Server) APIServerURL() string { return "https://" + s.LocalAddress().String() }

// AdvertiseAddress is the address the members of the cluster reach the API at:
// the one given, else the first of the node's external addresses, the node's
// addresses and the host's (which the caller found) that is of the primary
// family. It is not valid when there is none.
func (s Server) AdvertiseAddress(host ...netip.Addr) netip.Addr {
	if s.Listener.AdvertiseAddress.IsValid() {
		return s.Listener.AdvertiseAddress
	}
	for _, list := range [][]netip.Addr{s.Node.ExternalIPs.items, s.Node.IPs.items, host} {
		for _, a := range list {
			if a.Is6() == s.Network.PrimaryIPv6() {
				return a
			}
		}
	}
	return netip.Addr{}
}

// SystemImage is the name to pull one of knarr's own images by: the same, or
// with its registry replaced by [Server.SystemRegistry]. name is a full name.
func (s Server) SystemImage(name string) string {
	ref, err := reference.ParseNormalizedNamed(name)
	if s.SystemRegistry == "" || err != nil {
		return name
	}
	return s.SystemRegistry + name[len(reference.Domain(ref)):]
}

// External reports whether the container runtime is not the containerd inside.
func (r Runtime) External() bool { return r.Endpoint != "" }

// Embedded reports whether the state is in the data-dir: in SQLite, or in an
// embedded etcd.
func (d Datastore) Embedded() bool { return !d.Endpoint.IsSet() }

// Local reports whether the state is on this machine unless an embedded etcd
// has it.
func (d Datastore) Local() bool {
	scheme, _, _ := strings.Cut(d.Endpoint.Reveal(), "://")
	return d.Embedded() || scheme == "sqlite" || scheme == "kine-sqlite"
}

// BackupDir is where backups are: the directory given, else one in the data-dir.
func (s Server) BackupDir() string {
	return cmp.Or(s.Backup.Dir, path.Join(s.DataDir, "backups"))
}

// String is FIRST-LAST, as kube-apiserver has it.
func (r PortRange) String() string {
	return strconv.Itoa(int(r.First)) + "-" + strconv.Itoa(int(r.Last))
}

// Contains reports whether a port is in the range.
func (r PortRange) Contains(port uint16) bool { return port >= r.First && port <= r.Last }
