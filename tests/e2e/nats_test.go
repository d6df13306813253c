package e2e

import (
	"errors"
	"net"
	"os/exec"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
)

const natsPort = 4222

// runNATS runs a NATS server with JetStream on a host of its own and returns its endpoint.
func runNATS(t *testing.T) string {
	t.Helper()
	bin, err := exec.LookPath("nats-server")
	if err != nil {
		t.Fatal("NATS is not installed: apt-get install nats-server")
	}
	h := suite.lab.Host(t, "nats", lab.Options{})
	_, err = h.Start(lab.Cmd{Args: []string{bin, "--jetstream", "--store_dir", "/var/lib/nats"}})
	must(t, err)
	eventually(t, "NATS", func() error {
		c, err := h.DialContext(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(natsPort)))
		if err != nil {
			return err
		}
		return c.Close()
	})
	return "nats://" + net.JoinHostPort(h.Addr().String(), strconv.Itoa(natsPort))
}

// TestServersOnNATS is two servers on a NATS, one of which is killed while a Deployment runs on both and is then taken away.
func TestServersOnNATS(t *testing.T) {
	args := []string{"--datastore-endpoint", runNATS(t), "--token", "of-both", "--disable", unneeded}
	one, two := own(t, "nats-one", lab.Options{}), own(t, "nats-two", lab.Options{})
	for _, s := range []*cluster.Server{one, two} {
		s.Args = args
		must(t, s.Start())
	}
	for _, s := range []*cluster.Server{one, two} {
		_, err := s.WaitNode(t.Context())
		must(t, err)
	}
	e := place(t, one, mustClient(t, one))
	svc := e.startWeb(2, corev1.ServiceTypeNodePort)
	url := "http://" + net.JoinHostPort(svc.Spec.ClusterIP, "8080") + "/hostname"
	e.answers(one.Host, url, 2)
	e.answers(two.Host, url, 2)

	// The one that does not lead, lest the test wait for a lease to run out.
	killed, other := one, two
	if (&servers{env: e}).status(one).Leader == one.Host.Name() {
		killed, other = two, one
	}
	must(t, killed.Process().Kill())
	e = place(t, other, mustClient(t, other))
	e.mustKubectl("scale", "deployment/web", "--replicas=3")
	must(t, killed.Start())
	_, err := killed.WaitNode(t.Context())
	must(t, err)
	e.waitPods("web", 3)
	e.answers(killed.Host, url, 3)
	e = place(t, killed, mustClient(t, killed))
	e.mustKubectl("delete", "deployment/web")
	e.eventually("the pods to be gone", func() error {
		l, err := e.client.CoreV1().Pods(e.ns).List(e.ctx, metav1.ListOptions{})
		if err == nil && len(l.Items) > 0 {
			err = errors.New(states(&l.Items[0]))
		}
		return err
	})
}
