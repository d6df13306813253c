package servicelb

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"github.com/knarr-io/knarr/tests/bed"
	"github.com/knarr-io/knarr/tests/bed/api"
)

// cluster is a fake API with our controller.
type cluster struct {
	t      *testing.T
	client *fake.Clientset
}

func start(t *testing.T, objects ...runtime.Object) cluster {
	t.Helper()
	b := cluster{t, fake.NewClientset(objects...)}
	b.run()
	return b
}

// run runs the controller until the test ends.
func (b cluster) run() {
	b.t.Helper()
	bed.Run(b.t, New(Config{Reserved: map[Port]string{{corev1.ProtocolTCP, 6443}: "the API"}},
		api.Client(b.client), api.Informers(b.t, b.client), slog.New(slog.DiscardHandler)))
}

// listed waits until a Service has these addresses.
func (b cluster) listed(name string, want ...string) {
	b.t.Helper()
	bed.Eventually(b.t, fmt.Sprintf("service %s to have %v", name, want), func() error {
		s, err := b.client.CoreV1().Services("ns").Get(b.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if got := texts(s.Status.LoadBalancer.Ingress); fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("it has %v", got)
		}
		return nil
	})
}

// told waits for an event that contains text.
func (b cluster) told(reason, text string) {
	b.t.Helper()
	api.Told(b.t, b.client, reason, text)
}

// change updates a Service.
func (b cluster) change(name string, change func(*corev1.Service)) {
	b.t.Helper()
	services := b.client.CoreV1().Services("ns")
	s, err := services.Get(b.t.Context(), name, metav1.GetOptions{})
	if err == nil {
		s = s.DeepCopy()
		change(s)
		_, err = services.Update(b.t.Context(), s, metav1.UpdateOptions{})
	}
	b.must(err)
}

// report has a node answer.
func (b cluster) report(n *corev1.Node) {
	b.t.Helper()
	_, err := b.client.CoreV1().Nodes().Update(b.t.Context(), n, metav1.UpdateOptions{})
	b.must(err)
}

func (b cluster) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func TestServe(t *testing.T) {
	b := start(t, testNode("a", "", "10.0.0.1"), testService("web", 2, 80))
	b.report(testNode("a", "TCP/80=nginx", "10.0.0.1"))
	b.told(reasonPortTaken, "waiting: on node a TCP/80 is held by nginx")
	b.report(testNode("a", "TCP/80", "10.0.0.1"))
	b.listed("web", "10.0.0.1")
	b.told("UpdatedLoadBalancer", "addresses were [], are [10.0.0.1]")

	_, err := b.client.CoreV1().Services("ns").Create(t.Context(), testService("second", 1, 80), metav1.CreateOptions{})
	b.must(err)
	b.told(reasonPortTaken, "TCP/80 is held by service ns/web")
	b.must(b.client.CoreV1().Services("ns").Delete(t.Context(), "web", metav1.DeleteOptions{}))
	b.listed("second", "10.0.0.1")

	b.must(b.client.CoreV1().Nodes().Delete(t.Context(), "a", metav1.DeleteOptions{}))
	b.listed("second")
	b.told(reasonNoNode, "no node")
}

// The addresses of a Service with the policy Local follow its pods; other Services' pods are not even watched.
func TestServeLocally(t *testing.T) {
	web := testService("web", 2, 80)
	web.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	b := start(t, testNode("a", "TCP/80 TCP/81", "10.0.0.1"), testNode("b", "TCP/80 TCP/81", "10.0.0.2"), web, testService("all", 1, 81))
	b.listed("all", "10.0.0.1", "10.0.0.2")
	slices := b.client.DiscoveryV1().EndpointSlices("ns")
	on := func(node string, ready bool) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
	}
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		Endpoints: []discoveryv1.Endpoint{on("a", false), on("b", true)}}
	slice, err := slices.Create(t.Context(), slice, metav1.CreateOptions{})
	b.must(err)
	b.listed("web", "10.0.0.2")
	slice = slice.DeepCopy()
	slice.Endpoints = []discoveryv1.Endpoint{on("a", true)}
	_, err = slices.Update(t.Context(), slice, metav1.UpdateOptions{})
	b.must(err)
	b.listed("web", "10.0.0.1")
	b.change("web", func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster })
	b.listed("web", "10.0.0.1", "10.0.0.2")
	watches := 0
	for _, a := range b.client.Actions() {
		if a.GetVerb() == "watch" && a.GetResource().Resource == "endpointslices" {
			watches++
		}
	}
	if watches != 1 {
		t.Errorf("%d watches of endpoints, want 1", watches)
	}
}

func TestServes(t *testing.T) {
	yes, no := true, false
	for _, tt := range []struct {
		conditions discoveryv1.EndpointConditions
		want       bool
	}{
		{discoveryv1.EndpointConditions{}, true},
		{discoveryv1.EndpointConditions{Ready: &yes}, true},
		{discoveryv1.EndpointConditions{Ready: &no, Serving: &yes}, false},
		{discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}, true},
		{discoveryv1.EndpointConditions{Ready: &no, Serving: &no, Terminating: &yes}, false},
	} {
		if got := serves(tt.conditions); got != tt.want {
			t.Errorf("%+v: got %v", tt.conditions, got)
		}
	}
}

// An error of the API is not the end.
func TestServeTriesAgain(t *testing.T) {
	b := cluster{t, fake.NewClientset(testNode("a", "TCP/80", "10.0.0.1"), testService("web", 1, 80))}
	failures := 3
	b.client.PrependReactor("patch", "services", func(kubetesting.Action) (bool, runtime.Object, error) {
		failures--
		return failures >= 0, nil, errors.New("broken")
	})
	b.run()
	b.listed("web", "10.0.0.1")
}

func TestRelease(t *testing.T) {
	mine, theirs := listed(testService("mine", 1, 80), "10.0.0.1"), listed(testService("theirs", 1, 81), "10.0.0.9")
	mine.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: fieldManager, Subresource: "status"}}
	theirs.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "metallb", Subresource: "status"}, {Manager: fieldManager}}
	b := cluster{t, fake.NewClientset(testService("none", 1, 82))}
	// The fake API keeps account of managers by itself, so it is told what to say.
	b.client.PrependReactor("list", "services", func(kubetesting.Action) (bool, runtime.Object, error) {
		return true, &corev1.ServiceList{Items: []corev1.Service{*mine, *theirs}}, nil
	})
	var patched []string
	b.client.PrependReactor("patch", "services", func(a kubetesting.Action) (bool, runtime.Object, error) {
		p := a.(kubetesting.PatchAction)
		patched = append(patched, p.GetName()+" "+p.GetSubresource()+" "+string(p.GetPatch()))
		return true, mine, nil
	})
	b.must(Release(t.Context(), b.client, slog.New(slog.DiscardHandler)))
	want := `[mine status {"metadata":{"uid":"mine"},"status":{"loadBalancer":{"ingress":null}}}]`
	if got := fmt.Sprint(patched); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	b.client.PrependReactor("list", "services", func(kubetesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("broken")
	})
	if err := Release(t.Context(), b.client, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "list load balancer services") {
		t.Errorf("got %v", err)
	}
}
