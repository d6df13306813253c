package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Setting is a flag with its value, written as a user would.
type Setting struct{ Flag, Value string }

// sharedFlag is a flag of the servers that all members of a cluster have in common.
type sharedFlag struct {
	name  string
	value func(*Server) string
}

// sharedFlags is the table of them. An agent is given their values by its server. It accepts the flags all the same, so
// that one configuration file does for all machines, and compares.
func sharedFlags() []sharedFlag {
	return []sharedFlag{
		{"cluster-cidr", func(s *Server) string { return commas(s.Network.ClusterCIDRs) }},
		{"service-cidr", func(s *Server) string { return commas(s.Network.ServiceCIDRs) }},
		{"service-node-port-range", func(s *Server) string { return s.Network.NodePorts.String() }},
		{"cluster-dns", func(s *Server) string { return commas(s.ClusterDNS()) }},
		{"cluster-domain", func(s *Server) string { return s.Network.Domain }},
		{"flannel-backend", func(s *Server) string { return s.Network.FlannelBackend }},
		{"flannel-external-ip", func(s *Server) string { return strconv.FormatBool(s.Network.FlannelExternalIP) }},
		{"flannel-ipv6-masq", func(s *Server) string { return strconv.FormatBool(s.Network.FlannelIPv6Masquerade) }},
		{"disable-kube-proxy", func(s *Server) string { return strconv.FormatBool(!s.Components.KubeProxy) }},
		{"disable-network-policy", func(s *Server) string { return strconv.FormatBool(!s.Components.NetworkPolicy) }},
		{"disable", func(s *Server) string { return sorted(s.Components.Disabled) }},
		// A server without an API has neither, whatever it was told.
		{"disable-scheduler", func(s *Server) string { return strconv.FormatBool(!s.Components.Scheduler && s.Components.APIServer) }},
		{"disable-controller-manager", func(s *Server) string {
			return strconv.FormatBool(!s.Components.ControllerManager && s.Components.APIServer)
		}},
		{"disable-cloud-controller", func(s *Server) string { return strconv.FormatBool(!s.Components.CloudController) }},
		{"disable-helm-controller", func(s *Server) string { return strconv.FormatBool(!s.Components.HelmController) }},
		{"default-local-storage-path", func(s *Server) string { return s.Components.LocalStorage }},
		{"virtual-ip", func(s *Server) string { return valid(s.Listener.VirtualIP) }},
		{"system-default-registry", func(s *Server) string { return s.SystemRegistry }},
	}
}

func commas[T any](l List[T]) string {
	var texts []string
	for _, item := range l.All() {
		texts = append(texts, fmt.Sprint(item))
	}
	return strings.Join(texts, ",")
}

// valid is an address, or nothing.
func valid(a netip.Addr) string {
	if a.IsValid() {
		return a.String()
	}
	return ""
}

// sorted is commas for a list whose order means nothing.
func sorted(l List[string]) string {
	items := slices.Clone(l.Slice())
	slices.Sort(items)
	return strings.Join(slices.Compact(items), ",")
}

// Shared are the settings that every member of the server's cluster has to have.
func (s Server) Shared() []Setting {
	var all []Setting
	for _, f := range sharedFlags() {
		all = append(all, Setting{f.name, f.value(&s)})
	}
	return all
}

// FromCluster is a server's configuration with the shared settings of a cluster, as an agent was given them, and
// defaults for all else. Flags and packaged components that this version does not know are left out: a newer server may
// have more.
func FromCluster(settings []Setting) (Server, error) {
	in := Input{Hostname: "node"}
	for _, s := range settings {
		if s.Flag == "disable" {
			names := strings.Split(s.Value, ",")
			s.Value = strings.Join(slices.DeleteFunc(names, func(n string) bool { return !slices.Contains(PackagedComponents(), n) }), ",")
		}
		if slices.ContainsFunc(sharedFlags(), func(f sharedFlag) bool { return f.name == s.Flag }) {
			in.CommandLine = append(in.CommandLine, Occurrence{Name: s.Flag, Value: s.Value})
		}
	}
	s, err := LoadServer(in)
	if err != nil {
		return Server{}, fmt.Errorf("the cluster's settings: %w", err)
	}
	return s, nil
}

// Adopt is s with the shared settings of the cluster that it joins, but for those that the user gave, which the caller
// compares.
func (s Server) Adopt(settings []Setting) (Server, error) {
	cluster, err := FromCluster(settings)
	if err != nil {
		return Server{}, err
	}
	flags := newIndex(Table())
	for _, shared := range sharedFlags() {
		has := func(list []Setting) bool {
			return slices.ContainsFunc(list, func(x Setting) bool { return x.Flag == shared.name })
		}
		if has(settings) && !has(s.Told.Slice()) {
			flags[shared.name].bind.adopt(&s, &cluster)
		}
	}
	return s, nil
}

// Accepted is the table of the flags that a command takes: its own and, for an agent, those that the cluster shares.
func Accepted(role Role) []Flag {
	if role != RoleAgent {
		return Flags(role)
	}
	shared := sharedFlags()
	return slices.DeleteFunc(Table(), func(f Flag) bool {
		return f.Roles&role == 0 && !slices.ContainsFunc(shared, func(s sharedFlag) bool { return s.name == f.Name })
	})
}

// told are the shared settings that the user gave.
func (l *loader) told(s *Server) []Setting {
	var given []Setting
	for _, f := range sharedFlags() {
		if l.given(f.name) {
			given = append(given, Setting{f.name, f.value(s)})
		}
	}
	return given
}
