package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
)

// own starts nothing yet: it puts knarr on a host of the test's own.
func own(t *testing.T, name string, o lab.Options) *cluster.Server {
	t.Helper()
	return cluster.Require(t, suite.lab, name, o, suite.binary, suite.archives)
}

// place is env on a server of the test's own, in the namespace "default".
func place(t *testing.T, s *cluster.Server, c *cluster.Client) *env {
	t.Helper()
	e := &env{t: t, ns: "default", ctx: t.Context(), shared: &shared{host: s.Host, client: c, kubectl: []string{s.Program, "kubectl"}, log: func() string { return s.LogTail(80) }}}
	e.eventually("the default service account", func() error {
		_, err := c.CoreV1().ServiceAccounts(e.ns).Get(e.ctx, "default", metav1.GetOptions{})
		return err
	})
	return e
}

// begin starts a server and waits until its node is ready.
func begin(t *testing.T, s *cluster.Server) *env {
	t.Helper()
	must(t, s.Start())
	c, err := s.WaitNode(t.Context())
	must(t, err)
	return place(t, s, c)
}

// TestFirstDeployment is a user's first quarter of a minute.
func TestFirstDeployment(t *testing.T) {
	const allowed = 15 * time.Second
	s := own(t, "first", lab.Options{})
	start := time.Now()
	must(t, s.Start())
	c, err := s.WaitAPI(t.Context())
	must(t, err)
	apiAfter := time.Since(start)
	e := place(t, s, c)
	_, err = c.AppsV1().Deployments(e.ns).Create(e.ctx, deployment("web", 3, web()), metav1.CreateOptions{})
	must(t, err)
	svc := e.createService(service("web", corev1.ServiceTypeClusterIP, 8080))
	e.answers(s.Host, "http://"+svc.Spec.ClusterIP+":8080/hostname", 3)
	took := time.Since(start)
	t.Logf("API ready after %.1f s, three replicas answered after %.1f s", apiAfter.Seconds(), took.Seconds())
	if took > allowed {
		t.Errorf("three replicas answered on their Service %v after the start of the server; %v are allowed", took, allowed)
	}
}

// TestBootFitsOneScreen reads what a person sees of a healthy first start.
func TestBootFitsOneScreen(t *testing.T) {
	const lines, columns = 40, 200
	s := own(t, "screen", lab.Options{})
	begin(t, s)
	boot := strings.Split(strings.TrimSpace(s.Log()), "\n")
	if len(boot) > lines {
		t.Errorf("a healthy boot prints %d lines; a screen has %d:\n%s", len(boot), lines, strings.Join(boot, "\n"))
	}
	for _, l := range boot {
		if len(l) > columns {
			t.Errorf("a line of %d characters: %s", len(l), l)
		}
		if strings.Contains(l, " ERROR ") || strings.Contains(l, "panic") {
			t.Errorf("a healthy boot complains: %s", l)
		}
	}
}

// life is what must not change in a pod that goes on running.
func life(t *testing.T, e *env, app string) string {
	t.Helper()
	l, err := e.client.CoreV1().Pods(e.ns).List(e.ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	must(t, err)
	var b strings.Builder
	for _, p := range l.Items {
		for _, c := range p.Status.ContainerStatuses {
			if c.State.Running == nil {
				t.Errorf("pod %s: %s", p.Name, states(&p))
				continue
			}
			fmt.Fprintf(&b, "%s %s %s started %s restarts %d\n", p.UID, p.Status.PodIP, c.ContainerID, c.State.Running.StartedAt, c.RestartCount)
		}
	}
	return b.String()
}

// workload starts three pods behind a Service and returns its URL.
func workload(t *testing.T, e *env) string {
	t.Helper()
	svc := e.startWeb(3, corev1.ServiceTypeClusterIP)
	url := "http://" + svc.Spec.ClusterIP + ":8080/hostname"
	e.answers(e.host, url, 3)
	return url
}

func TestPodsOutliveTheServer(t *testing.T) {
	s := own(t, "adopt", lab.Options{})
	e := begin(t, s)
	url := workload(t, e)
	before := life(t, e, "web")
	for _, stop := range []struct {
		name string
		do   func(ctx context.Context) error
	}{
		{"SIGTERM", func(ctx context.Context) error {
			code, err := s.Stop(ctx)
			if err == nil && code != 0 {
				err = fmt.Errorf("exit code %d, want 0", code)
			}
			return err
		}},
		{"knarr stop", func(ctx context.Context) error {
			if _, err := s.Command(ctx, "stop"); err != nil {
				return err
			}
			code, err := s.Process().Wait(ctx)
			if err == nil && code != 0 {
				err = fmt.Errorf("exit code %d, want 0", code)
			}
			return err
		}},
		{"SIGKILL", func(context.Context) error { return s.Process().Kill() }},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), cluster.StopLimit)
		begun := time.Now()
		if err := stop.do(ctx); err != nil {
			t.Fatalf("%s: %v\n%s", stop.name, err, s.LogTail(60))
		}
		cancel()
		t.Logf("%s: stopped after %.1f s", stop.name, time.Since(begun).Seconds())
		e.answers(s.Host, url, 3)
		e = begin(t, s)
		e.waitPods("web", 3)
		e.stays("the pods of before "+stop.name, func() error {
			if now := life(t, e, "web"); now != before {
				return fmt.Errorf("they were\n%sand are\n%s", before, now)
			}
			return nil
		})
		e.answers(s.Host, url, 3)
		// The adopted containers can be entered: testserver tells its usage.
		if _, err := e.runKubectl("exec", "deployment/web", "--", "/testserver"); err == nil || !strings.Contains(err.Error(), "usage: testserver") {
			t.Errorf("exec into an adopted container gives %v", err)
		}
	}
}

