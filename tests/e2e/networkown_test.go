package e2e

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
)

// plugin is a CNI plugin of the user's own.
const plugin = "#!/bin/sh\nexec " + cluster.DataDir + "/data/current/cni/bridge\n"

// TestOwnNetwork is a node whose pod network the user brings, installed as the manifests of Calico or Cilium do it.
func TestOwnNetwork(t *testing.T) {
	s := own(t, "byo", lab.Options{})
	s.Args = []string{"--flannel-backend=none", "--disable", unneeded}
	must(t, s.Start())
	c, err := s.WaitAPI(t.Context())
	must(t, err)
	j := &joined{env: place(t, s, c), agent: s}
	j.eventually("the node to say what it lacks", func() error {
		return j.readyAs(corev1.ConditionFalse, "cni plugin not initialized")
	})
	must(t, s.Host.WriteFile("/opt/cni/bin/brought", []byte(plugin), 0o755))
	must(t, s.Host.WriteFile("/etc/cni/net.d/10-brought.conf", []byte(`{"cniVersion": "1.0.0", "name": "brought", "type": "brought", "bridge": "brought0",
		"isGateway": true, "ipam": {"type": "host-local", "subnet": "10.99.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]}}`), 0o644))
	_, err = s.WaitNode(t.Context())
	must(t, err)
	p := j.startPod(pod("inside", web()))
	if !strings.HasPrefix(p.Status.PodIP, "10.99.0.") {
		t.Errorf("the pod has the address %s", p.Status.PodIP)
	}
	svc := j.createService(service("inside", corev1.ServiceTypeClusterIP, 8080))
	j.answers(s.Host, webURL(svc.Spec.ClusterIP, 8080, "/hostname"), 1)
	if out, err := s.Host.Exec(t.Context(), "ip", "-o", "link"); err != nil || strings.Contains(out, "flannel") || strings.Contains(out, "cni0") {
		t.Errorf("there are links of knarr's own network: %v\n%s", err, out)
	}
	node, err := c.CoreV1().Nodes().Get(t.Context(), "byo", metav1.GetOptions{})
	if err == nil && node.Annotations["flannel.alpha.coreos.com/backend-type"] != "" {
		err = errors.New("the node publishes a backend of flannel's")
	}
	must(t, err)
}
