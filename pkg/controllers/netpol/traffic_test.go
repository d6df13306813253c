package netpol

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"

	"github.com/knarr-io/knarr/tests/apart"
)

// machine is a network namespace with an eth0: a pod on this node's bridge, or a pod of another node behind a router.
type machine struct {
	t      *testing.T
	name   string
	ns     netns.NsHandle
	v4, v6 string
}

// in runs f in the machine's network.
func (m *machine) in(f func() error) error { return apart.InNetwork(m.ns, f) }

func setSysctl(t *testing.T, name, value string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// attach makes a machine whose other end in this namespace is link, at master if that is not nil.
func attach(t *testing.T, name, link string, master netlink.Link, v4, v6, gateway4, gateway6 string) *machine {
	t.Helper()
	ns, err := apart.NewNetwork()
	must(t, err)
	t.Cleanup(func() { must(t, ns.Close()) })
	m := &machine{t: t, name: name, ns: ns, v4: strings.Split(v4, "/")[0], v6: strings.Split(v6, "/")[0]}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: link}, PeerName: "eth0", PeerNamespace: netlink.NsFd(m.ns)}
	must(t, netlink.LinkAdd(veth))
	t.Cleanup(func() { must(t, netlink.LinkDel(veth)) })
	if master != nil {
		must(t, netlink.LinkSetMaster(veth, master))
	}
	must(t, netlink.LinkSetUp(veth))
	must(t, m.in(func() error { return configure(v4, v6, gateway4, gateway6) }))
	return m
}

// configure sets up eth0 and lo.
func configure(v4, v6, gateway4, gateway6 string) error {
	for _, name := range []string{"lo", "eth0"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
		if name == "lo" {
			continue
		}
		for _, text := range []string{v4, v6} {
			if err := addAddress(l, text); err != nil {
				return err
			}
		}
		for _, gw := range []string{gateway4, gateway6} {
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(gw)}); err != nil {
				return fmt.Errorf("route by %s: %w", gw, err)
			}
		}
	}
	return nil
}

// addAddress adds an address that may be used at once.
func addAddress(l netlink.Link, text string) error {
	a, err := netlink.ParseAddr(text)
	if err != nil {
		return err
	}
	a.Flags = unix.IFA_F_NODAD
	return netlink.AddrAdd(l, a)
}

// serve answers with a line on a TCP and a UDP port, of both families, until the test ends.
func (m *machine) serve(ports ...int) {
	m.t.Helper()
	for _, port := range ports {
		addr := ":" + strconv.Itoa(port)
		var l net.Listener
		var p net.PacketConn
		must(m.t, m.in(func() (err error) {
			if l, err = net.Listen("tcp", addr); err != nil {
				return err
			}
			p, err = net.ListenPacket("udp", addr)
			return err
		}))
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, "hello") // the client may have gone
				_ = c.Close()
			}
		})
		wg.Go(func() {
			b := make([]byte, 16)
			for {
				_, from, err := p.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = p.WriteTo([]byte("hello"), from)
			}
		})
		m.t.Cleanup(func() {
			must(m.t, errors.Join(l.Close(), p.Close()))
			wg.Wait()
		})
	}
}

// unanswered is how long nothing must come back for a packet to be dropped.
const unanswered = 700 * time.Millisecond

// reaches tells whether a server answers the machine.
func (m *machine) reaches(network, host string, port int) (ok bool) {
	return m.reachesAs("", network, host, port)
}

// reachesAs is reaches from one of several addresses of the machine.
func (m *machine) reachesAs(own, network, host string, port int) (ok bool) {
	d := net.Dialer{Timeout: unanswered}
	if own != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(own)}
	}
	err := m.in(func() error {
		c, err := d.Dial(network, net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			return nil
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(unanswered)); err != nil {
			return err
		}
		if network == "udp" {
			if _, err := c.Write([]byte("hi")); err != nil {
				return nil
			}
		}
		b := make([]byte, 16)
		n, _ := c.Read(b)
		ok = string(b[:n]) == "hello"
		return nil
	})
	if err != nil {
		m.t.Error(err)
	}
	return ok
}

// network is a node with two pods on its bridge, and a pod of another node.
type network struct {
	node, db, web, far *machine
}

