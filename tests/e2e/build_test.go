package e2e

import (
	"errors"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/knarr-io/knarr/tests/images"
)

func asType[T error](err error) (T, bool) {
	var t T
	ok := errors.As(err, &t)
	return t, ok
}

// shell is a container that runs a shell script.
func shell(name, script string) corev1.Container {
	return corev1.Container{Name: name, Image: images.Busybox, Command: []string{"sh", "-c", script}}
}

// idle is a container that does nothing and stops at once when told to.
func idle(name string) corev1.Container {
	return shell(name, "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done")
}

// server is a container that runs a role of testserver.
func server(role string, args ...string) corev1.Container {
	return corev1.Container{Name: role, Image: images.Server, Args: append([]string{role}, args...)}
}

// web is the HTTP role, ready when it says so.
func web() corev1.Container {
	c := server("http")
	c.Ports = []corev1.ContainerPort{{ContainerPort: 8080}}
	c.ReadinessProbe = &corev1.Probe{ProbeHandler: httpProbe("/readyz"), PeriodSeconds: 1}
	return c
}

func httpProbe(path string) corev1.ProbeHandler {
	return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(8080)}}
}

// pod is a pod labelled app=name.
func pod(name string, containers ...corev1.Container) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{Containers: containers, TerminationGracePeriodSeconds: ptr.To[int64](5)},
	}
}

// once makes a pod one that is not started again.
func once(p *corev1.Pod) *corev1.Pod {
	p.Spec.RestartPolicy = corev1.RestartPolicyNever
	return p
}

// template is the template of a workload labelled app=name.
func template(name string, containers ...corev1.Container) corev1.PodTemplateSpec {
	p := pod(name, containers...)
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: p.Labels}, Spec: p.Spec}
}

func selector(name string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
}

func deployment(name string, replicas int32, containers ...corev1.Container) *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: selector(name), Template: template(name, containers...)}}
}

// service exposes app=name on port, with the same port behind it.
func service(name string, kind corev1.ServiceType, port int32) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{Type: kind, Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Name: "main", Port: port, TargetPort: intstr.FromInt32(port)}}}}
}

// createPod creates a pod.
func (e *env) createPod(p *corev1.Pod) *corev1.Pod {
	e.t.Helper()
	made, err := e.client.CoreV1().Pods(e.ns).Create(e.ctx, p, metav1.CreateOptions{})
	e.must(err)
	return made
}

// startPod creates a pod and waits until it is ready.
func (e *env) startPod(p *corev1.Pod) *corev1.Pod {
	e.t.Helper()
	e.createPod(p)
	return e.podReady(p.Name)
}

func (e *env) getPod(name string) (*corev1.Pod, error) {
	return e.client.CoreV1().Pods(e.ns).Get(e.ctx, name, metav1.GetOptions{})
}

// podReady waits until a pod is ready.
func (e *env) podReady(name string) *corev1.Pod {
	e.t.Helper()
	return e.podUntil(name, "ready", func(p *corev1.Pod) bool { return ready(p) })
}

// podEnds waits until a pod has succeeded or failed.
func (e *env) podEnds(name string) *corev1.Pod {
	e.t.Helper()
	return e.podUntil(name, "ended", func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
}

// podUntil waits until a pod is as wanted.
func (e *env) podUntil(name, what string, is func(*corev1.Pod) bool) *corev1.Pod {
	e.t.Helper()
	var p *corev1.Pod
	e.eventually("pod "+name+" to be "+what, func() error {
		var err error
		if p, err = e.getPod(name); err != nil {
			return err
		}
		if !is(p) {
			return fmt.Errorf("it is %s: %s", p.Status.Phase, states(p))
		}
		return nil
	})
	return p
}

// states sums up a pod's containers for a message.
func states(p *corev1.Pod) string {
	var s []string
	for _, c := range append(append([]corev1.ContainerStatus{}, p.Status.InitContainerStatuses...), p.Status.ContainerStatuses...) {
		state := "running"
		if c.State.Waiting != nil {
			state = c.State.Waiting.Reason + " " + c.State.Waiting.Message
		} else if c.State.Terminated != nil {
			state = fmt.Sprintf("%s (%d)", c.State.Terminated.Reason, c.State.Terminated.ExitCode)
		}
		s = append(s, fmt.Sprintf("%s %s, ready %v, restarts %d", c.Name, state, c.Ready, c.RestartCount))
	}
	return strings.Join(s, "; ")
}

func ready(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// readyPods returns the names of the ready pods labelled app=name that are not
// on their way out.
func (e *env) readyPods(name string) ([]corev1.Pod, error) {
	l, err := e.client.CoreV1().Pods(e.ns).List(e.ctx, metav1.ListOptions{LabelSelector: "app=" + name})
	if err != nil {
		return nil, err
	}
	var ps []corev1.Pod
	for _, p := range l.Items {
		if p.DeletionTimestamp == nil && ready(&p) {
			ps = append(ps, p)
		}
	}
	return ps, nil
}

// waitPods waits until exactly n pods labelled app=name are ready.
func (e *env) waitPods(name string, n int) []corev1.Pod {
	e.t.Helper()
	var ps []corev1.Pod
	e.eventually(fmt.Sprintf("%d pods of %s", n, name), func() error {
		var err error
		if ps, err = e.readyPods(name); err != nil {
			return err
		}
		if len(ps) != n {
			return fmt.Errorf("%d are ready", len(ps))
		}
		return nil
	})
	return ps
}

// createService creates a Service and returns it with its addresses.
func (e *env) createService(s *corev1.Service) *corev1.Service {
	e.t.Helper()
	made, err := e.client.CoreV1().Services(e.ns).Create(e.ctx, s, metav1.CreateOptions{})
	e.must(err)
	return made
}
