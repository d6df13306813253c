package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/knarr-io/knarr/tests/lab"
)

// startWeb starts n pods of the HTTP role behind a Service.
func (e *env) startWeb(n int32, kind corev1.ServiceType) *corev1.Service {
	e.t.Helper()
	_, err := e.client.AppsV1().Deployments(e.ns).Create(e.ctx, deployment("web", n, web()), metav1.CreateOptions{})
	e.must(err)
	svc := e.createService(service("web", kind, 8080))
	e.waitPods("web", int(n))
	return svc
}

func TestServiceClusterIP(t *testing.T) {
	e := inNamespace(t)
	svc := e.startWeb(2, corev1.ServiceTypeClusterIP)
	url := "http://" + svc.Spec.ClusterIP + ":8080/hostname"
	e.answers(e.host, url, 2)
	// From a pod, and from a pod to itself through its own Service.
	e.startPod(pod("asker", idle("main")))
	e.eventually("an answer inside a pod", func() error {
		_, err := e.inPod("asker", "testserver get "+url)
		return err
	})
	lone := pod("lone", shell("main", "exec testserver http"))
	e.startPod(lone)
	self := e.createService(service("lone", corev1.ServiceTypeClusterIP, 8080))
	e.eventually("a pod's answer to itself through its Service", func() error {
		who, err := e.inPod("lone", "testserver get http://"+self.Spec.ClusterIP+":8080/hostname")
		if err == nil && who != "lone" {
			err = fmt.Errorf("%q answered", who)
		}
		return err
	})
	// Without pods a Service refuses at once instead of hanging.
	e.mustKubectl("scale", "deployment/web", "--replicas=0")
	e.eventually("connections to be refused", func() error {
		_, err := get(e.host, url)
		if err == nil || !strings.Contains(err.Error(), "refused") {
			return fmt.Errorf("got %v", err)
		}
		return nil
	})
}

func TestServiceNodePort(t *testing.T) {
	e := inNamespace(t)
	svc := e.startWeb(2, corev1.ServiceTypeNodePort)
	url := fmt.Sprintf("http://%s:%d", e.host.Addr(), svc.Spec.Ports[0].NodePort)
	for _, from := range []*lab.Host{e.host, e.outside} {
		e.answers(from, url+"/hostname", 2)
	}
	// externalTrafficPolicy: Local keeps the client's address.
	e.mustKubectl("patch", "service", "web", "-p", `{"spec":{"externalTrafficPolicy":"Local"}}`)
	e.eventually("the client's own address", func() error {
		from, err := get(e.outside, url+"/client")
		if err == nil && from != e.outside.Addr().String() {
			err = fmt.Errorf("the pod sees %s", from)
		}
		return err
	})
}

func TestServiceSessionAffinity(t *testing.T) {
	e := inNamespace(t)
	svc := e.startWeb(3, corev1.ServiceTypeClusterIP)
	url := "http://" + svc.Spec.ClusterIP + ":8080/hostname"
	e.answers(e.host, url, 3)
	e.mustKubectl("patch", "service", "web", "-p", `{"spec":{"sessionAffinity":"ClientIP"}}`)
	e.eventually("one pod to answer ten times in a row", func() error {
		seen := map[string]bool{}
		for range 10 {
			who, err := get(e.host, url)
			if err != nil {
				return err
			}
			seen[who] = true
		}
		if len(seen) != 1 {
			return fmt.Errorf("%d pods answered", len(seen))
		}
		return nil
	})
}

// echo sends one line and reads one back, within two seconds.
func echo(ctx context.Context, h *lab.Host, network, addr, line string) (string, error) {
	c, err := h.DialContext(ctx, network, addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(c, line); err != nil {
		return "", err
	}
	back, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(back), err
}

func TestServiceTCPAndUDP(t *testing.T) {
	e := inNamespace(t)
	p := e.startPod(pod("echo", server("echo")))
	svc := service("echo", corev1.ServiceTypeNodePort, 9090)
	svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: "udp", Protocol: corev1.ProtocolUDP, Port: 9090, TargetPort: intstr.FromInt32(9090)})
	svc = e.createService(svc)
	for i, network := range []string{"tcp", "udp"} {
		for _, c := range []struct {
			from *lab.Host
			addr string
			port int32
		}{{e.host, svc.Spec.ClusterIP, 9090}, {e.outside, e.host.Addr().String(), svc.Spec.Ports[i].NodePort}, {e.host, p.Status.PodIP, 9090}} {
			addr := net.JoinHostPort(c.addr, strconv.Itoa(int(c.port)))
			e.eventually(network+" echo from "+addr, func() error {
				back, err := echo(e.ctx, c.from, network, addr, "hello")
				if err == nil && back != "echo hello" {
					err = fmt.Errorf("got %q", back)
				}
				return err
			})
		}
	}
}

func TestHostPort(t *testing.T) {
	e := inNamespace(t)
	c := web()
	c.Ports[0].HostPort = 18080
	e.startPod(pod("first", c))
	url := fmt.Sprintf("http://%s:18080/hostname", e.host.Addr())
	for _, from := range []*lab.Host{e.outside, e.host} {
		e.eventually("the pod on its host port", func() error {
			who, err := get(from, url)
			if err == nil && who != "first" {
				err = fmt.Errorf("%q answers", who)
			}
			return err
		})
	}
	e.createPod(pod("second", c))
	e.podUntil("second", "refused its port", func(p *corev1.Pod) bool {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && strings.Contains(c.Message, "ports") {
				return true
			}
		}
		return false
	})
	e.mustKubectl("delete", "pod", "first")
	e.podReady("second")
	e.eventually("the second pod on the port", func() error {
		who, err := get(e.outside, url)
		if err == nil && who != "second" {
			err = fmt.Errorf("%q answers", who)
		}
		return err
	})
}

func TestHostNetwork(t *testing.T) {
	e := inNamespace(t)
	c := server("http", "--port=18081")
	p := pod("hostnet", c)
	p.Spec.HostNetwork = true
	p = e.startPod(p)
	if p.Status.PodIP != e.host.Addr().String() {
		t.Errorf("the pod's address is %s, the node's %s", p.Status.PodIP, e.host.Addr())
	}
	e.eventually("the pod on the node's address", func() error {
		_, err := get(e.outside, fmt.Sprintf("http://%s:18081/hostname", e.host.Addr()))
		return err
	})
}

func TestServiceEnvironmentAndKubernetesService(t *testing.T) {
	e := inNamespace(t)
	e.startPod(pod("asker", idle("main")))
	host, err := e.inPod("asker", "echo $KUBERNETES_SERVICE_HOST")
	e.must(err)
	svc, err := e.client.CoreV1().Services("default").Get(e.ctx, "kubernetes", metav1.GetOptions{})
	e.must(err)
	if host != svc.Spec.ClusterIP {
		t.Errorf("pods are told that the API is at %q, its Service is at %s", host, svc.Spec.ClusterIP)
	}
	// The API answers a pod on that address, with the pod's own credentials.
	e.eventually("the API's answer to a pod", func() error {
		_, err := e.inPod("asker", "cd /var/run/secrets/kubernetes.io/serviceaccount && testserver get -ca ca.crt -token token https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/version")
		return err
	})
}
