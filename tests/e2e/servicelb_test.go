package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/knarr-io/knarr/tests/lab"
)

// balancer exposes app=web on a port of the nodes.
func balancer(name string, port int32) *corev1.Service {
	s := service(name, corev1.ServiceTypeLoadBalancer, port)
	s.Spec.Selector = selector("web").MatchLabels
	s.Spec.Ports[0].TargetPort = intstr.FromInt32(8080)
	return s
}

// addresses is what a Service's status lists.
func (e *env) addresses(name string) ([]string, error) {
	s, err := e.client.CoreV1().Services(e.ns).Get(e.ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	var found []string
	for _, in := range s.Status.LoadBalancer.Ingress {
		found = append(found, in.IP)
	}
	return found, nil
}

// listed waits until a Service has the node's address, or none.
func (e *env) listed(name string, want ...string) {
	e.t.Helper()
	e.eventually(fmt.Sprintf("service %s to have the addresses %v", name, want), func() error {
		got, err := e.addresses(name)
		if err == nil && fmt.Sprint(got) != fmt.Sprint(want) {
			err = fmt.Errorf("it has %v", got)
		}
		return err
	})
}

// told waits for an event about an object that contains text.
func (e *env) told(object, reason, text string) {
	e.t.Helper()
	e.eventually(fmt.Sprintf("an event %s about %s that says %q", reason, object, text), func() error {
		list, err := e.client.CoreV1().Events(e.ns).List(e.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + object})
		if err != nil {
			return err
		}
		var seen []string
		for _, ev := range list.Items {
			if ev.Reason == reason && strings.Contains(ev.Message, text) {
				return nil
			}
			seen = append(seen, ev.Reason+": "+ev.Message)
		}
		return fmt.Errorf("there are: %s", strings.Join(seen, "; "))
	})
}

func TestLoadBalancer(t *testing.T) {
	e := inNamespace(t)
	node := e.host.Addr().String()
	_, err := e.client.AppsV1().Deployments(e.ns).Create(e.ctx, deployment("web", 1, web()), metav1.CreateOptions{})
	e.must(err)
	e.waitPods("web", 1)
	e.createService(balancer("lb", 18090))
	e.listed("lb", node)
	url := "http://" + node + ":18090"
	for _, from := range []*lab.Host{e.host, e.outside} {
		e.answers(from, url+"/hostname", 1)
	}

	e.mustKubectl("patch", "service", "lb", "-p", `{"spec":{"externalTrafficPolicy":"Local"}}`)
	e.eventually("the client's own address", func() error {
		from, err := get(e.outside, url+"/client")
		if err == nil && from != e.outside.Addr().String() {
			err = fmt.Errorf("the pod sees %s", from)
		}
		return err
	})
	// With the policy Local a node is listed as long as it has a ready pod.
	e.mustKubectl("scale", "deployment/web", "--replicas=0")
	e.listed("lb")
	e.mustKubectl("scale", "deployment/web", "--replicas=1")
	e.listed("lb", node)

	// Source ranges let in who is in them.
	reached := func() error { _, err := get(e.outside, url+"/hostname"); return err }
	e.mustKubectl("patch", "service", "lb", "-p", `{"spec":{"loadBalancerSourceRanges":["`+e.outside.Addr().String()+`/32"]}}`)
	e.eventually("an allowed client's answer", reached)
	e.mustKubectl("patch", "service", "lb", "-p", `{"spec":{"loadBalancerSourceRanges":["192.0.2.0/24"]}}`)
	e.eventually("other clients to be kept out", func() error {
		if reached() == nil {
			return errors.New("one is answered")
		}
		return nil
	})

	// Another type has no addresses any more.
	e.mustKubectl("patch", "service", "lb", "-p", `{"spec":{"type":"ClusterIP","externalTrafficPolicy":null,"loadBalancerSourceRanges":null}}`)
	e.listed("lb")
}

func TestLoadBalancerPortTaken(t *testing.T) {
	e := inNamespace(t)
	node := e.host.Addr().String()
	e.createService(balancer("first", 18092))
	e.listed("first", node)
	e.createService(balancer("second", 18092))
	e.told("second", "PortTaken", "TCP/18092 is held by service "+e.ns+"/first")
	e.createService(balancer("api", 6443))
	e.told("api", "PortTaken", "knarr's, for the API")
	foreign := balancer("foreign", 18093)
	class := "example.com/other"
	foreign.Spec.LoadBalancerClass = &class
	e.createService(foreign)

	// A program on the host keeps its port.
	p := pod("listener", server("http", "--port=18094"))
	p.Spec.HostNetwork = true
	e.startPod(p)
	listener := fmt.Sprintf("http://%s:18094/hostname", node)
	e.eventually("the program on the host", func() error { _, err := get(e.outside, listener); return err })
	e.createService(balancer("third", 18094))
	e.told("third", "PortTaken", "TCP/18094 is held by process testserver (pid ")
	e.stays("the program on its port, and the Services without address", func() error {
		for _, name := range []string{"second", "api", "third", "foreign"} {
			if got, err := e.addresses(name); err != nil || len(got) != 0 {
				return fmt.Errorf("service %s has %v, %v", name, got, err)
			}
		}
		c := e.outside.HTTPClient(patience)
		defer c.CloseIdleConnections()
		r, err := c.Get(listener)
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if r.StatusCode != http.StatusOK {
			return errors.New(r.Status)
		}
		return nil
	})

	// What is given back is taken up.
	e.mustKubectl("delete", "service", "first")
	e.listed("second", node)
	e.mustKubectl("delete", "pod", "listener", "--grace-period=1")
	e.listed("third", node)
}
