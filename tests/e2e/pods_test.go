package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestMemoryLimitKills(t *testing.T) {
	e := inNamespace(t)
	limited := func(name, mib string) *corev1.Pod {
		c := server("memory", "--mib="+mib)
		c.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}
		return once(pod(name, c))
	}
	e.createPod(limited("greedy", "256"))
	e.createPod(limited("modest", "16"))
	p := e.podEnds("greedy")
	if end := p.Status.ContainerStatuses[0].State.Terminated; end == nil || end.Reason != "OOMKilled" || end.ExitCode != 137 {
		t.Errorf("a container over its limit ended with %+v, want OOMKilled (137)", end)
	}
	e.podReady("modest")
	e.stays("a container under its limit", func() error {
		p, err := e.getPod("modest")
		if err == nil && !ready(p) {
			err = fmt.Errorf("%s", states(p))
		}
		return err
	})
}

func TestGracefulTermination(t *testing.T) {
	e := inNamespace(t)
	dir := "/var/lib/knarr-e2e-" + e.ns
	c := server("linger", "-for=3s", "-file=/host/said")
	p := pod("polite", c)
	p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](30)
	withVolume(p, "host", "/host", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir, Type: ptr.To(corev1.HostPathDirectoryOrCreate)}})
	e.startPod(p)
	start := time.Now()
	e.mustKubectl("delete", "pod", "polite")
	if took := time.Since(start); took < 3*time.Second || took > 25*time.Second {
		t.Errorf("a pod that needs 3 s to stop was gone after %v", took)
	}
	if said, err := e.host.ReadFile(dir + "/said"); err != nil || string(said) != "up\nstopping\nstopped\n" {
		t.Errorf("the pod said %q, %v", said, err)
	}
}

func TestGraceEndsInAKill(t *testing.T) {
	e := inNamespace(t)
	p := pod("stubborn", shell("main", "trap '' TERM; while :; do sleep 1; done"))
	p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](3)
	e.startPod(p)
	start := time.Now()
	e.mustKubectl("delete", "pod", "stubborn")
	if took := time.Since(start); took < 3*time.Second {
		t.Errorf("a pod that ignores SIGTERM was gone after %v, before its grace of 3 s", took)
	}
}

func TestLifecycleHooks(t *testing.T) {
	e := inNamespace(t)
	dir := "/var/lib/knarr-e2e-" + e.ns
	c := idle("main")
	run := func(script string) *corev1.LifecycleHandler {
		return &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", script}}}
	}
	c.Lifecycle = &corev1.Lifecycle{PostStart: run("echo started >> /host/said"), PreStop: run("echo stopping >> /host/said")}
	p := pod("hooked", c)
	withVolume(p, "host", "/host", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir, Type: ptr.To(corev1.HostPathDirectoryOrCreate)}})
	e.startPod(p)
	e.mustKubectl("delete", "pod", "hooked")
	if said, err := e.host.ReadFile(dir + "/said"); err != nil || string(said) != "started\nstopping\n" {
		t.Errorf("the hooks said %q, %v", said, err)
	}
}

func TestFinalizerHoldsAnObject(t *testing.T) {
	e := inNamespace(t)
	p := pod("held", idle("main"))
	p.Finalizers = []string{"knarr.test/hold"}
	e.startPod(p)
	e.mustKubectl("delete", "pod", "held", "--wait=false")
	e.podUntil("held", "stopped but there", func(p *corev1.Pod) bool {
		return p.DeletionTimestamp != nil && !ready(p)
	})
	e.stays("the object", func() error { _, err := e.getPod("held"); return err })
	e.mustKubectl("patch", "pod", "held", "--type=json", "-p", `[{"op":"remove","path":"/metadata/finalizers"}]`)
	e.mustKubectl("wait", "--for=delete", "pod/held", "--timeout=2m")
}

