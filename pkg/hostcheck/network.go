package hostcheck

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/knarr-io/knarr/pkg/process"
)

// nodeNamePattern is an RFC 1123 subdomain, as upstream validates node names.
const nodeNamePattern = `^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`

func (c *checker) nodeName() []Result {
	name := c.settings.NodeName
	switch {
	case len(name) > 253 || !regexp.MustCompile(nodeNamePattern).MatchString(name):
		return fail(fmt.Sprintf("%q cannot name a node", name), "give --node-name with lower-case letters, digits, '-' and '.', or rename the host with `hostnamectl set-hostname`")
	case name == "localhost" || strings.HasPrefix(name, "localhost."):
		return warn(name, "every unnamed host has this name, and two nodes may not: give --node-name")
	case len(name) > 63:
		return warn(fmt.Sprintf("%s has %d characters", name, len(name)), "labels hold at most 63: give a shorter --node-name")
	}
	return ok(name)
}

func (c *checker) defaultRoute() []Result {
	table, _ := c.Table.NetFile("route")
	for _, line := range strings.Split(string(table), "\n") {
		if fields := strings.Fields(line); len(fields) > 7 && fields[1] == "00000000" && fields[7] == "00000000" {
			return ok("by " + fields[0])
		}
	}
	table, _ = c.Table.NetFile("ipv6_route")
	for _, line := range strings.Split(string(table), "\n") {
		fields := strings.Fields(line)
		if len(fields) == 10 && strings.Trim(fields[0], "0") == "" && fields[1] == "00" && fields[9] != "lo" {
			return ok("by " + fields[9] + " (IPv6)")
		}
	}
	return warn("none", "the node's address cannot be guessed: give --node-ip")
}

// resolvedFile is where systemd-resolved keeps the servers it asks itself.
const resolvedFile = "run/systemd/resolve/resolv.conf"

func (c *checker) resolver() []Result {
	servers, loopback := c.nameservers("etc/resolv.conf")
	switch {
	case servers == 0:
		return warn("/etc/resolv.conf names no server", "pods cannot resolve names outside of the cluster: add one, or give --resolv-conf")
	case loopback < servers:
		return ok(fmt.Sprintf("%d servers", servers-loopback))
	}
	if all, local := c.nameservers(resolvedFile); all > local {
		return ok("systemd-resolved; its own servers are used for pods")
	}
	return warn("only a server on this host itself", "pods cannot reach it: give --resolv-conf with a file that names the servers behind it")
}

func (c *checker) nameservers(path string) (all, loopback int) {
	file, _ := c.read(path)
	for _, line := range strings.Split(file, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		all++
		if addr, err := netip.ParseAddr(fields[1]); err == nil && addr.IsLoopback() {
			loopback++
		}
	}
	return all, loopback
}

// ports is one row for each port that is taken, one for all when none is.
func (c *checker) ports() []Result {
	listeners, err := c.Table.Listeners()
	if err != nil {
		return warn(err.Error(), "mount /proc")
	}
	var taken []Result
	own := false
	for _, port := range c.settings.Ports {
		holder, found := holderOf(listeners, port)
		switch {
		case !found:
		case running(holder):
			own = true
		case holder.PID == 0 && port.Network == "udp":
			own = true // a kernel socket: flannel's own, kept while knarr is down
		default:
			by := holder.String()
			if holder.PID == 0 {
				by = "a process that is not visible from here"
			}
			action := "stop that process"
			if port.Flag != "" {
				action += ", or change the port with " + port.Flag
			}
			taken = append(taken, Result{Name: fmt.Sprintf("port %d/%s", port.Number, port.Network), Level: Fail,
				Finding: fmt.Sprintf("wanted for the %s, taken by %s", port.Use, by), Action: action})
		}
	}
	switch {
	case len(taken) > 0:
		return taken
	case own:
		return ok("held by the running knarr")
	}
	return ok(fmt.Sprintf("all %d free", len(c.settings.Ports)))
}

func holderOf(listeners []process.Listener, port Port) (process.Process, bool) {
	for _, l := range listeners {
		if strings.TrimSuffix(l.Network, "6") == port.Network && l.Addr.Port() == port.Number {
			return l.Owner, true
		}
	}
	return process.Process{}, false
}

// podAndServiceCIDRs are the defaults: what pods send to the node and to Services must pass.
func podAndServiceCIDRs() []string { return []string{"10.42.0.0/16", "10.43.0.0/16"} }

func (c *checker) firewall() []Result {
	if conf, _ := c.read("etc/ufw/ufw.conf"); strings.Contains(conf, "ENABLED=yes") {
		var lines []string
		for _, port := range c.portsFor(Anywhere) {
			lines = append(lines, "ufw allow "+port)
		}
		for _, cidr := range podAndServiceCIDRs() {
			lines = append(lines, "ufw allow from "+cidr)
		}
		return warn("ufw is active", "`ufw disable`, or: `"+strings.Join(lines, "; ")+"`"+c.betweenNodes())
	}
	all, err := c.Table.List()
	if err != nil {
		return warn(err.Error(), "mount /proc")
	}
	for _, p := range all {
		if p.Comm != "firewalld" && !strings.Contains(strings.Join(p.Args, " "), "/firewalld") {
			continue
		}
		var lines []string
		for _, port := range c.portsFor(Anywhere) {
			lines = append(lines, "firewall-cmd --permanent --add-port="+port)
		}
		trust := "firewall-cmd --permanent --zone=trusted"
		for _, cidr := range podAndServiceCIDRs() {
			trust += " --add-source=" + cidr
		}
		lines = append(lines, trust, "firewall-cmd --reload")
		return warn("firewalld is active", "`systemctl disable --now firewalld`, or: `"+strings.Join(lines, "; ")+"`"+c.betweenNodes())
	}
	return ok("neither ufw nor firewalld")
}

// betweenNodes says which ports have to be open for other nodes: neither vxlan nor etcd is to be reached by strangers.
func (c *checker) betweenNodes() string {
	list := c.portsFor(Nodes)
	if len(list) == 0 {
		return ""
	}
	return "; for other nodes of the cluster, if there are any, and for nobody else: " + strings.Join(list, ", ")
}

// portsFor are the ports that are used from there, each as "6443/tcp".
func (c *checker) portsFor(from Reach) []string {
	var list []string
	for _, p := range c.settings.Ports {
		if p.From == from {
			list = append(list, fmt.Sprintf("%d/%s", p.Number, p.Network))
		}
	}
	return list
}
