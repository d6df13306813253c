package e2e

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestReadinessTakesAPodOutOfItsService(t *testing.T) {
	e := inNamespace(t)
	svc := e.startWeb(2, corev1.ServiceTypeClusterIP)
	url := "http://" + svc.Spec.ClusterIP + ":8080/hostname"
	e.answers(e.host, url, 2)
	sick := e.waitPods("web", 2)[0]
	e.must(post(e.host, "http://"+sick.Status.PodIP+":8080/readyz?ok=false"))
	e.waitPods("web", 1)
	e.eventually("the sick pod to be asked no more", func() error {
		for range 10 {
			if who, err := get(e.host, url); err != nil || who == sick.Name {
				return fmt.Errorf("%q answers (%v)", who, err)
			}
		}
		return nil
	})
	if p, err := e.getPod(sick.Name); err != nil || p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("a pod that is not ready was restarted (%v)", err)
	}
	e.must(post(e.host, "http://"+sick.Status.PodIP+":8080/readyz?ok=true"))
	e.waitPods("web", 2)
	e.answers(e.host, url, 2)
}

func TestLivenessRestartsAContainer(t *testing.T) {
	e := inNamespace(t)
	c := web()
	c.LivenessProbe = &corev1.Probe{ProbeHandler: httpProbe("/healthz"), PeriodSeconds: 1, FailureThreshold: 2}
	p := e.startPod(pod("sick", c))
	e.must(post(e.host, "http://"+p.Status.PodIP+":8080/healthz?ok=false"))
	again := e.podUntil("sick", "restarted and ready", func(p *corev1.Pod) bool {
		return p.Status.ContainerStatuses[0].RestartCount > 0 && ready(p)
	})
	if again.Status.PodIP != p.Status.PodIP {
		t.Errorf("the address changed from %s to %s with the restart of a container", p.Status.PodIP, again.Status.PodIP)
	}
}

func TestStartupProbeHoldsTheOthersBack(t *testing.T) {
	e := inNamespace(t)
	c := shell("slow", "sleep 4; touch /tmp/up; trap 'exit 0' TERM; while :; do sleep 3600 & wait; done")
	up := corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "-e", "/tmp/up"}}}
	c.StartupProbe = &corev1.Probe{ProbeHandler: up, PeriodSeconds: 1, FailureThreshold: 60}
	c.LivenessProbe = &corev1.Probe{ProbeHandler: up, PeriodSeconds: 1, FailureThreshold: 1}
	p := e.startPod(pod("slow", c))
	if n := p.Status.ContainerStatuses[0].RestartCount; n != 0 {
		t.Errorf("liveness restarted the container %d times while it started", n)
	}
}

func TestCrashLoopBacksOff(t *testing.T) {
	e := inNamespace(t)
	e.createPod(pod("crash", shell("main", "echo going down; exit 3")))
	p := e.podUntil("crash", "backing off", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == "CrashLoopBackOff"
	})
	last := p.Status.ContainerStatuses[0].LastTerminationState.Terminated
	if last == nil || last.ExitCode != 3 {
		t.Errorf("the last end was %+v, want exit code 3", last)
	}
	if out := e.mustKubectl("logs", "crash", "--previous"); !strings.Contains(out, "going down") {
		t.Errorf("the log of the previous run is %q", out)
	}
	e.eventually("an event about it", func() error {
		l, err := e.client.CoreV1().Events(e.ns).List(e.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=crash,reason=BackOff"})
		if err == nil && len(l.Items) == 0 {
			err = fmt.Errorf("there is none")
		}
		return err
	})
}