func TestSecurityContext(t *testing.T) {
	e := inNamespace(t)
	c := idle("main")
	c.SecurityContext = &corev1.SecurityContext{ReadOnlyRootFilesystem: ptr.To(true), AllowPrivilegeEscalation: ptr.To(false),
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
	e.startPod(pod("strict", c))
	e.says("strict", "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/1/status | tr -s '\\t' ' '; touch /x 2>&1 | grep -o 'Read-only'",
		"CapEff: 0000000000000000\nNoNewPrivs: 1\nSeccomp: 2\nRead-only")
	open := idle("main")
	open.SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true)}
	e.startPod(pod("privileged", open))
	e.says("privileged", "mkdir -p /m && mount -t tmpfs none /m && stat -fc %T /m", "tmpfs")
}

func TestQuotaAndLimitRange(t *testing.T) {
	e := inNamespace(t)
	e.apply(`
apiVersion: v1
kind: LimitRange
metadata: {name: defaults}
spec: {limits: [{type: Container, default: {memory: 64Mi}, defaultRequest: {memory: 32Mi}}]}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: quota}
spec: {hard: {pods: "1"}}
`)
	e.eventually("the quota to be counted", func() error {
		q, err := e.client.CoreV1().ResourceQuotas(e.ns).Get(e.ctx, "quota", metav1.GetOptions{})
		if err == nil && len(q.Status.Used) == 0 {
			err = fmt.Errorf("it is not")
		}
		return err
	})
	p := e.createPod(pod("first", idle("main")))
	if got := p.Spec.Containers[0].Resources.Limits.Memory().String(); got != "64Mi" {
		t.Errorf("the default memory limit became %s", got)
	}
	_, err := e.client.CoreV1().Pods(e.ns).Create(e.ctx, pod("second", idle("main")), metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "exceeded quota") {
		t.Errorf("a pod over the quota gives %v", err)
	}
}

func TestStaticPod(t *testing.T) {
	e := alone(t)
	dir := "/var/lib/knarr/agent/pod-manifests"
	if suite.upstream != "" {
		dir = "/var/lib/upstream/pod-manifests"
	}
	manifest := fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: static, namespace: %s}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: "knarr.test/server:1", args: [http]}
`, e.ns)
	e.must(e.host.WriteFile(dir+"/static.yaml", []byte(manifest), 0o600))
	mirror := "static-" + e.host.Name()
	p := e.podReady(mirror)
	if who, err := get(e.host, "http://"+p.Status.PodIP+":8080/hostname"); err != nil || who != mirror {
		t.Errorf("the static pod says it is %q, %v", who, err)
	}
	_, err := e.host.Exec(e.ctx, "rm", dir+"/static.yaml")
	e.must(err)
	e.eventually("the static pod to go", func() error {
		l, err := e.client.CoreV1().Pods(e.ns).List(e.ctx, metav1.ListOptions{})
		if err == nil && len(l.Items) > 0 {
			err = fmt.Errorf("it is still there")
		}
		return err
	})
}

// A child inherits how exact its parent's timers are, and those of an idle server are not.
func TestTimersOfContainersAreExact(t *testing.T) {
	e := inNamespace(t)
	e.eventually("the idle server's timers to wait for one another", func() error {
		slack, err := e.host.Exec(e.ctx, "sh", "-c", `for p in /proc/[0-9]*; do read -r c <$p/comm && [ "$c" = knarr ] && cat $p/timerslack_ns; done`)
		if err == nil && !strings.Contains(slack, "50000000\n") {
			err = fmt.Errorf("they are put off by %q ns", slack)
		}
		return err
	})
	e.startPod(pod("clock", shell("main", "cat /proc/self/timerslack_ns; exec httpd -f")))
	e.eventually("a container whose timers are exact", func() error {
		out, err := e.runKubectl("logs", "clock")
		if err == nil && out != "50000\n" {
			err = fmt.Errorf("they are put off by %q ns", out)
		}
		return err
	})
}
