package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/knarr-io/knarr/tests/lab"
)

// credentials are testserver's flags that let a pod ask the API.
const credentials = "-ca /var/run/secrets/kubernetes.io/serviceaccount/ca.crt -token /var/run/secrets/kubernetes.io/serviceaccount/token "

// later is an address that a host did not begin with.
func later(h *lab.Host) string {
	a := h.Addr().As4()
	a[2] += 100
	return netip.AddrFrom4(a).String()
}

// renumber gives a host another address, as a DHCP server that forgot it does.
func (n *network) renumber(h *lab.Host, to string) {
	n.t.Helper()
	gateway := strings.Fields(n.on(h, "ip", "route", "show", "default"))[2]
	n.on(h, "ip", "addr", "del", n.addrs[h.Name()]+"/16", "dev", "eth0") // and with it the routes
	n.on(h, "ip", "addr", "add", to+"/16", "dev", "eth0")
	n.on(h, "ip", "route", "replace", "default", "via", gateway)
	n.addrs[h.Name()] = to
}

// moved waits until the cluster knows a host's address.
func (n *network) moved(h *lab.Host) {
	n.t.Helper()
	want := n.addrs[h.Name()]
	n.eventually("node "+h.Name()+" to have the address "+want, func() error {
		node, err := n.client.CoreV1().Nodes().Get(n.ctx, h.Name(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		public := node.Annotations["flannel.alpha.coreos.com/public-ip"]
		if a := node.Status.Addresses[0]; a.Type != corev1.NodeInternalIP || a.Address != want || public != want {
			return fmt.Errorf("it has %v, and publishes %s to other nodes", node.Status.Addresses, public)
		}
		return nil
	})
	n.eventually("the load balancer to have the address "+want, func() error {
		got, err := n.addresses("far")
		if err == nil && h == n.agent.Host && !slices.Contains(got, want) {
			err = fmt.Errorf("it has %v", got)
		}
		return err
	})
	n.reaches(false, "near", "far")
	n.hears("far", credentials+"https://10.43.0.1/livez", "ok")
	if out, err := n.runKubectl("logs", "far", "--tail=1"); err != nil {
		n.t.Errorf("logs from the agent: %v %s", err, out)
	}
}

func (n *network) agentMoves() {
	began := time.Now()
	n.renumber(n.agent.Host, later(n.agent.Host))
	n.moved(n.agent.Host)
	n.nodeReady(began)
	n.t.Logf("all follows %.1f s after the agent's address has changed", time.Since(began).Seconds())
	n.answers(n.passerby, webURL(n.addrs["east"], 18080, "/hostname"), 1)
}

func (n *network) serverMoves() {
	began := time.Now()
	n.renumber(n.server.Host, later(n.server.Host))
	n.knows("west", n.addrs["west"])
	n.serverMoved(began)
	n.t.Logf("all follows %.1f s after the server's address has changed", time.Since(began).Seconds())
}

// serverMoved waits until the server's new address is everybody's.
func (n *network) serverMoved(since time.Time) {
	n.t.Helper()
	want := n.addrs["west"]
	n.eventually("the API's own endpoint", func() error {
		list, err := n.client.DiscoveryV1().EndpointSlices("default").List(n.ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=kubernetes"})
		if err != nil {
			return err
		}
		var got []string
		for _, s := range list.Items {
			for _, e := range s.Endpoints {
				got = append(got, e.Addresses...)
			}
		}
		if !slices.Equal(got, []string{want}) {
			return fmt.Errorf("it is %v", got)
		}
		return nil
	})
	n.eventually("the agent's list of servers", func() error {
		out, err := n.agent.Command(n.ctx, "status")
		if !strings.Contains(out, want+":6443 (tunnel") {
			return fmt.Errorf("%v\n%s", err, out)
		}
		return nil
	})
	n.moved(n.server.Host)
	n.eventually("the agent's heartbeat", func() error {
		l, err := n.client.CoordinationV1().Leases("kube-node-lease").Get(n.ctx, "east", metav1.GetOptions{})
		if err == nil && !l.Spec.RenewTime.After(since) {
			err = fmt.Errorf("the last one was at %v", l.Spec.RenewTime)
		}
		return err
	})
}

// movesWhileDown has both addresses change between a stop and a start.
func (n *network) movesWhileDown() {
	_, err := n.agent.Command(n.ctx, "stop")
	n.must(err)
	_, err = n.agent.Process().Wait(n.ctx)
	n.must(err)
	_, err = n.server.Stop(n.ctx)
	n.must(err)
	n.renumber(n.server.Host, n.server.Host.Addr().String())
	n.renumber(n.agent.Host, n.agent.Host.Addr().String())
	n.knows("west", n.addrs["west"])
	began := time.Now()
	n.must(n.server.Start())
	_, err = n.server.WaitNode(n.ctx)
	n.must(err)
	n.must(n.agent.Start())
	n.serverMoved(began)
	n.moved(n.agent.Host)
}

// dualStack gives a cluster that runs IPv6 as well: the hosts get addresses, the server is told, the agent follows.
func (n *network) dualStack() {
	for i, h := range []*lab.Host{n.server.Host, n.agent.Host, n.passerby} {
		n.on(h, "ip", "addr", "add", fmt.Sprintf("fd00:198:18::%d/64", i+1), "dev", "eth0", "nodad")
	}
	networks := n.networks()
	n.reconfigure("--cluster-cidr=10.42.0.0/16,fd00:42::/56", "--service-cidr=10.43.0.0/16,fd00:43::/112")
	n.eventually("both nodes to have both families", func() error {
		for name, had := range networks {
			node, err := n.client.CoreV1().Nodes().Get(n.ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			nets, public := node.Spec.PodCIDRs, node.Annotations["flannel.alpha.coreos.com/public-ipv6"]
			if len(nets) != 2 || nets[0] != had || !strings.HasPrefix(nets[1], "fd00:42:") || public == "" || len(node.Status.Addresses) != 3 {
				return fmt.Errorf("node %s had %s, has %v, publishes %q, and its addresses are %v", name, had, nets, public, node.Status.Addresses)
			}
		}
		return nil
	})
	n.reaches(false, "near", "far") // as before
	for host, name := range map[string]string{"west": "near6", "east": "far6"} {
		n.createPod(n.at(host, pod(name, serving())))
	}
	n.createPod(n.at("west", pod("other6", idle("main"))))
	for _, name := range []string{"near6", "far6", "other6"} {
		n.podReady(name)
	}
	for _, six := range []bool{false, true} {
		n.reaches(six, "near6", "far6")
	}
	n.hears("near", webURL(n.ip("far6", false), 8080, "/client"), n.ip("near", false)) // one from before to a new one
	n.wide(1430)

	s := service("far6", corev1.ServiceTypeNodePort, 8080)
	s.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyRequireDualStack)
	s = n.createService(s)
	if len(s.Spec.ClusterIPs) != 2 {
		n.t.Fatalf("the Service has the addresses %v", s.Spec.ClusterIPs)
	}
	for _, ip := range s.Spec.ClusterIPs {
		n.hears("near6", webURL(ip, 8080, "/hostname"), "far6")
	}
	n.answers(n.passerby, webURL("fd00:198:18::1", int(s.Spec.Ports[0].NodePort), "/hostname"), 1)
	n.guarded(true, "near6", "other6", "far6")
	n.servicesGoOn()
}

// byTheSide has a second network between the nodes carry their pods' packets: the server is told the interface, the agent an
// address that it has on it. Nothing comes in over the first one any more.
func (n *network) byTheSide() {
	const link = "eth1"
	addrs := map[string][]string{"west": {"192.168.78.1/24", "fd00:198:78::1/64"}, "east": {"192.168.78.2/24", "fd00:198:78::2/64"}}
	end := func(h *lab.Host) lab.End {
		return lab.End{Host: h, Link: link, Addr: netip.MustParsePrefix(addrs[h.Name()][0])}
	}
	n.must(lab.Cable(end(n.server.Host), end(n.agent.Host)))
	for _, h := range []*lab.Host{n.server.Host, n.agent.Host} {
		n.on(h, "ip", "addr", "add", addrs[h.Name()][1], "dev", link, "nodad")
		n.on(h, "nft", "add table inet closed; add chain inet closed input { type filter hook input priority -300; }; "+
			"add rule inet closed input iifname eth0 udp dport 8472 drop")
	}
	n.again("--flannel-iface=" + link)
	_, err := n.agent.Stop(n.ctx)
	n.must(err)
	n.agent.Args = append(n.agent.Args, "--node-ip=192.168.78.2,fd00:198:78::2")
	began := time.Now()
	n.must(n.agent.Start())
	n.nodeReady(began)
	n.eventually("both nodes to publish their addresses on "+link, func() error {
		for name, own := range addrs {
			node, err := n.client.CoreV1().Nodes().Get(n.ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			for i, family := range []string{"ip", "ipv6"} {
				want, _, _ := strings.Cut(own[i], "/")
				if public := node.Annotations["flannel.alpha.coreos.com/public-"+family]; public != want {
					return fmt.Errorf("%s publishes %q, want %s", name, public, want)
				}
			}
			internal := node.Status.Addresses[0].Address
			if onLink := internal == "192.168.78.2"; onLink != (name == "east") {
				return fmt.Errorf("%s has the address %s", name, internal)
			}
		}
		return nil
	})
	n.reaches(false, "near", "far")
	n.reaches(true, "near6", "far6")
	for _, h := range []*lab.Host{n.server.Host, n.agent.Host} {
		n.on(h, "nft", "delete", "table", "inet", "closed")
	}
}

// networks are the nodes' first pod networks.
func (n *network) networks() map[string]string {
	n.t.Helper()
	nodes, err := n.client.CoreV1().Nodes().List(n.ctx, metav1.ListOptions{})
	n.must(err)
	nets := map[string]string{}
	for _, node := range nodes.Items {
		nets[node.Name] = node.Spec.PodCIDR
	}
	return nets
}

// servicesGoOn looks at the Services that every cluster has.
func (n *network) servicesGoOn() {
	n.t.Helper()
	n.eventually("the cluster's DNS to have both families", func() error {
		dns, err := n.client.CoreV1().Services("kube-system").Get(n.ctx, "kube-dns", metav1.GetOptions{})
		if err == nil && !slices.Equal(dns.Spec.ClusterIPs, []string{"10.43.0.10", "fd00:43::a"}) {
			err = fmt.Errorf("it has %v", dns.Spec.ClusterIPs)
		}
		return err
	})
	for _, from := range []string{"far", "far6"} {
		n.eventually("names to be found from "+from, func() error {
			out, err := n.inPod(from, "testserver get -timeout 2s http://far6.default.svc.cluster.local:8080/hostname")
			if err == nil && out != "far6" {
				err = errors.New(out)
			}
			return err
		})
		n.hears(from, credentials+"https://kubernetes.default.svc/livez", "ok")
	}
}

// TestIPv6Only is a node without IPv4.
func TestIPv6Only(t *testing.T) {
	s := own(t, "six", lab.Options{})
	outside := suite.lab.Host(t, "outsix", lab.Options{})
	for i, h := range []*lab.Host{s.Host, outside} {
		for _, args := range [][]string{
			{"ip", "-4", "addr", "flush", "dev", "eth0"},
			{"ip", "addr", "add", fmt.Sprintf("fd00:198:19::%d/64", i+1), "dev", "eth0", "nodad"},
			{"ip", "route", "add", "default", "via", "fd00:198:19::fe", "dev", "eth0"}, // the kernel sends nothing to a Service without
		} {
			_, err := h.Exec(t.Context(), args...)
			must(t, err)
		}
	}
	s.Args = []string{"--cluster-cidr=fd00:42::/56", "--service-cidr=fd00:43::/112"}
	e := begin(t, s)
	p := e.startPod(pod("inside", serving()))
	if len(p.Status.PodIPs) != 1 || !strings.HasPrefix(p.Status.PodIP, "fd00:42:") {
		t.Errorf("the pod has the addresses %v", p.Status.PodIPs)
	}
	svc := e.createService(service("inside", corev1.ServiceTypeNodePort, 8080))
	e.answers(s.Host, webURL(svc.Spec.ClusterIP, 8080, "/hostname"), 1)
	e.answers(outside, webURL("fd00:198:19::1", int(svc.Spec.Ports[0].NodePort), "/hostname"), 1)
	e.eventually("names to be found", func() error {
		_, err := e.inPod("inside", "testserver get -timeout 2s "+credentials+"https://kubernetes.default.svc/livez")
		return err
	})
	e.addPolicy("closed", `{podSelector: {matchLabels: {app: inside}}, policyTypes: [Ingress]}`)
	e.eventually("the pod to be closed", func() error {
		if _, err := get(outside, webURL("fd00:198:19::1", int(svc.Spec.Ports[0].NodePort), "/hostname")); err == nil {
			return errors.New("it answers")
		}
		return nil
	})
}
