package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/knarr-io/knarr/tests/lab"
)

// flows are ways from one place to another, by name.
type flows map[string]func() error

// working waits until exactly those of the flows work that are named.
func (e *env) working(what string, f flows, names ...string) {
	e.t.Helper()
	slices.Sort(names)
	e.eventually(what+": "+strings.Join(names, ", "), func() error {
		var mu sync.Mutex
		var wg sync.WaitGroup
		var work []string
		for name, try := range f {
			wg.Go(func() {
				if try() == nil {
					mu.Lock()
					defer mu.Unlock()
					work = append(work, name)
				}
			})
		}
		wg.Wait()
		slices.Sort(work)
		if !slices.Equal(work, names) {
			return fmt.Errorf("what works is: %s", strings.Join(work, ", "))
		}
		return nil
	})
}

// asks is a flow over TCP from a pod.
func (e *env) asks(pod, url string) func() error {
	return func() error {
		_, err := e.inPod(pod, "testserver get -timeout 1s "+url)
		return err
	}
}

// policy replaces the policies of the namespace by one.
func (e *env) policy(spec string) {
	e.t.Helper()
	e.mustKubectl("delete", "networkpolicy", "--all")
	e.addPolicy("only", spec)
}

func (e *env) addPolicy(name, spec string) {
	e.t.Helper()
	e.apply("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: " + name + "}\nspec: " + spec + "\n")
}

func TestNetworkPolicy(t *testing.T) {
	e := inNamespace(t)
	elsewhere := alone(t)
	node := e.host.Addr().String()
	// Of the image that has a shell.
	serving := shell("http", "exec testserver http")
	serving.Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}
	serving.ReadinessProbe = web().ReadinessProbe
	hostnet := pod("hostnet", server("http", "--port=18085"))
	hostnet.Spec.HostNetwork = true
	for _, p := range []*corev1.Pod{pod("db", serving, server("echo")), pod("friend", serving), pod("stranger", serving), hostnet} {
		e.createPod(p)
	}
	elsewhere.createPod(pod("visitor", idle("main")))
	svc := e.createService(service("db", corev1.ServiceTypeNodePort, 8080))
	for _, name := range []string{"friend", "stranger", "hostnet"} {
		e.podReady(name)
	}
	db := e.podReady("db").Status.PodIP
	elsewhere.podReady("visitor")
	peer := e.podReady("friend").Status.PodIP
	echo := func(network string) func() error {
		return func() error {
			_, err := e.inPod("friend", "testserver say -network "+network+" "+db+":9090")
			return err
		}
	}
	url := "http://" + db + ":8080/hostname"
	f := flows{
		"friend":          e.asks("friend", url),
		"friend, Service": e.asks("friend", "http://"+svc.Spec.ClusterIP+":8080/hostname"),
		"friend, echo":    echo("tcp"),
		"friend, UDP":     echo("udp"),
		"stranger":        e.asks("stranger", url),
		"visitor":         elsewhere.asks("visitor", url),
		"node":            func() error { _, err := get(e.host, url); return err },
		"outside, NodePort": func() error {
			_, err := get(e.outside, fmt.Sprintf("http://%s:%d/hostname", node, svc.Spec.Ports[0].NodePort))
			return err
		},
		"outside, hostNetwork": func() error { _, err := get(e.outside, "http://"+node+":18085/hostname"); return err },
		"db to friend":         e.asks("db", "http://"+peer+":8080/hostname"),
		"db to node":           e.asks("db", "http://"+node+":18085/hostname"),
		"db to itself":         e.asks("db", "http://"+svc.Spec.ClusterIP+":8080/hostname"),
	}
	always := []string{"node", "outside, hostNetwork", "db to node", "db to itself"}
	out := append([]string{"db to friend"}, always...)
	e.working("without policies", f, append([]string{"friend", "friend, Service", "friend, echo", "friend, UDP", "stranger", "visitor", "outside, NodePort"}, out...)...)

	e.policy(`{podSelector: {}, policyTypes: [Ingress, Egress]}`)
	e.working("deny all", f, always...)
	e.stays("the pods ready: probes pass", func() error {
		for _, name := range []string{"db", "friend"} {
			if p, err := e.getPod(name); err != nil || !ready(p) {
				return fmt.Errorf("pod %s is not ready (%v)", name, err)
			}
		}
		return nil
	})
	for _, c := range []struct {
		name, spec string
		want       []string
	}{
		{"pods of the namespace, named port", `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}], ports: [{port: web}]}]}`,
			[]string{"friend", "friend, Service", "db to friend"}},
		{"another namespace", `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ` + elsewhere.ns + `}}}]}]}`,
			[]string{"visitor", "db to friend"}},
		{"pods in all namespaces", `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: visitor}}}]}]}`,
			[]string{"visitor", "db to friend"}},
		{"a range of UDP ports", `{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{protocol: UDP, port: 9000, endPort: 9100}]}]}`,
			[]string{"friend, UDP", "db to friend"}},
		{"all but pods", `{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.42.0.0/16]}}]}]}`,
			[]string{"outside, NodePort", "db to friend"}},
		{"no egress", `{podSelector: {matchLabels: {app: db}}, policyTypes: [Egress]}`,
			[]string{"friend", "friend, Service", "friend, echo", "friend, UDP", "stranger", "visitor", "outside, NodePort"}},
		{"egress to a pod's port", `{podSelector: {matchLabels: {app: db}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: friend}}}], ports: [{port: 8080}]}]}`,
			[]string{"friend", "friend, Service", "friend, echo", "friend, UDP", "stranger", "visitor", "outside, NodePort", "db to friend"}},
	} {
		e.policy(c.spec)
		e.working(c.name, f, append(c.want, always...)...)
	}
	if out, err := e.kubectlWith(strings.NewReader("{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: wrong}, spec: {podSelector: {}, policyTypes: [Sideways]}}"), "apply", "-f", "-"); err == nil {
		t.Errorf("a policy of an unknown type was accepted: %s", out)
	}
	e.mustKubectl("delete", "networkpolicy", "--all")
	e.eventually("no rules to be left", func() error {
		// kube-proxy's chains, which name the Service, are in tables of other families.
		out, err := e.host.Exec(e.ctx, "nft", "list", "chains", "inet")
		if err == nil && strings.Contains(out, "-"+e.ns+"/") {
			err = errors.New("there are chains of the namespace's policies")
		}
		return err
	})
}

