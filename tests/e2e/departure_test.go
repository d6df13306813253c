package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
)

// TestDeparture is a node that leaves: for a while, unasked, and for good.
func TestDeparture(t *testing.T) {
	j := &joined{server: own(t, "port", lab.Options{}), agent: own(t, "sailor", lab.Options{})}
	// A node counts as lost after seconds instead of most of a minute, and has to say more often that it is not.
	j.server.Args = []string{"--kube-controller-manager-arg=node-monitor-grace-period=8s", "--kube-controller-manager-arg=node-monitor-period=1s"}
	for _, s := range []*cluster.Server{j.server, j.agent} {
		s.Config += "- node-status-update-frequency=1s\n"
		must(t, s.Host.WriteFile(cluster.DataDir+"/agent/etc/kubelet.conf.d/50-lease.conf",
			[]byte("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nnodeLeaseDurationSeconds: 4\n"), 0o600))
	}
	j.env = begin(t, j.server)
	j.start(j.line())
	j.walk(
		step{"stopped with its pods", (*joined).stopped},
		step{"cut off and back", (*joined).cutOff},
		step{"drained and deleted", (*joined).dismissed},
		step{"the server's own node is deleted", (*joined).registersAgain},
	)
}

// diary is a pod on the agent whose hook and whose SIGTERM write to a file of the host.
func (j *joined) diary(name, class string) *corev1.Pod {
	c := idle("main")
	c.Command = []string{"sh", "-c", "trap 'echo " + name + " term >>/diary/book; exit 0' TERM; while :; do sleep 0.1; done"}
	c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{
		"sh", "-c", "echo " + name + " hook >>/diary/book; sleep 1"}}}}
	p := pod(name, c)
	p.Spec.NodeName, p.Spec.PriorityClassName = j.agent.Host.Name(), class
	kind := corev1.HostPathDirectoryOrCreate
	withVolume(p, "diary", "/diary", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/var/diary", Type: &kind}})
	return p
}

// book is what the diaries' file holds.
func (j *joined) book() string {
	j.t.Helper()
	b, err := j.agent.Host.ReadFile("/var/diary/book")
	j.must(err)
	return strings.ReplaceAll(strings.TrimSpace(string(b)), "\n", ", ")
}

// stopped ends the pods with the agent, and finds the same pods running after the next start.
func (j *joined) stopped() {
	_, err := j.client.SchedulingV1().PriorityClasses().Create(j.ctx, &policyv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "above"}, Value: 1000}, metav1.CreateOptions{})
	j.must(err)
	for _, p := range []*corev1.Pod{j.diary("officer", "above"), j.diary("hand", "")} {
		j.startPod(p)
	}
	out, err := j.agent.Command(j.ctx, "stop", "--all")
	j.must(err)
	if code, err := j.agent.Process().Wait(j.ctx); err != nil || code != 0 {
		j.t.Errorf("the agent stopped with %d, %v", code, err)
	}
	if got, want := j.book(), "hand hook, hand term, officer hook, officer term"; got != want {
		j.t.Errorf("the pods ended as %q, want %q\n%s\n%s", got, want, out, j.agent.LogTail(20))
	}
	if out, err := j.agent.Host.Exec(j.ctx, "sh", "-c", "ps -eo args= | grep '[c]ontainerd-shim'; true"); err != nil || out != "" {
		j.t.Errorf("shims run on: %s, %v", out, err)
	}
	before := j.uids("officer", "hand")
	began := time.Now()
	j.must(j.agent.Start())
	j.nodeReady(began)
	for _, name := range []string{"officer", "hand"} {
		j.eventually(name+" to run again", func() error {
			p, err := j.getPod(name)
			if err == nil && (len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Running == nil || p.Status.ContainerStatuses[0].RestartCount == 0) {
				err = errors.New(states(p))
			}
			return err
		})
	}
	if after := j.uids("officer", "hand"); after != before {
		j.t.Errorf("pods were %s and are %s", before, after)
	}
	j.mustKubectl("delete", "pod", "officer", "hand")
}

func (j *joined) uids(names ...string) string {
	j.t.Helper()
	var uids []string
	for _, n := range names {
		p, err := j.getPod(n)
		j.must(err)
		uids = append(uids, string(p.UID))
	}
	return strings.Join(uids, " ")
}

