package e2e

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// spread has Services at the addresses of both nodes, and a volume on the agent.
func (j *joined) spread() {
	lead, agent := j.server.Host.Addr().String(), j.agent.Host.Addr().String()
	name := j.agent.Host.Name()
	d := deployment("web", 1, web())
	d.Spec.Template.Spec.NodeSelector = map[string]string{corev1.LabelHostname: name}
	_, err := j.client.AppsV1().Deployments(j.ns).Create(j.ctx, d, metav1.CreateOptions{})
	j.must(err)
	j.waitPods("web", 1)
	lb := j.createService(balancer("everywhere", 18090))
	j.listed(lb.Name, agent, lead) // in the order of the nodes' names
	for _, ip := range []string{lead, agent} {
		j.answers(j.stranger.Host, "http://"+ip+":18090/hostname", 1)
	}
	j.mustKubectl("patch", "service", lb.Name, "-p", `{"spec":{"externalTrafficPolicy":"Local"}}`)
	j.listed(lb.Name, agent)
	j.eventually("the client's own address", func() error {
		from, err := get(j.stranger.Host, "http://"+agent+":18090/client")
		if err == nil && from != j.stranger.Host.Addr().String() {
			err = fmt.Errorf("the pod sees %s", from)
		}
		return err
	})

	// A port that is taken on one node only.
	p := pod("listener", server("http", "--port=18092"))
	p.Spec.HostNetwork, p.Spec.NodeName = true, name
	j.startPod(p)
	j.createService(balancer("elsewhere", 18092))
	j.listed("elsewhere", lead)
	j.told("elsewhere", "PortTaken", "on node "+name+" TCP/18092 is held by process testserver")

	j.claim("data", func(*corev1.PersistentVolumeClaimSpec) {})
	p = using("writer", "data")
	p.Spec.NodeSelector = d.Spec.Template.Spec.NodeSelector
	j.startPod(p)
	j.says("writer", "echo kept > /data/file && cat /data/file", "kept")
	path := j.volumeOf("data").Spec.Local.Path
	if b, err := j.agent.Host.ReadFile(path + "/file"); err != nil || string(b) != "kept\n" {
		j.t.Errorf("the agent's host has %q, %v", b, err)
	}
	j.mustKubectl("delete", "pod", "writer")
	j.mustKubectl("delete", "pvc", "data")
	j.eventually("the directory to go", func() error {
		_, err := j.agent.Host.Exec(j.ctx, "test", "!", "-e", path)
		return err
	})
	j.mustKubectl("delete", "deployment/web", "service/everywhere", "service/elsewhere", "pod/listener")
}