func newNetwork(t *testing.T) network {
	t.Helper()
	for _, s := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		setSysctl(t, s, "1")
	}
	// Without duplicate address detection links have their addresses at once.
	setSysctl(t, "net/ipv6/conf/default/accept_dad", "0")
	for _, s := range []string{"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"} {
		if _, err := os.Stat("/proc/sys/" + s); err == nil {
			setSysctl(t, s, "0") // as on a host without the module br_netfilter
		}
	}
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	here, err := netns.Get()
	must(t, err)
	t.Cleanup(func() { must(t, here.Close()) })
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}}
	must(t, netlink.LinkAdd(bridge))
	t.Cleanup(func() { must(t, netlink.LinkDel(bridge)) })
	must(t, netlink.LinkSetUp(bridge))
	must(t, addAddress(bridge, "10.42.0.1/24"))
	must(t, addAddress(bridge, "fd42::1/64"))
	n := network{
		node: &machine{t: t, name: "node", ns: here, v4: "10.42.0.1", v6: "fd42::1"},
		db:   attach(t, "db", "veth1", bridge, "10.42.0.2/24", "fd42::2/64", "10.42.0.1", "fd42::1"),
		web:  attach(t, "web", "veth2", bridge, "10.42.0.3/24", "fd42::3/64", "10.42.0.1", "fd42::1"),
		far:  attach(t, "far", "veth3", nil, "10.42.1.9/24", "fd42:0:0:1::9/64", "10.42.1.1", "fd42:0:0:1::1"),
	}
	tunnel, err := netlink.LinkByName("veth3")
	must(t, err)
	must(t, addAddress(tunnel, "10.42.1.1/24"))
	must(t, addAddress(tunnel, "fd42:0:0:1::1/64"))
	refetched, err := netlink.LinkByName("cni0") // as the bridge plugin does: the address shall stay
	must(t, err)
	must(t, netlink.LinkSetHardwareAddr(refetched, refetched.Attrs().HardwareAddr))
	n.db.serve(80, 90)
	n.web.serve(80)
	n.far.serve(80)
	return n
}

// cluster are the objects and records of a network.
func (n network) cluster(t *testing.T, r string) []apiruntime.Object {
	t.Helper()
	db := kubePod("shop", "db", "here", map[string]string{"app": "db"})
	db.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "sql", ContainerPort: 80, Protocol: corev1.ProtocolTCP}}
	for i, m := range []*machine{n.db, n.web} {
		record := fmt.Sprintf(`{"ifName":"eth0","cniArgs":[["K8S_POD_NAMESPACE","shop"],["K8S_POD_NAME",%q],["K8S_POD_UID",%q]],
"result":{"interfaces":[{"name":"cni0"},{"name":"veth%d"}],"ips":[{"address":"%s/24"},{"address":"%s/64"}]}}`, m.name, "shop-"+m.name, i+1, m.v4, m.v6)
		must(t, os.WriteFile(filepath.Join(r, "cbr0-"+m.name+"-eth0"), []byte(record), 0o600))
	}
	return []apiruntime.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "lab", Labels: map[string]string{"team": "b"}}},
		db, kubePod("shop", "web", "here", map[string]string{"app": "web"}),
		kubePod("lab", "far", "there", map[string]string{"app": "web"}, n.far.v4, n.far.v6),
	}
}

// TestTraffic sends real packets between pods of one node, and from and to a pod of another, in both families, on a host
// without br_netfilter.
func TestTraffic(t *testing.T) {
	n := newNetwork(t)
	r := start(t, Config{Bridge: "cni0"})
	for _, o := range n.cluster(t, r.results) {
		must(t, r.client.Tracker().Add(o))
	}
	const all = "web>db:80 web>db:90 web>db:80/udp far>db:80 far>db:80/udp node>db:80 db>web:80 db>far:80 db>node"
	for _, c := range []struct {
		name, spec, want string
	}{
		{"no policy", "", all},
		{"deny all", `{podSelector: {}, policyTypes: [Ingress, Egress]}`, "node>db:80 db>node"},
		{"deny ingress to db", `{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress]}`, "node>db:80 db>web:80 db>far:80 db>node"},
		{"from pods", `{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}`,
			"web>db:80 web>db:90 web>db:80/udp node>db:80 db>web:80 db>far:80 db>node"},
		{"from pods in namespaces", `{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}, podSelector: {matchLabels: {app: web}}}]}]}`,
			"far>db:80 far>db:80/udp node>db:80 db>web:80 db>far:80 db>node"},
		{"a port", `{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], ingress: [{ports: [{port: 90}]}]}`,
			"web>db:90 node>db:80 db>web:80 db>far:80 db>node"},
		{"a range of ports", `{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], ingress: [{ports: [{port: 70, endPort: 85}, {port: 80, protocol: UDP}]}]}`,
			"web>db:80 web>db:80/udp far>db:80 far>db:80/udp node>db:80 db>web:80 db>far:80 db>node"},
		{"a named port", `{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {}}], ports: [{port: sql}]}]}`,
			"web>db:80 node>db:80 db>web:80 db>far:80 db>node"},
		{"blocks", `{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], ingress: [{from: [
  {ipBlock: {cidr: 10.42.0.0/16, except: [10.42.0.0/24]}}, {ipBlock: {cidr: "fd42::/48", except: ["fd42::/64"]}}]}]}`,
			"far>db:80 far>db:80/udp node>db:80 db>web:80 db>far:80 db>node"},
		{"deny egress of db", `{podSelector: {matchLabels: {app: db}}, policyTypes: [Egress]}`,
			"web>db:80 web>db:90 web>db:80/udp far>db:80 far>db:80/udp node>db:80 db>node"},
		{"egress to pods", `{podSelector: {matchLabels: {app: db}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}]}`,
			"web>db:80 web>db:90 web>db:80/udp far>db:80 far>db:80/udp node>db:80 db>web:80 db>node"},
		{"egress to blocks", `{podSelector: {matchLabels: {app: db}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.42.1.9/32}}, {ipBlock: {cidr: "fd42:0:0:1::/64"}}]}]}`,
			"web>db:80 web>db:90 web>db:80/udp far>db:80 far>db:80/udp node>db:80 db>far:80 db>node"},
		{"no policy any more", "", all},
	} {
		r.become(c.name, c.spec)
		var wg sync.WaitGroup
		for _, f := range []family{ipv4, ipv6} {
			wg.Go(func() {
				if got := n.flows(f); got != c.want {
					t.Errorf("%s, IPv%d:\ngot  %s\nwant %s", c.name, f, got, c.want)
				}
			})
		}
		wg.Wait()
	}
}

