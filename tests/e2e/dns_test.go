package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/lab"
)

const clusterDNS = "10.43.0.10:53"

// resolve asks a name server from a host and returns the data of the answer's records, sorted; the code if there are
// none.
func resolve(ctx context.Context, h *lab.Host, network, server, name string, kind uint16) (string, error) {
	conn, err := h.DialContext(ctx, network, server)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return "", err
	}
	answer, _, err := new(dns.Client).ExchangeWithConn(new(dns.Msg).SetQuestion(name, kind), &dns.Conn{Conn: conn})
	if err != nil {
		return "", err
	}
	var found []string
	for _, rr := range answer.Answer {
		found = append(found, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	if len(found) == 0 {
		return dns.RcodeToString[answer.Rcode], nil
	}
	slices.Sort(found)
	return strings.Join(found, " "), nil
}

// resolves waits until the cluster's name server answers as wanted.
func (e *env) resolves(name string, kind uint16, want string) {
	e.t.Helper()
	e.eventually(name+" to be "+want, func() error {
		got, err := resolve(e.ctx, e.host, "udp", clusterDNS, name, kind)
		if err == nil && got != want {
			err = fmt.Errorf("it is %q", got)
		}
		return err
	})
}

func TestDNSOfServicesAndPods(t *testing.T) {
	e := inNamespace(t)
	svc := e.startWeb(1, corev1.ServiceTypeClusterIP)
	headless := service("peers", corev1.ServiceTypeClusterIP, 8080)
	headless.Spec.ClusterIP = corev1.ClusterIPNone
	e.createService(headless)
	member := pod("peers", idle("main"))
	member.Spec.Hostname, member.Spec.Subdomain = "first", "peers"
	ip := e.startPod(member).Status.PodIP

	zone := "." + e.ns + ".svc.cluster.local."
	dashed := strings.ReplaceAll(ip, ".", "-")
	for _, q := range []struct {
		name string
		kind uint16
		want string
	}{
		{"web" + zone, dns.TypeA, svc.Spec.ClusterIP},
		{"_main._tcp.web" + zone, dns.TypeSRV, "0 100 8080 web" + zone},
		{"peers" + zone, dns.TypeA, ip},
		{"first.peers" + zone, dns.TypeA, ip},
		{dashed + "." + e.ns + ".pod.cluster.local.", dns.TypeA, ip},
		{reverse(t, svc.Spec.ClusterIP), dns.TypePTR, "web" + zone},
		{"nobody" + zone, dns.TypeA, "NXDOMAIN"},
		{"kubernetes.default.svc.cluster.local.", dns.TypeA, "10.43.0.1"},
		// The nodes' names, as k3s has them.
		{e.host.Name() + ".", dns.TypeA, e.host.Addr().String()},
		{reverse(t, e.host.Addr().String()), dns.TypePTR, e.host.Name() + "."},
	} {
		e.resolves(q.name, q.kind, q.want)
	}
	if got, err := resolve(e.ctx, e.host, "tcp", clusterDNS, "web"+zone, dns.TypeA); err != nil || got != svc.Spec.ClusterIP {
		t.Errorf("over TCP the answer is %q (%v), want %q", got, err, svc.Spec.ClusterIP)
	}
	// As a program in a pod asks: by the short name, and for a node.
	e.eventually("a pod to find a Service by its short name", func() error {
		_, err := e.inPod("peers", "testserver get http://web:8080/hostname")
		return err
	})
}

func reverse(t *testing.T, ip string) string {
	t.Helper()
	name, err := dns.ReverseAddr(ip)
	must(t, err)
	return name
}

// nameServer answers every question for an A record with its own mark, on a host's port 53, until the test ends.
func nameServer(t *testing.T, h *lab.Host, mark string) {
	t.Helper()
	conn, err := h.ListenPacket("udp", net.JoinHostPort(h.Addr().String(), "53"))
	must(t, err)
	s := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		answer := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			answer.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.ParseIP(mark)}}
		}
		_ = w.WriteMsg(answer) // whoever asked may be gone
	})}
	done := make(chan error, 1)
	go func() { done <- s.ActivateAndServe() }()
	t.Cleanup(func() {
		if err := errors.Join(s.Shutdown(), <-done); err != nil {
			t.Errorf("name server: %v", err)
		}
	})
}

// Cluster DNS asks whom the host asks, and follows it when that changes; where there is nobody to ask, it goes on.
func TestDNSForwardsAsTheHost(t *testing.T) {
	e := alone(t)
	const file = "/etc/resolv.conf"
	before, err := e.host.ReadFile(file)
	must(t, err)
	defer func() { must(t, e.host.WriteFile(file, before, 0o644)) }()
	nameServer(t, e.outside, "192.0.2.7")

	must(t, e.host.WriteFile(file, []byte("nameserver 127.0.0.53\n"), 0o644))
	e.resolves("a.example.", dns.TypeA, "SERVFAIL")
	e.resolves("kubernetes.default.svc.cluster.local.", dns.TypeA, "10.43.0.1")
	must(t, e.host.WriteFile(file, []byte("nameserver 127.0.0.53\nnameserver "+e.outside.Addr().String()+"\n"), 0o644))
	e.resolves("b.example.", dns.TypeA, "192.0.2.7")
	e.startPod(pod("asker", idle("main")))
	out, err := e.inPod("asker", "nslookup c.example")
	if err != nil || !strings.Contains(out, "192.0.2.7") {
		t.Errorf("a pod's lookup: %v\n%s", err, out)
	}
	e.dnsNeverRestarted()
}