// TestServerNoticesWhatHappenedWhileItWasDown lets a container die while nobody
// looks.
func TestServerNoticesWhatHappenedWhileItWasDown(t *testing.T) {
	s := own(t, "noticed", lab.Options{})
	e := begin(t, s)
	p := e.startPod(pod("mortal", server("http")))
	if _, err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the container to end", func() error {
		if _, err := get(s.Host, "http://"+p.Status.PodIP+":8080/exit?code=4"); err == nil {
			return errors.New("it answers")
		}
		return nil
	})
	e = begin(t, s)
	again := e.podUntil("mortal", "restarted and ready", func(p *corev1.Pod) bool {
		return p.Status.ContainerStatuses[0].RestartCount == 1 && ready(p)
	})
	// Its exit code is lost, as with upstream: containerd takes a task without
	// processes, which it finds when it starts, for a leaked one.
	if again.Status.ContainerStatuses[0].LastTerminationState.Terminated == nil {
		t.Error("the end while the server was down is not recorded")
	}
}

func TestReboot(t *testing.T) {
	s := own(t, "reboot", lab.Options{})
	e := begin(t, s)
	url := workload(t, e)
	e.configMap("kept")
	must(t, s.Host.Crash())
	must(t, s.Host.Boot(t.Context()))
	e = begin(t, s)
	if e.gone("kept") == nil {
		t.Error("an acknowledged write did not survive the power cut")
	}
	e.waitPods("web", 3)
	e.answers(s.Host, url, 3)
}

func TestInterruptStops(t *testing.T) {
	s := own(t, "interrupt", lab.Options{})
	begin(t, s)
	must(t, s.Process().Signal(syscall.SIGINT))
	ctx, cancel := context.WithTimeout(t.Context(), cluster.StopLimit)
	defer cancel()
	if code, err := s.Process().Wait(ctx); err != nil || code != 0 {
		t.Errorf("after Ctrl-C the exit code is %d, %v", code, err)
	}
}

// TestStopDuringBoot stops a server at moments when it is not up yet.
func TestStopDuringBoot(t *testing.T) {
	s := own(t, "hasty", lab.Options{})
	for _, after := range []time.Duration{300 * time.Millisecond, time.Second, 2 * time.Second} {
		must(t, s.Start())
		<-time.After(after)
		code, err := s.Stop(t.Context())
		if err != nil || code != 0 {
			t.Errorf("stopped %v after its start, the server ends with %d, %v\n%s", after, code, err, s.LogTail(40))
		}
	}
	begin(t, s)
}

// notifySocket stands in for systemd.
type notifySocket struct {
	conn net.PacketConn
	said chan string
}