// become has the cluster have one policy, or none, and waits until that is effective.
func (r *running) become(name, spec string) {
	r.t.Helper()
	ctx, policies := r.t.Context(), r.client.NetworkingV1().NetworkPolicies("shop")
	list, err := policies.List(ctx, metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, p := range list.Items {
		if err := policies.Delete(ctx, p.Name, metav1.DeleteOptions{}); err != nil {
			r.t.Fatal(err)
		}
	}
	if spec == "" {
		r.eventually("!chain")
		return
	}
	name = strings.ReplaceAll(name, " ", "-")
	r.create(policyOf(r.t, "shop", name, spec))
	chain := "shop/" + name
	if name == "elsewhere" {
		chain = "hook true" // it selects none
	}
	r.eventually(chain, verdictMap(ingress, ipv4)+" element "+fmt.Sprint([]byte{10, 42, 0, 3}))
}

// flows are the connections that work.
func (n network) flows(f family) string {
	at := func(m *machine) string {
		if f == ipv4 {
			return m.v4
		}
		return m.v6
	}
	tries := []struct {
		name    string
		from    *machine
		network string
		to      *machine
		port    int
	}{
		{"web>db:80", n.web, "tcp", n.db, 80},
		{"web>db:90", n.web, "tcp", n.db, 90},
		{"web>db:80/udp", n.web, "udp", n.db, 80},
		{"far>db:80", n.far, "tcp", n.db, 80},
		{"far>db:80/udp", n.far, "udp", n.db, 80},
		{"node>db:80", n.node, "tcp", n.db, 80},
		{"db>web:80", n.db, "tcp", n.web, 80},
		{"db>far:80", n.db, "tcp", n.far, 80},
		{"db>node", n.db, "tcp", n.node, 0},
	}
	works := make([]bool, len(tries))
	var wg sync.WaitGroup
	for i, try := range tries {
		wg.Go(func() {
			if try.port == 0 {
				works[i] = try.from.refusedBy(at(try.to))
				return
			}
			works[i] = try.from.reaches(try.network, at(try.to), try.port)
		})
	}
	wg.Wait()
	var names []string
	for i, ok := range works {
		if ok {
			names = append(names, tries[i].name)
		}
	}
	return strings.Join(names, " ")
}

// refusedBy tells whether a host answers on a port where nobody listens.
func (m *machine) refusedBy(host string) (ok bool) {
	err := m.in(func() error {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(host, "1"), unanswered)
		ok = errors.Is(err, unix.ECONNREFUSED)
		if err == nil {
			return c.Close()
		}
		return nil
	})
	if err != nil {
		m.t.Error(err)
	}
	return ok
}

// With policies, what policies do not know is closed: addresses of no pod, and link-local ones.
func TestUnknownAddressesAreClosed(t *testing.T) {
	n := newNetwork(t)
	r := start(t, Config{Bridge: "cni0"})
	for _, o := range n.cluster(t, r.results) {
		must(t, r.client.Tracker().Add(o))
	}
	var local string
	must(t, n.db.in(func() error {
		l, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := l.Addrs()
		for _, a := range addrs {
			if ip := a.(*net.IPNet).IP; ip.To4() == nil && ip.IsLinkLocalUnicast() {
				local = ip.String() + "%eth0"
			}
		}
		return err
	}))
	begin := time.Now()
	for !n.web.reaches("tcp", local, 80) { // until duplicate address detection is over in the pods
		if time.Since(begin) > 20*time.Second {
			t.Fatal("link-local addresses do not work at all")
		}
	}
	const stranger = "10.42.0.33"
	must(t, n.web.in(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return addAddress(l, stranger+"/24")
	}))
	open := func() string {
		return fmt.Sprintf("link-local %t, of no pod %t, of a pod %t", n.web.reaches("tcp", local, 80),
			n.web.reachesAs(stranger, "tcp", n.db.v4, 80), n.web.reachesAs(n.web.v4, "tcp", n.db.v4, 80))
	}
	if got := open(); got != "link-local true, of no pod true, of a pod true" {
		t.Errorf("without policies: %s", got)
	}
	r.become("elsewhere", `{podSelector: {matchLabels: {app: nobody}}, policyTypes: [Ingress]}`)
	if got := open(); got != "link-local false, of no pod false, of a pod true" {
		t.Errorf("with a policy: %s", got)
	}
}
