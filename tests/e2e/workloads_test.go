package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/knarr-io/knarr/tests/lab"
)

// answers asks a Service until n different pods have answered.
func (e *env) answers(h *lab.Host, url string, n int) {
	e.t.Helper()
	seen := map[string]bool{}
	e.eventually(fmt.Sprintf("%d pods to answer on %s", n, url), func() error {
		who, err := get(h, url)
		if err != nil {
			return err
		}
		seen[who] = true
		if len(seen) < n {
			return fmt.Errorf("only %v answered", seen)
		}
		return nil
	})
}

func TestDeploymentRollout(t *testing.T) {
	e := inNamespace(t)
	deployments := e.client.AppsV1().Deployments(e.ns)
	// Whoever leaves a Service lingers until all have heard of it.
	c := web()
	c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 4}}}
	d := deployment("web", 3, c)
	d.Spec.Template.Spec.TerminationGracePeriodSeconds = ptr.To[int64](30)
	_, err := deployments.Create(e.ctx, d, metav1.CreateOptions{})
	e.must(err)
	svc := e.createService(service("web", corev1.ServiceTypeClusterIP, 8080))
	url := "http://" + svc.Spec.ClusterIP + ":8080"
	e.waitPods("web", 3)
	e.answers(e.host, url+"/hostname", 3)

	// While it rolls out, the Service answers all the time.
	ctx, stop := context.WithCancel(e.ctx)
	failed := make(chan error, 1)
	go func() {
		defer close(failed)
		for ctx.Err() == nil {
			if _, err := get(e.host, url+"/hostname"); err != nil {
				failed <- err
				return
			}
		}
	}()
	e.mustKubectl("set", "env", "deployment/web", "RELEASE=two")
	e.mustKubectl("rollout", "status", "deployment/web", "--timeout=3m")
	stop()
	if err := <-failed; err != nil {
		t.Errorf("the Service did not answer during the rollout: %v", err)
	}
	answersAs := func(want string) {
		e.eventually(fmt.Sprintf("release %q on the Service, ten times in a row", want), func() error {
			for range 10 {
				if release, err := get(e.host, url+"/env?name=RELEASE"); err != nil || release != want {
					return fmt.Errorf("release %q answers, %v", release, err)
				}
			}
			return nil
		})
	}
	answersAs("two")
	e.mustKubectl("rollout", "undo", "deployment/web")
	e.mustKubectl("rollout", "status", "deployment/web", "--timeout=3m")
	answersAs("")
	e.mustKubectl("scale", "deployment/web", "--replicas=1")
	e.waitPods("web", 1)
}

func TestDeploymentRolloutStopsAtAFault(t *testing.T) {
	e := inNamespace(t)
	_, err := e.client.AppsV1().Deployments(e.ns).Create(e.ctx, deployment("web", 2, web()), metav1.CreateOptions{})
	e.must(err)
	good := e.waitPods("web", 2)
	e.mustKubectl("set", "image", "deployment/web", "http=knarr.test/nobody-has-this:1")
	e.eventually("a pod that cannot have its image", func() error {
		out, err := e.runKubectl("get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}")
		if err == nil && !strings.Contains(out, "ImagePull") {
			err = fmt.Errorf("pods wait for %q", out)
		}
		return err
	})
	e.stays("the old release", func() error {
		for _, p := range good {
			if now, err := e.getPod(p.Name); err != nil || !ready(now) {
				if other, err := e.readyPods("web"); err != nil || len(other) < 1 {
					return fmt.Errorf("only %d pods are ready (%v)", len(other), err)
				}
			}
		}
		return nil
	})
}

func TestStatefulSet(t *testing.T) {
	e := inNamespace(t)
	_, err := e.client.AppsV1().StatefulSets(e.ns).Create(e.ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec: appsv1.StatefulSetSpec{Replicas: ptr.To[int32](3), ServiceName: "db", Selector: selector("db"), Template: template("db", web())}}, metav1.CreateOptions{})
	e.must(err)
	headless := service("db", corev1.ServiceTypeClusterIP, 8080)
	headless.Spec.ClusterIP = corev1.ClusterIPNone
	e.createService(headless)
	e.waitPods("db", 3)
	var previous *corev1.Pod
	for i := range 3 {
		name := fmt.Sprintf("db-%d", i)
		p := e.podReady(name)
		if who, err := get(e.host, "http://"+p.Status.PodIP+":8080/hostname"); err != nil || who != name {
			t.Errorf("%s says it is %q, %v", name, who, err)
		}
		if previous != nil && p.CreationTimestamp.Before(&previous.CreationTimestamp) {
			t.Errorf("%s came before %s", name, previous.Name)
		}
		previous = p
	}
	// A deleted pod comes back under its name; scaling down takes the last.
	before := e.podReady("db-1")
	e.mustKubectl("delete", "pod", "db-1", "--wait=false")
	e.podUntil("db-1", "another of that name, ready", func(p *corev1.Pod) bool { return p.UID != before.UID && ready(p) })
	e.mustKubectl("scale", "statefulset/db", "--replicas=2")
	e.mustKubectl("wait", "--for=delete", "pod/db-2", "--timeout=2m")
	e.waitPods("db", 2)
}