func listenNotify(t *testing.T, h *lab.Host, path string) *notifySocket {
	t.Helper()
	c, err := h.ListenPacket("unixgram", path)
	must(t, err)
	n := &notifySocket{conn: c, said: make(chan string, 1000)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 64<<10)
		for {
			k, _, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			for line := range strings.SplitSeq(strings.TrimSpace(string(b[:k])), "\n") {
				n.said <- line
			}
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return n
}

// until waits for a message and returns all that came before.
func (n *notifySocket) until(t *testing.T, want string) []string {
	t.Helper()
	var before []string
	limit := time.After(patience)
	for {
		select {
		case got := <-n.said:
			if got == want {
				return before
			}
			before = append(before, got)
		case <-limit:
			t.Fatalf("systemd was not told %s, only %v", want, before)
		}
	}
}

func TestSystemdNotification(t *testing.T) {
	const socket, watchdog = "/run/notify.sock", 4 * time.Second
	s := own(t, "notify", lab.Options{})
	n := listenNotify(t, s.Host, socket)
	s.Env = []string{"NOTIFY_SOCKET=" + socket, fmt.Sprintf("WATCHDOG_USEC=%d", watchdog.Microseconds())}
	must(t, s.Start())
	for _, early := range n.until(t, "READY=1") {
		if early == "STOPPING=1" {
			t.Error("the server says that it stops before it is ready")
		}
	}
	// Ready is said when it is true.
	c, err := s.Client()
	must(t, err)
	if err := c.RESTClient().Get().AbsPath("/readyz").Do(t.Context()).Error(); err != nil {
		t.Errorf("READY=1 was said, but the API is not ready: %v", err)
	}
	for range 3 {
		asked := time.Now()
		n.until(t, "WATCHDOG=1")
		if took := time.Since(asked); took > watchdog {
			t.Errorf("the watchdog was fed after %v; systemd would have killed the server after %v", took, watchdog)
		}
	}
	if code, err := s.Stop(t.Context()); err != nil || code != 0 {
		t.Errorf("stop: %d, %v", code, err)
	}
	for _, more := range n.until(t, "STOPPING=1") {
		if more == "READY=1" {
			t.Error("READY=1 was said twice: a component inside speaks to systemd by itself")
		}
	}
}

// TestWatchdogIsNotFedByAFrozenServer stops the process as a hang does.
func TestWatchdogIsNotFedByAFrozenServer(t *testing.T) {
	const socket, watchdog = "/run/notify.sock", 2 * time.Second
	s := own(t, "frozen", lab.Options{})
	n := listenNotify(t, s.Host, socket)
	s.Env = []string{"NOTIFY_SOCKET=" + socket, fmt.Sprintf("WATCHDOG_USEC=%d", watchdog.Microseconds())}
	must(t, s.Start())
	n.until(t, "READY=1")
	n.until(t, "WATCHDOG=1")
	must(t, s.Process().Signal(syscall.SIGSTOP))
	eventually(t, "the server to be frozen", func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.Process().PID()))
		if err == nil && !strings.Contains(string(stat), ") T ") {
			err = fmt.Errorf("it is %s", stat)
		}
		return err
	})
	for late := time.After(watchdog); late != nil; { // what it said before may be on its way
		select {
		case <-n.said:
		case <-late:
			late = nil
		}
	}
	select {
	case got := <-n.said:
		t.Errorf("a frozen server says %s", got)
	case <-time.After(2 * watchdog):
	}
	must(t, s.Process().Signal(syscall.SIGCONT))
	n.until(t, "WATCHDOG=1")
}

// TestWithoutSysResource runs pods without the capability to lower
// oom_score_adj, as in an unprivileged virtual machine.
func TestWithoutSysResource(t *testing.T) {
	s := own(t, "nocap", lab.Options{})
	program := s.Program
	must(t, s.Host.WriteFile("/usr/local/bin/knarr-nocap", []byte("#!/bin/sh\nexec setpriv --bounding-set=-sys_resource --inh-caps=-sys_resource "+program+" \"$@\"\n"), 0o755))
	s.Program = "/usr/local/bin/knarr-nocap"
	e := begin(t, s)
	e.startPod(pod("web", web()))
	caps, err := s.Host.Exec(t.Context(), "sh", "-c", "grep CapBnd /proc/$(cat /var/lib/knarr/lock)/status | cut -f2")
	must(t, err)
	var bits uint64
	if _, err := fmt.Sscanf(strings.TrimSpace(caps), "%x", &bits); err != nil || bits&(1<<24) != 0 {
		t.Errorf("the server had CAP_SYS_RESOURCE after all (%s, %v)", caps, err)
	}
}
