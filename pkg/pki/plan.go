package pki

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// Plan is what a Config comes to: every file that Ensure looks after, before
// any of them is read. It is what the golden test shows.
type Plan struct {
	CAs         []PlannedCA
	Leaves      []PlannedLeaf
	Kubeconfigs []PlannedKubeconfig
	ServiceKey  string
}

// PlannedCA is one certificate authority of a Plan.
type PlannedCA struct {
	ID     CA
	Name   string
	Pair   Pair
	CopyTo string // absolute path of the copy for the agent, or empty
}

// PlannedLeaf is one leaf certificate of a Plan.
type PlannedLeaf struct {
	ID         Leaf
	Name       string
	Service    string
	Pair       Pair
	CA         CA
	CommonName string
	Groups     []string
	// DNSNames and IPs are sorted and without duplicates; both are empty for a
	// client certificate.
	DNSNames []string
	IPs      []netip.Addr
}

// Serving reports whether the certificate is one that a server presents.
func (l PlannedLeaf) Serving() bool { return len(l.DNSNames)+len(l.IPs) > 0 }

// PlannedKubeconfig is one kubeconfig of a Plan.
type PlannedKubeconfig struct {
	ID       Kubeconfig
	Name     string
	Path     string
	Server   string
	CAFile   string
	User     Pair
	Embedded bool
}

// NewPlan expands the tables for c. It reads nothing.
func NewPlan(c Config) Plan {
	plan := Plan{}
	if !c.Joined {
		plan.ServiceKey = c.ServiceKey()
	}
	for i, row := range caTable() {
		if c.Joined {
			break // their keys are on the servers
		}
		ca := PlannedCA{ID: CA(i), Name: row.name, Pair: c.pair(row.file)}
		if c.Agent && row.copyTo != "" {
			ca.CopyTo = c.AgentCA(ca.ID)
		}
		plan.CAs = append(plan.CAs, ca)
	}
	for i, row := range leafTable() {
		if row.place.planned(c) {
			plan.Leaves = append(plan.Leaves, c.planLeaf(Leaf(i), row))
		}
	}
	for i, row := range kubeconfigTable() {
		if row.place.planned(c) {
			plan.Kubeconfigs = append(plan.Kubeconfigs, c.planKubeconfig(Kubeconfig(i), row))
		}
	}
	plan.Kubeconfigs = slices.DeleteFunc(plan.Kubeconfigs, func(k PlannedKubeconfig) bool { return k.Path == "" })
	return plan
}

func (c Config) planLeaf(id Leaf, row leafRow) PlannedLeaf {
	leaf := PlannedLeaf{
		ID: id, Name: row.name, Service: row.service, Pair: c.pair(row.file), CA: row.ca,
		CommonName: strings.ReplaceAll(row.user, "%s", c.NodeName),
		Groups:     row.groups,
	}
	if row.names != nil {
		leaf.DNSNames, leaf.IPs = splitNames(row.names(c))
	}
	return leaf
}

func (c Config) planKubeconfig(id Kubeconfig, row kubeconfigRow) PlannedKubeconfig {
	k := PlannedKubeconfig{
		ID: id, Name: row.name, Path: c.KubeconfigPath(id), User: c.LeafPair(row.user), Embedded: row.embedded,
		Server: c.ServerURL, CAFile: c.CAPair(ServerCA).Cert,
	}
	if row.place != onServer {
		k.Server, k.CAFile = c.agentServerURL(), c.AgentCA(ServerCA)
	}
	return k
}

// apiServerNames are the names under which clients inside and outside the
// cluster reach kube-apiserver.
func apiServerNames(c Config) []string {
	names := []string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + c.ClusterDomain,
		"localhost", "127.0.0.1", "::1", c.NodeName,
	}
	for _, prefix := range c.ServiceCIDRs {
		// The kubernetes Service takes the first address of each range
		// (kubernetes v1.37.1 pkg/controlplane/apiserver/options/options.go:377).
		names = append(names, prefix.Masked().Addr().Next().String())
	}
	for _, ip := range append(slices.Clone(c.NodeIPs), c.AdvertiseAddress) {
		if ip.IsValid() && !ip.IsUnspecified() {
			names = append(names, ip.String())
		}
	}
	return append(names, c.ExtraSANs...)
}

// kubeletNames are the names under which kube-apiserver and people on the
// node itself reach the kubelet.
func kubeletNames(c Config) []string {
	names := []string{c.NodeName, "localhost", "127.0.0.1", "::1"}
	for _, ip := range c.NodeIPs {
		if ip.IsValid() && !ip.IsUnspecified() {
			names = append(names, ip.String())
		}
	}
	return names
}

// splitNames sorts names into DNS names and addresses, each without duplicates.
func splitNames(names []string) (dns []string, ips []netip.Addr) {
	for _, name := range names {
		if ip, err := netip.ParseAddr(name); err == nil {
			// A zone has no meaning outside this machine, and no place in a
			// certificate.
			ips = append(ips, ip.Unmap().WithZone(""))
		} else if name != "" {
			dns = append(dns, strings.TrimSuffix(strings.ToLower(name), "."))
		}
	}
	slices.Sort(dns)
	slices.SortFunc(ips, netip.Addr.Compare)
	return slices.Compact(dns), slices.Compact(ips)
}

// checkSAN refuses what can be no name of a certificate: an address with a
// port, a URL, a name with a space.
func checkSAN(san string) error {
	if _, err := netip.ParseAddr(san); err == nil {
		return nil
	}
	const label = `[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?`
	name := regexp.MustCompile(`^(\*\.)?` + label + `(\.` + label + `)*\.?$`)
	if len(san) <= 253 && name.MatchString(san) {
		return nil
	}
	if host, port, err := net.SplitHostPort(san); err == nil && !strings.Contains(port, "/") {
		return fmt.Errorf("tls-san %q has a port: write %q", san, host)
	}
	return fmt.Errorf("tls-san %q is neither a host name nor an IP address", san)
}