// dnsNeverRestarted fails the test if a container of the name server has ended.
func (e *env) dnsNeverRestarted() {
	e.t.Helper()
	pods, err := e.client.CoreV1().Pods("kube-system").List(e.ctx, metav1.ListOptions{LabelSelector: "k8s-app=kube-dns"})
	e.must(err)
	if len(pods.Items) != 1 {
		e.t.Fatalf("%d name servers on one server", len(pods.Items))
	}
	for _, c := range pods.Items[0].Status.ContainerStatuses {
		if c.RestartCount > 0 {
			e.t.Errorf("%s has been restarted %d times: %+v", c.Name, c.RestartCount, c.LastTerminationState)
		}
	}
}

// The user's snippets, as in k3s, are served soon after the ConfigMap is written; a wrong one changes nothing.
func TestDNSSnippets(t *testing.T) {
	e := alone(t)
	maps := e.client.CoreV1().ConfigMaps("kube-system")
	custom := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "coredns-custom"}, Data: map[string]string{
		"names.override": "rewrite name exact db.corp.example kubernetes.default.svc.cluster.local\n",
		"zone.server":    "lan.example:53 {\n  hosts {\n    192.0.2.9 printer.lan.example\n  }\n}\n",
	}}
	custom, err := maps.Create(e.ctx, custom, metav1.CreateOptions{})
	must(t, err)
	defer func() { must(t, maps.Delete(context.Background(), custom.Name, metav1.DeleteOptions{})) }()
	began := time.Now()
	e.resolves("printer.lan.example.", dns.TypeA, "192.0.2.9")
	e.resolves("db.corp.example.", dns.TypeA, "10.43.0.1")
	t.Logf("snippets are served %.1f s after they were written", time.Since(began).Seconds())

	custom.Data["names.override"] = "no-such-plugin\n"
	custom.Data["zone.server"] = strings.ReplaceAll(custom.Data["zone.server"], "192.0.2.9", "192.0.2.10")
	custom, err = maps.Update(e.ctx, custom, metav1.UpdateOptions{})
	must(t, err)
	e.eventually("the wrong snippet to be reported", func() error {
		log, err := e.kubeSystem("logs", "daemonset/coredns")
		if err == nil && !strings.Contains(log, "no-such-plugin") {
			err = errors.New("not in the log")
		}
		return err
	})
	e.resolves("printer.lan.example.", dns.TypeA, "192.0.2.9")
	// Nor does it keep the name server from starting.
	_, err = e.kubeSystem("delete", "pod", "-l", "k8s-app=kube-dns", "--grace-period=1")
	must(t, err)
	e.resolves("kubernetes.default.svc.cluster.local.", dns.TypeA, "10.43.0.1")

	custom.Data = map[string]string{"zone.server": custom.Data["zone.server"]}
	_, err = maps.Update(e.ctx, custom, metav1.UpdateOptions{})
	must(t, err)
	e.resolves("printer.lan.example.", dns.TypeA, "192.0.2.10")
}

func (e *env) kubeSystem(args ...string) (string, error) {
	return e.host.Exec(e.ctx, append(append(slices.Clone(e.kubectl), "-n", "kube-system"), args...)...)
}

// What the bundled pods run is on the node without any registry, not to be collected, and nobody privileged runs it.
func TestBundledImages(t *testing.T) {
	e := inNamespace(t)
	out, err := e.host.Exec(e.ctx, e.kubectl[0], "crictl", "images", "-o", "json")
	must(t, err)
	var list struct {
		Images []struct {
			RepoTags []string `json:"repoTags"`
			Pinned   bool     `json:"pinned"`
		} `json:"images"`
	}
	must(t, json.Unmarshal([]byte(out), &list))
	pinned := map[string]bool{}
	for _, i := range list.Images {
		for _, tag := range i.RepoTags {
			pinned[tag] = i.Pinned
		}
	}
	for _, name := range []string{"docker.io/knarr/pause:1", "docker.io/knarr/base:1"} {
		if is, there := pinned[name]; !there || !is {
			t.Errorf("%s: there %v, pinned %v", name, there, is)
		}
	}
	pods, err := e.client.CoreV1().Pods("kube-system").List(e.ctx, metav1.ListOptions{LabelSelector: "k8s-app=kube-dns"})
	must(t, err)
	for _, p := range pods.Items {
		for _, c := range p.Spec.Containers {
			if _, there := pinned[c.Image]; !there {
				t.Errorf("pod %s wants image %s, which is not on the node", p.Name, c.Image)
			}
		}
	}
	e.resolves("kubernetes.default.svc.cluster.local.", dns.TypeA, "10.43.0.1")
	status, err := e.host.Exec(e.ctx, "sh", "-c", "cat /proc/$(pidof coredns | cut -d' ' -f1)/status")
	must(t, err)
	for _, want := range []string{"Uid:\t65535\t65535", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(status, want) {
			t.Errorf("CoreDNS's process is not %q:\n%s", want, status)
		}
	}
}