func TestDaemonSet(t *testing.T) {
	e := inNamespace(t)
	_, err := e.client.AppsV1().DaemonSets(e.ns).Create(e.ctx, &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "agent"},
		Spec: appsv1.DaemonSetSpec{Selector: selector("agent"), Template: template("agent", web())}}, metav1.CreateOptions{})
	e.must(err)
	first := e.waitPods("agent", 1)[0]
	if first.Spec.NodeName != e.host.Name() {
		t.Errorf("the pod runs on %q", first.Spec.NodeName)
	}
	e.mustKubectl("set", "env", "daemonset/agent", "RELEASE=two")
	e.mustKubectl("rollout", "status", "daemonset/agent", "--timeout=3m")
	second := e.waitPods("agent", 1)[0]
	if second.UID == first.UID {
		t.Error("the update left the old pod running")
	}
}

// job is a Job whose pods run script.
func job(name, script string) *batchv1.Job {
	tmpl := template(name, shell("main", script))
	tmpl.Spec.RestartPolicy = corev1.RestartPolicyNever
	return &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batchv1.JobSpec{Template: tmpl, BackoffLimit: ptr.To[int32](1)}}
}

// jobEnds waits for a condition of a Job.
func (e *env) jobEnds(name string, want batchv1.JobConditionType) *batchv1.Job {
	e.t.Helper()
	var j *batchv1.Job
	e.eventually("job "+name+" to be "+string(want), func() error {
		var err error
		if j, err = e.client.BatchV1().Jobs(e.ns).Get(e.ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		for _, c := range j.Status.Conditions {
			if c.Type == want && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("its status is %+v", j.Status)
	})
	return j
}

func TestJob(t *testing.T) {
	e := inNamespace(t)
	good := job("good", `echo "index $JOB_COMPLETION_INDEX"`)
	good.Spec.Completions, good.Spec.Parallelism = ptr.To[int32](3), ptr.To[int32](2)
	good.Spec.CompletionMode = ptr.To(batchv1.IndexedCompletion)
	for _, j := range []*batchv1.Job{good, job("bad", "exit 7")} {
		_, err := e.client.BatchV1().Jobs(e.ns).Create(e.ctx, j, metav1.CreateOptions{})
		e.must(err)
	}
	if done := e.jobEnds("good", batchv1.JobComplete); done.Status.Succeeded != 3 {
		t.Errorf("%d of 3 completions succeeded", done.Status.Succeeded)
	}
	logs := e.mustKubectl("logs", "-l", "app=good", "--tail=-1")
	for i := range 3 {
		if want := fmt.Sprintf("index %d", i); !strings.Contains(logs, want) {
			t.Errorf("no pod of the job said %q: %s", want, logs)
		}
	}
	if failed := e.jobEnds("bad", batchv1.JobFailed); failed.Status.Failed != 2 {
		t.Errorf("the job that fails was tried %d times, want 2", failed.Status.Failed)
	}
}

func TestCronJob(t *testing.T) {
	e := inNamespace(t)
	_, err := e.client.BatchV1().CronJobs(e.ns).Create(e.ctx, &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "tick"},
		Spec: batchv1.CronJobSpec{Schedule: "* * * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: job("tick", "echo tock").Spec}}}, metav1.CreateOptions{})
	e.must(err)
	e.eventually("the minute's job", func() error {
		c, err := e.client.BatchV1().CronJobs(e.ns).Get(e.ctx, "tick", metav1.GetOptions{})
		if err == nil && c.Status.LastSuccessfulTime == nil {
			err = fmt.Errorf("its status is %+v", c.Status)
		}
		return err
	})
	if logs := e.mustKubectl("logs", "-l", "app=tick"); !strings.Contains(logs, "tock") {
		t.Errorf("the job said %q", logs)
	}
}

func TestInitAndSidecarContainers(t *testing.T) {
	e := inNamespace(t)
	share := []corev1.VolumeMount{{Name: "share", MountPath: "/share"}}
	first, second := shell("first", "echo first >> /share/order"), shell("second", "echo second >> /share/order")
	sidecar := shell("sidecar", "echo sidecar >> /share/order; touch /share/up; trap 'exit 0' TERM; while :; do sleep 3600 & wait; done")
	sidecar.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	sidecar.StartupProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "-e", "/share/up"}}}, PeriodSeconds: 1}
	main := shell("main", "echo main >> /share/order; cat /share/order")
	for _, c := range []*corev1.Container{&first, &second, &sidecar, &main} {
		c.VolumeMounts = share
	}
	p := once(pod("ordered", main))
	p.Spec.InitContainers = []corev1.Container{first, second, sidecar}
	p.Spec.Volumes = []corev1.Volume{{Name: "share", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	e.createPod(p)
	if ended := e.podEnds("ordered"); ended.Status.Phase != corev1.PodSucceeded {
		t.Errorf("the pod is %s although only its sidecar had to be stopped: %s", ended.Status.Phase, states(ended))
	}
	if got := strings.Fields(e.mustKubectl("logs", "ordered", "-c", "main")); strings.Join(got, " ") != "first second sidecar main" {
		t.Errorf("the containers started in the order %v", got)
	}
}