// cutOff pulls the agent's cable until its pod has another node, and plugs it in again.
func (j *joined) cutOff() {
	agent := j.agent.Host.Name()
	d := deployment("web", 1, web())
	soon := int64(1)
	for _, taint := range []string{corev1.TaintNodeUnreachable, corev1.TaintNodeNotReady} {
		d.Spec.Template.Spec.Tolerations = append(d.Spec.Template.Spec.Tolerations,
			corev1.Toleration{Key: taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &soon})
	}
	d.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
		Weight: 100, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{agent}}}}}}}}
	_, err := j.client.AppsV1().Deployments(j.ns).Create(j.ctx, d, metav1.CreateOptions{})
	j.must(err)
	first := j.waitPods("web", 1)[0]
	if first.Spec.NodeName != agent {
		j.t.Fatalf("the pod is on %s, not on the agent", first.Spec.NodeName)
	}
	j.must(j.agent.Host.Partition())
	j.eventually("the pod to run elsewhere", func() error {
		l, err := j.client.CoreV1().Pods(j.ns).List(j.ctx, metav1.ListOptions{LabelSelector: "app=web"})
		if err != nil {
			return err
		}
		for _, p := range l.Items {
			if p.Spec.NodeName == j.server.Host.Name() && p.Status.Phase == corev1.PodRunning {
				return nil
			}
		}
		n, err := j.client.CoreV1().Nodes().Get(j.ctx, agent, metav1.GetOptions{})
		if err != nil {
			return err
		}
		return fmt.Errorf("%d pods, none runs on the server: %s; the node's taints are %v, its conditions %v", len(l.Items), states(&l.Items[0]), n.Spec.Taints, n.Status.Conditions)
	})
	if out := j.containers(); out == "" {
		j.t.Error("cut off, the agent has ended its pod")
	}
	began := time.Now()
	j.must(j.agent.Host.Heal())
	j.nodeReady(began)
	j.eventually("the evicted pod to be gone, here and there", func() error {
		out, err := j.agent.Command(j.ctx, "crictl", "ps", "-q", "--label", "io.kubernetes.pod.uid="+string(first.UID))
		if err != nil || strings.TrimSpace(out) != "" {
			return fmt.Errorf("it still has containers: %s, %w", out, err)
		}
		_, err = j.getPod(first.Name)
		if err == nil {
			return errors.New("the API still has it")
		}
		return nil
	})
	j.t.Logf("cleaned up %.1f s after the cable is back", time.Since(began).Seconds())
	j.mustKubectl("delete", "deployment", "web")
}

// dismissed is what kubectl drain and kubectl delete node do to an agent, and how it comes back.
func (j *joined) dismissed() {
	name := j.agent.Host.Name()
	j.must(j.agent.Host.WriteFile("/var/diary/book", nil, 0o600))
	d := deployment("web", 1, web())
	d.Spec.Template.Spec.NodeSelector = map[string]string{corev1.LabelHostname: name}
	_, err := j.client.AppsV1().Deployments(j.ns).Create(j.ctx, d, metav1.CreateOptions{})
	j.must(err)
	j.waitPods("web", 1)
	j.mustKubectl("drain", name, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s")
	j.startPod(j.diary("stowaway", "")) // bound to the node by name: no scheduler was asked
	line := j.line()
	j.mustKubectl("delete", "node", name)
	ctx, cancel := context.WithTimeout(j.ctx, patience)
	defer cancel()
	code, err := j.agent.Process().Wait(ctx)
	if err != nil || code != 3 {
		j.t.Fatalf("the agent of a deleted node ended with %d, %v; want 3\n%s", code, err, j.agent.LogTail(30))
	}
	last := j.agent.LogTail(1)
	for _, want := range []string{`node "` + name + `" was deleted from its cluster`, "knarr token join-command", "knarr uninstall"} {
		if !strings.Contains(last, want) {
			j.t.Errorf("want %q in the last line: %s", want, last)
		}
	}
	if got, want := j.book(), "stowaway hook, stowaway term"; got != want {
		j.t.Errorf("its pod ended as %q, want %q", got, want)
	}
	if left, err := j.agent.Host.Exec(j.ctx, "sh", "-c", "ls /var/lib/knarr/agent/*.key /var/lib/knarr/agent/cluster.json 2>/dev/null; true"); err != nil || left != "" {
		j.t.Errorf("what the node was is still there: %s, %v", left, err)
	}
	// Without a token there is no way back; with one, the same line as the first time.
	_, err = j.agent.Command(j.ctx, "agent", "--server", line[1])
	if exitCode(err) != 2 && exitCode(err) != 1 || err == nil || !strings.Contains(err.Error(), "token") {
		j.t.Errorf("started without a token: %v", err)
	}
	j.start(line)
	j.mustKubectl("delete", "deployment", "web")
}

// registersAgain deletes the Node of the server, which starts again in place and keeps its pods.
func (j *joined) registersAgain() {
	name := j.server.Host.Name()
	p := pod("resident", web())
	p.Spec.NodeName = name
	j.startPod(p)
	node := func() (*corev1.Node, error) { return j.client.CoreV1().Nodes().Get(j.ctx, name, metav1.GetOptions{}) }
	old, err := node()
	j.must(err)
	began := time.Now()
	j.mustKubectl("delete", "node", name, "--wait=false")
	j.eventually("the server's node to be there again, Ready", func() error {
		n, err := node()
		if err != nil {
			return err
		}
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue && n.UID != old.UID {
				return nil
			}
		}
		return fmt.Errorf("the node is %s, was %s, its conditions %v", n.UID, old.UID, n.Status.Conditions)
	})
	j.t.Logf("Ready again %.1f s after its deletion", time.Since(began).Seconds())
	if !j.server.Running() || !strings.Contains(j.server.Log(), "node "+name+" was deleted and registers again") {
		j.t.Errorf("the server did not start again in place:\n%s", j.server.LogTail(20))
	}
	j.stays("its pod", func() error {
		p, err := j.getPod("resident")
		if err == nil && (p.Status.Phase != corev1.PodRunning || p.Status.ContainerStatuses[0].RestartCount != 0 || p.DeletionTimestamp != nil) {
			err = errors.New(states(p))
		}
		return err
	})
	(&servers{env: j.env}).alive(j.agent.Host.Name(), began)
}
