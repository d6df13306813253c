package e2e

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/lab"
)

// network is a cluster of two machines with a pod on each, and a machine that is no part of it.
type network struct {
	*joined
	passerby *lab.Host
	// addrs are the hosts' addresses of now, by host name; the host's own Addr is where it began.
	addrs map[string]string
}

// TestNetwork is the network between two nodes, and how it follows what changes below it, with the same pods throughout.
func TestNetwork(t *testing.T) {
	n := &network{joined: &joined{server: own(t, "west", lab.Options{}), agent: own(t, "east", lab.Options{})}, addrs: map[string]string{}}
	n.passerby = suite.lab.Host(t, "passerby", lab.Options{})
	for _, h := range []*lab.Host{n.server.Host, n.agent.Host} {
		n.addrs[h.Name()] = h.Addr().String()
	}
	n.env = begin(t, n.server)
	n.knows("west", n.addrs["west"])
	line := n.line()
	line[1] = "https://west:6443"
	n.start(line)
	for host, name := range map[string]string{"west": "near", "east": "far"} {
		n.createPod(n.at(host, pod(name, serving())))
	}
	n.createPod(n.at("west", pod("other", idle("main"))))
	for _, name := range []string{"near", "far", "other"} {
		n.podReady(name)
	}
	for _, step := range []struct {
		name string
		run  func(*network)
	}{
		{"vxlan", (*network).vxlan},
		{"the interface's MTU changes", (*network).mtu},
		{"the agent's address changes", (*network).agentMoves},
		{"the server's address changes", (*network).serverMoves},
		{"addresses change while knarr is down", (*network).movesWhileDown},
		{"dual stack is switched on", (*network).dualStack},
		{"another network between the nodes", (*network).byTheSide},
		{"host-gw", (*network).hostGW},
	} {
		before := n.containers()
		ok := t.Run(step.name, func(t *testing.T) {
			here, j := *n, *n.joined
			here.joined, j.env = &j, place(t, n.server, n.client)
			step.run(&here)
			if after := here.containers(); !strings.Contains(after, strings.TrimSpace(before)) {
				t.Errorf("the agent's containers were\n%s and are\n%s", before, after)
			}
		})
		if !ok {
			return
		}
	}
}

// serving is a web server in an image that has a shell.
func serving() corev1.Container {
	c := shell("http", "exec testserver http")
	c.ReadinessProbe = web().ReadinessProbe
	return c
}

// at puts a pod on a node.
func (n *network) at(host string, p *corev1.Pod) *corev1.Pod {
	p.Spec.NodeName = host
	return p
}

// knows tells the agent's host where a name is.
func (n *network) knows(name, addr string) {
	n.t.Helper()
	n.must(n.agent.Host.WriteFile("/etc/hosts", []byte("127.0.0.1 localhost\n"+addr+" "+name+"\n"), 0o644))
}

// on runs a command on one of the hosts.
func (n *network) on(h *lab.Host, args ...string) string {
	n.t.Helper()
	out, err := h.Exec(n.ctx, args...)
	n.must(err)
	return out
}

// ip is a pod's address of one family.
func (n *network) ip(pod string, six bool) string {
	n.t.Helper()
	p, err := n.getPod(pod)
	n.must(err)
	for _, a := range p.Status.PodIPs {
		if strings.Contains(a.IP, ":") == six {
			return a.IP
		}
	}
	n.t.Fatalf("pod %s has the addresses %v", pod, p.Status.PodIPs)
	return ""
}

// webURL is what a pod's web server says at path.
func webURL(addr string, port int, path string) string {
	return "http://" + net.JoinHostPort(addr, strconv.Itoa(port)) + path
}

// hears waits until a pod gets an answer, which is want unless that is "".
func (n *network) hears(from, url, want string) {
	n.t.Helper()
	n.eventually("pod "+from+" to hear from "+url, func() error {
		got, err := n.inPod(from, "testserver get -timeout 2s "+url)
		if err == nil && want != "" && got != want {
			err = fmt.Errorf("it says %q, want %q", got, want)
		}
		return err
	})
}

// reaches has the pods of the two nodes talk with each other, and be who they are to each other.
func (n *network) reaches(six bool, near, far string) {
	n.t.Helper()
	n.hears(near, webURL(n.ip(far, six), 8080, "/client"), n.ip(near, six))
	n.hears(far, webURL(n.ip(near, six), 8080, "/client"), n.ip(far, six))
}

// exposed is a Service of app=far, in front of the pod on the agent.
func (n *network) exposed(name string, kind corev1.ServiceType, port int32) *corev1.Service {
	s := balancer(name, port)
	s.Spec.Type, s.Spec.Selector = kind, map[string]string{"app": "far"}
	return n.createService(s)
}

func (n *network) vxlan() {
	n.reaches(false, "near", "far")
	svc := n.exposed("far", corev1.ServiceTypeLoadBalancer, 18080)
	n.hears("near", webURL(svc.Spec.ClusterIP, 18080, "/hostname"), "far")
	n.listed("far", n.addrs["east"], n.addrs["west"]) // in the order of the nodes' names
	for _, host := range []string{"east", "west"} {
		for _, port := range []int{18080, int(svc.Spec.Ports[0].NodePort)} {
			n.answers(n.passerby, webURL(n.addrs[host], port, "/hostname"), 1)
		}
	}
	// Without Local the answer goes through the node that was asked, so it is that node that asks the pod.
	n.mustKubectl("patch", "service", "far", "-p", `{"spec":{"externalTrafficPolicy":"Local"}}`)
	n.listed("far", n.addrs["east"])
	for _, port := range []int{18080, int(svc.Spec.Ports[0].NodePort)} {
		n.eventually("the client's own address", func() error {
			from, err := get(n.passerby, webURL(n.addrs["east"], port, "/client"))
			if err == nil && from != n.passerby.Addr().String() {
				err = fmt.Errorf("the pod sees %s", from)
			}
			return err
		})
	}
	n.guarded(false, "near", "other", "far")
}

