package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/lab"
)

// TestNetworkBehindNAT has an agent behind a router that hides it: the server can open no connection to it, and the
// router passes nothing in but the pod network's packets.
func TestNetworkBehindNAT(t *testing.T) {
	n := &network{joined: &joined{server: own(t, "hub", lab.Options{}), agent: own(t, "inner", lab.Options{})}, addrs: map[string]string{}}
	router := suite.lab.Host(t, "router", lab.Options{})
	const inside, outside = "192.168.77.2", "192.168.77.1"
	must(t, lab.Cable(lab.End{Host: router, Link: "lan1", Addr: netip.MustParsePrefix(outside + "/24")},
		lab.End{Host: n.agent.Host, Link: "eth1", Addr: netip.MustParsePrefix(inside + "/24")}))
	for _, c := range []struct {
		host *lab.Host
		line string
	}{
		{n.agent.Host, "ip link set eth0 down; ip addr flush dev eth0; ip route add default via " + outside},
		{router, "echo 1 > /proc/sys/net/ipv4/ip_forward; nft -f - <<. \ntable ip nat {\n" +
			"chain out { type nat hook postrouting priority 100; oifname eth0 masquerade; }\n" +
			"chain in { type nat hook prerouting priority -100; iifname eth0 udp dport 8472 dnat to " + inside + "; }\n}\n" +
			"table ip closed {\nchain in { type filter hook forward priority 0; iifname eth0 ct state new udp dport != 8472 drop; iifname eth0 ct state new meta l4proto tcp drop; }\n}\n.\n"},
	} {
		_, err := c.host.Exec(t.Context(), "sh", "-c", c.line)
		must(t, err)
	}
	n.server.Args = []string{"--flannel-external-ip"}
	n.env = begin(t, n.server)
	n.start(append(n.line(), "--node-external-ip", router.Addr().String()))

	node, err := n.client.CoreV1().Nodes().Get(n.ctx, "inner", metav1.GetOptions{})
	must(t, err)
	if got := fmt.Sprint(node.Status.Addresses); !strings.Contains(got, "{InternalIP "+inside+"} {ExternalIP "+router.Addr().String()+"}") {
		t.Errorf("the node has the addresses %s", got)
	}
	if out, err := n.server.Host.Exec(n.ctx, "timeout", "2", "bash", "-c", "exec 3<>/dev/tcp/"+inside+"/10250"); err == nil {
		t.Fatalf("the server reaches the agent: %s", out)
	}
	for host, name := range map[string]string{"hub": "near", "inner": "far"} {
		n.createPod(n.at(host, pod(name, serving())))
	}
	for _, name := range []string{"near", "far"} {
		n.podReady(name)
	}
	n.eventually("exec through the tunnel", func() error {
		out, err := n.inPod("far", "cat /proc/sys/kernel/hostname")
		if err == nil && out != "far" {
			err = fmt.Errorf("the pod is called %q", out)
		}
		return err
	})
	if out, err := n.runKubectl("logs", "far"); err != nil {
		t.Errorf("logs: %v %s", err, out)
	}
	if out := n.mustKubectl("get", "--raw", "/api/v1/nodes/inner/proxy/healthz"); out != "ok" {
		t.Errorf("the kubelet's health: %q", out)
	}
	n.reaches(false, "near", "far")
	n.hears("far", credentials+"https://kubernetes.default.svc/livez", "ok")
}
