package servicelb

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
)

// station is a node with our reporter, in a bubble with its own time.
type station struct {
	t         *testing.T
	client    *fake.Clientset
	listening map[Port]string
	failing   error
	looks     int
}

// onStation runs a test beside a reporter of the node "n" at 10.0.0.1 and, from outside, 192.0.2.1.
func onStation(t *testing.T, test func(*station), objects ...runtime.Object) {
	synctest.Test(t, func(t *testing.T) {
		objects = append(objects, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
		s := &station{t: t, client: fake.NewClientset(objects...), listening: map[Port]string{}}
		r := NewReporter(Host{NodeName: "n", IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, ExternalIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}},
			func() (kubernetes.Interface, error) { return s.client, nil }, slog.New(slog.DiscardHandler))
		r.look = func(map[Port]bool) (map[Port]string, error) {
			s.looks++
			return maps.Clone(s.listening), s.failing
		}
		r.links = func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("10.0.0.1")}, nil }
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx, func() {}) }()
		synctest.Wait()
		test(s)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the reporter ended with %v", err)
		}
	})
}

// says waits until all is at rest and compares the annotation.
func (s *station) says(want string) {
	s.t.Helper()
	synctest.Wait()
	n, err := s.client.CoreV1().Nodes().Get(s.t.Context(), "n", metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	if got := n.Annotations[AnnotationReport]; got != want {
		s.t.Errorf("the node says\n%s\nwant\n%s", got, want)
	}
}

func (s *station) must(_ any, err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

const translated = `,"translated":["192.0.2.1"]}`

func TestReporterIdle(t *testing.T) {
	other := testService("other", 1, 80)
	class := "x.example/lb"
	other.Spec.LoadBalancerClass = &class
	onStation(t, func(s *station) {
		time.Sleep(24 * time.Hour) // of the bubble
		s.says("")
		if s.looks > 0 {
			s.t.Errorf("it looked %d times", s.looks)
		}
		for _, a := range s.client.Actions() {
			if a.GetResource().Resource == "nodes" && a.GetVerb() != "get" {
				s.t.Errorf("it asked for %s %s", a.GetVerb(), a.GetResource().Resource)
			}
		}
	}, other)
}

func TestReporterAnswers(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{NodeName: "n",
		Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{HostPort: 82, Protocol: corev1.ProtocolTCP}}}}}}
	onStation(t, func(s *station) {
		services := s.client.CoreV1().Services("ns")
		s.listening[Port{corev1.ProtocolTCP, 81}] = "process nginx (pid 7)"
		s.must(services.Create(s.t.Context(), testService("web", 1, 80, 81, 82), metav1.CreateOptions{}))
		s.says(`{"ports":{"TCP/80":"","TCP/81":"process nginx (pid 7)","TCP/82":"the host port of pod ns/p"}` + translated)

		// As long as it is not served here, the host is looked at again, less and less often.
		before := s.looks
		time.Sleep(time.Hour)
		synctest.Wait()
		if again := s.looks - before; again < 55 || again > 70 {
			s.t.Errorf("it looked %d times in an hour", again)
		}
		delete(s.listening, Port{corev1.ProtocolTCP, 81})
		time.Sleep(lastLook + time.Second)
		s.says(`{"ports":{"TCP/80":"","TCP/81":"","TCP/82":"the host port of pod ns/p"}` + translated)

		// Once it is served, whoever comes to listen is late.
		s.must(services.UpdateStatus(s.t.Context(), listed(testService("web", 1, 80, 81, 82), "10.0.0.1"), metav1.UpdateOptions{}))
		synctest.Wait()
		before = s.looks
		s.listening[Port{corev1.ProtocolTCP, 80}] = "late"
		time.Sleep(time.Hour)
		s.says(`{"ports":{"TCP/80":"","TCP/81":"","TCP/82":"the host port of pod ns/p"}` + translated)
		if s.looks > before+1 {
			s.t.Errorf("it looked %d times though it is served", s.looks-before)
		}
		s.must(nil, services.Delete(s.t.Context(), "web", metav1.DeleteOptions{}))
		s.says("")
	}, pod)
}

func TestReporterTriesAgain(t *testing.T) {
	onStation(t, func(s *station) {
		s.failing = errors.New("no /proc")
		s.must(s.client.CoreV1().Services("ns").Create(s.t.Context(), testService("web", 1, 80), metav1.CreateOptions{}))
		s.says("")
		s.failing = nil
		time.Sleep(firstLook + time.Second)
		s.says(`{"ports":{"TCP/80":""}` + translated)
	})
}

func TestHostPorts(t *testing.T) {
	container := corev1.Container{Ports: []corev1.ContainerPort{{HostPort: 80, Protocol: corev1.ProtocolTCP}, {ContainerPort: 81}}}
	for name, tt := range map[string]struct {
		pod  corev1.Pod
		want int
	}{
		"host port":            {corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{container}}}, 1},
		"of a sidecar":         {corev1.Pod{Spec: corev1.PodSpec{InitContainers: []corev1.Container{container}}}, 1},
		"a socket of the host": {corev1.Pod{Spec: corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{container}}}, 0},
		"ended":                {corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{container}}, Status: corev1.PodStatus{Phase: corev1.PodSucceeded}}, 0},
	} {
		if got := hostPorts(&tt.pod); len(got) != tt.want || tt.want > 0 && !slices.Equal(got, []Port{{corev1.ProtocolTCP, 80}}) {
			t.Errorf("%s: %v", name, got)
		}
	}
}