func hasTable(h *lab.Host, want bool) error {
	out, err := h.Exec(context.Background(), "nft", "list", "tables", "inet")
	if err == nil && strings.Contains(out, "knarr-netpol") != want {
		err = fmt.Errorf("the tables are: %s", strings.ReplaceAll(strings.TrimSpace(out), "\n", ", "))
	}
	return err
}

// What a container does first is under its policies already, and is not held up by those of others.
func TestNetworkPolicyFromTheFirstPacket(t *testing.T) {
	e := inNamespace(t)
	target := e.startPod(pod("target", web())).Status.PodIP
	e.addPolicy("closed", `{podSelector: {matchLabels: {app: closed}}, policyTypes: [Egress]}`)
	e.eventually("the rules to be there", func() error { return hasTable(e.host, true) })
	const each = 3
	ask := "testserver get -timeout 3s http://" + target + ":8080/hostname"
	for i := range each {
		closed, open := once(pod(fmt.Sprintf("closed-%d", i), shell("main", ask+" && exit 1 || exit 0"))), once(pod(fmt.Sprintf("open-%d", i), shell("main", ask)))
		closed.Labels["app"] = "closed"
		e.createPod(closed)
		e.createPod(open)
	}
	for i := range each {
		for _, name := range []string{fmt.Sprintf("closed-%d", i), fmt.Sprintf("open-%d", i)} {
			if p := e.podEnds(name); p.Status.Phase != corev1.PodSucceeded {
				t.Errorf("pod %s could do what it must not, or could not do what it may: %s", name, p.Status.Phase)
			}
		}
	}
}

// TestNetworkPolicyAcrossRestarts has policies hold while knarr is not there, and end when they are switched off.
func TestNetworkPolicyAcrossRestarts(t *testing.T) {
	s := own(t, "netpol", lab.Options{})
	e := begin(t, s)
	target := e.startPod(pod("target", web())).Status.PodIP
	client := e.startPod(pod("client", idle("main"))).Status.PodIP
	netns := e.netnsOf(client)
	reach := func() error {
		_, err := e.host.Exec(e.ctx, "ip", "netns", "exec", netns, "timeout", "1", "bash", "-c", "exec 3<>/dev/tcp/"+target+"/8080")
		return err
	}
	blocked := func() error {
		if reach() == nil {
			return errors.New("the pod is reached")
		}
		return nil
	}
	e.eventually("the pod to be reached", reach)
	e.addPolicy("deny", `{podSelector: {}, policyTypes: [Ingress]}`)
	e.eventually("the pod to be closed", blocked)
	// A table that another program deletes comes back.
	if _, err := e.host.Exec(e.ctx, "nft", "delete", "table", "inet", "knarr-netpol"); err != nil {
		t.Fatal(err)
	}
	e.eventually("the table to be there again", func() error { return hasTable(e.host, true) })
	e.stays("the pod closed again", blocked)
	e.must(s.Process().Kill())
	if _, err := s.Process().Wait(e.ctx); err != nil {
		t.Fatal(err)
	}
	e.stays("the pod closed without knarr", blocked)
	e = begin(t, s)
	e.stays("the pod closed after the restart", blocked)
	if _, err := s.Stop(e.ctx); err != nil {
		t.Fatal(err)
	}
	s.Args = append(s.Args, "--disable-network-policy")
	begin(t, s)
	e.must(hasTable(e.host, false))
	e.eventually("the pod to be reached", reach)
}

// netnsOf is the name of the network namespace with an address.
func (e *env) netnsOf(address string) string {
	e.t.Helper()
	out, err := e.host.Exec(e.ctx, "sh", "-c", "for n in $(ls /run/netns); do ip -n $n -o addr | grep -q 'inet "+address+"/' && echo $n; done; true")
	e.must(err)
	if out = strings.TrimSpace(out); out == "" {
		e.t.Fatalf("no network namespace has the address %s", address)
	}
	return out
}
