package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
)

// A runtime that is installed beside a running cluster is offered after a restart, and taken back when it is gone. The
// runtime is knarr's own runc under another's name: what matters is who runs the containers, and how they get there.
func TestRuntimeClass(t *testing.T) {
	const program, state = "/usr/local/bin/youki", "/run/knarr/youki/k8s.io"
	s := cluster.Require(t, suite.lab, "runtimes", lab.Options{}, suite.binary, suite.archives)
	restart := func() *env {
		t.Helper()
		if s.Running() {
			_, err := s.Stop(t.Context())
			must(t, err)
		}
		must(t, s.Start())
		client, err := s.WaitNode(t.Context())
		must(t, err)
		return &env{shared: &shared{host: s.Host, client: client, kubectl: []string{s.Program, "kubectl"}, log: func() string { return s.LogTail(80) }}, t: t, ns: "default", ctx: t.Context()}
	}
	e := restart()
	e.startPod(pod("without", idle("main")))
	if _, err := e.runtimeClass("youki"); !apierrors.IsNotFound(err) {
		t.Errorf("RuntimeClass of what is not installed: %v", err)
	}

	runc, err := e.host.Exec(e.ctx, "find", cluster.DataDir, "-name", "runc", "-type", "f")
	must(t, err)
	_, err = e.host.Exec(e.ctx, "cp", strings.Fields(runc)[0], program)
	must(t, err)
	e = restart()
	e.eventually("the RuntimeClass", func() error {
		class, err := e.runtimeClass("youki")
		if err == nil && fmt.Sprint(class.Handler, " ", class.Scheduling.NodeSelector) != "youki map[runtime.knarr.io/youki:true]" {
			err = fmt.Errorf("it has %s and %v", class.Handler, class.Scheduling)
		}
		return err
	})
	with := pod("with", idle("main"))
	with.Spec.RuntimeClassName = ptr.To("youki")
	id := containerID(e.startPod(with))
	e.says("with", "echo $((6 * 7))", "42")
	if out, err := e.host.Exec(e.ctx, program, "--root", state, "list", "-q"); err != nil || !strings.Contains(out, id) {
		t.Errorf("the runtime does not have the container %s: %v\n%s", id, err, out)
	} else if other := containerID(e.podReady("without")); strings.Contains(out, other) {
		t.Errorf("the runtime has the container %s of runc's", other)
	}
	e.staysPending()

	e.must(e.client.CoreV1().Pods(e.ns).Delete(e.ctx, "with", metav1.DeleteOptions{}))
	e.eventually("the pod to be gone", func() error {
		if _, err := e.getPod("with"); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there, %w", err)
		}
		return nil
	})
	_, err = e.host.Exec(e.ctx, "rm", program)
	must(t, err)
	e = restart()
	e.eventually("the RuntimeClass to be gone", func() error {
		if _, err := e.runtimeClass("youki"); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there, %w", err)
		}
		return nil
	})
	e.podReady("without")
}

func (e *env) runtimeClass(name string) (*nodev1.RuntimeClass, error) {
	return e.client.NodeV1().RuntimeClasses().Get(e.ctx, name, metav1.GetOptions{})
}

// staysPending makes a pod whose runtime no node has.
func (e *env) staysPending() {
	e.t.Helper()
	_, err := e.client.NodeV1().RuntimeClasses().Create(e.ctx, &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "nowhere"}, Handler: "youki",
		Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"runtime.knarr.io/kata": "true"}}}, metav1.CreateOptions{})
	e.must(err)
	lost := pod("lost", idle("main"))
	lost.Spec.RuntimeClassName = ptr.To("nowhere")
	e.createPod(lost)
	e.eventually("the pod to be unschedulable", func() error {
		p, err := e.getPod("lost")
		if err != nil {
			return err
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonUnschedulable {
				return nil
			}
		}
		return errors.New("it is not")
	})
}

func containerID(p *corev1.Pod) string {
	return strings.TrimPrefix(p.Status.ContainerStatuses[0].ContainerID, "containerd://")
}