// guarded has a policy let one pod in and not another, both on another node than the pod that they ask.
func (n *network) guarded(six bool, friend, stranger, target string) {
	n.t.Helper()
	to := webURL(n.ip(target, six), 8080, "/hostname")
	f := flows{friend: n.asks(friend, to), stranger: n.asks(stranger, to)}
	n.working("without policies", f, friend, stranger)
	n.policy(`{podSelector: {matchLabels: {app: ` + target + `}}, ingress: [{from: [{podSelector: {matchLabels: {app: ` + friend + `}}}]}]}`)
	n.working("with a policy", f, friend)
	n.mustKubectl("delete", "networkpolicy", "--all")
	n.working("without policies again", f, friend, stranger)
}

// wide waits until the pod network on the agent has an MTU: in the pod, of its links, and for pods to come.
func (n *network) wide(mtu int) {
	n.t.Helper()
	n.eventually(fmt.Sprintf("the pod network to have the MTU %d", mtu), func() error {
		inside, err := n.inPod("far", "cat /sys/class/net/eth0/mtu")
		if err != nil {
			return err
		}
		host := n.on(n.agent.Host, "sh", "-c", "cat /sys/class/net/cni0/mtu /sys/class/net/cni0/brif/*/../mtu /sys/class/net/flannel.1/mtu /sys/class/net/flannel-v6.1/mtu 2>/dev/null | sort -u; grep -o '\"mtu\": [0-9]*' /var/lib/knarr/agent/etc/cni/net.d/10-flannel.conflist")
		want := fmt.Sprintf("%d\n\"mtu\": %d", mtu, mtu)
		if inside != strconv.Itoa(mtu) || strings.TrimSpace(host) != want {
			return fmt.Errorf("the pod has %s, the host %q", inside, host)
		}
		return nil
	})
}

func (n *network) mtu() {
	n.wide(1450)
	n.on(n.agent.Host, "ip", "link", "set", "eth0", "mtu", "1400")
	n.wide(1350)
	n.reaches(false, "near", "far")
	n.on(n.agent.Host, "ip", "link", "set", "eth0", "mtu", "1500")
	n.wide(1450)
}

// hostGW has the cluster change the way between its nodes: the server is told, the agent follows.
func (n *network) hostGW() {
	n.reconfigure("--flannel-backend=host-gw")
	n.eventually("both nodes to publish the backend", func() error {
		for _, host := range []string{"west", "east"} {
			node, err := n.client.CoreV1().Nodes().Get(n.ctx, host, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if kind := node.Annotations["flannel.alpha.coreos.com/backend-type"]; kind != "host-gw" {
				return fmt.Errorf("node %s has %q", host, kind)
			}
		}
		return nil
	})
	n.reaches(false, "near", "far")
	n.reaches(true, "near6", "far6")
	for _, s := range []*lab.Host{n.server.Host, n.agent.Host} {
		if out := n.on(s, "ip", "-o", "link"); strings.Contains(out, "flannel") {
			n.t.Errorf("links of another backend are left on %s:\n%s", s.Name(), out)
		}
	}
	if mtu, err := n.inPod("far", "cat /sys/class/net/eth0/mtu"); err != nil || mtu != "1500" {
		n.t.Errorf("a running pod has the MTU %s, %v; want 1500", mtu, err)
	}
}

// reconfigure starts the server again with more arguments, which the agent follows. It is left alone.
func (n *network) reconfigure(args ...string) {
	n.t.Helper()
	n.nodeReady(n.again(args...))
}

// again starts the server again with more arguments.
func (n *network) again(args ...string) (began time.Time) {
	n.t.Helper()
	_, err := n.server.Stop(n.ctx)
	n.must(err)
	n.server.Args = slices.Concat(n.server.Args, args)
	began = time.Now()
	n.must(n.server.Start())
	_, err = n.server.WaitNode(n.ctx)
	n.must(err)
	return began
}

// TestNoWireGuard has a server say what its kernel lacks, and do nothing else; or work, where the kernel has it.
func TestNoWireGuard(t *testing.T) {
	s := own(t, "guard", lab.Options{})
	_, err := s.Host.Exec(t.Context(), "ip", "link", "add", "probe", "type", "wireguard")
	if err == nil {
		s.Args = []string{"--flannel-backend=wireguard-native"}
		e := begin(t, s)
		e.startPod(pod("inside", serving()))
		out, err := s.Host.Exec(t.Context(), "ip", "-o", "link", "show", "flannel-wg")
		if err != nil || !strings.Contains(out, "mtu 1420") {
			t.Errorf("the link is %q, %v", out, err)
		}
		return
	}
	_, err = s.Command(t.Context(), "server", "--flannel-backend=wireguard-native")
	if err == nil {
		err = errors.New("it started")
	}
	for _, want := range []string{"this kernel has none", "modprobe wireguard", "--flannel-backend=vxlan"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("want %q in: %v", want, err)
		}
	}
	out, err := s.Command(t.Context(), "check-config", "--flannel-backend=wireguard-native")
	if err == nil || !strings.Contains(out+err.Error(), "wireguard") {
		t.Errorf("check-config says %v\n%s", err, out)
	}
}
