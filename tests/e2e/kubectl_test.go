package e2e

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/knarr-io/knarr/tests/lab"
)

// background starts kubectl on the host and ends it with the test.
func (e *env) background(args ...string) *lab.Process {
	e.t.Helper()
	p, err := e.host.Start(lab.Cmd{Args: append(append(append([]string{}, e.kubectl...), "-n", e.ns), args...)})
	e.must(err)
	e.t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			e.t.Error(err)
		}
	})
	return p
}

func TestLogsFollow(t *testing.T) {
	e := inNamespace(t)
	e.startPod(pod("talker", shell("main", "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.2; done")))
	p := e.background("logs", "-f", "talker")
	follows := func(from int) int {
		last := from
		e.eventually(fmt.Sprintf("the log to go on after line %d", from), func() error {
			lines := strings.Split(strings.TrimSpace(p.Log()), "\n")
			for i, l := range lines {
				if l != fmt.Sprintf("line %d", i+1) {
					return fmt.Errorf("line %d of the log is %q", i+1, l)
				}
			}
			if last = len(lines); last < from+5 {
				return fmt.Errorf("it is at %d", last)
			}
			return nil
		})
		return last
	}
	follows(follows(0))
	if out := e.mustKubectl("logs", "talker", "--tail=2", "--timestamps"); len(strings.Split(strings.TrimSpace(out), "\n")) != 2 {
		t.Errorf("--tail=2 gives %q", out)
	}
}

func TestExec(t *testing.T) {
	e := inNamespace(t)
	e.startPod(pod("box", idle("one"), idle("two")))
	out, err := e.kubectlWith(strings.NewReader("from stdin"), "exec", "-i", "box", "-c", "two", "--", "sh", "-c", "cat; echo; hostname; exit 5")
	if out != "from stdin\nbox\n" || exitCode(err) != 5 {
		t.Errorf("exec gives %q with exit code %d (%v), want stdin and hostname with 5", out, exitCode(err), err)
	}
	if _, err := e.runKubectl("exec", "box", "--", "no-such-program"); err == nil {
		t.Error("exec of a program that is not there succeeds")
	}
}

func TestCopy(t *testing.T) {
	e := inNamespace(t)
	e.startPod(pod("box", idle("main")))
	data := bytes.Repeat([]byte("knarr copies files\n"), 50_000)
	dir := "/tmp/copy-" + e.ns
	e.must(e.host.WriteFile(dir+"/there/file", data, 0o644))
	e.mustKubectl("cp", dir+"/there", "box:/tmp/there")
	e.says("box", "wc -c < /tmp/there/file", fmt.Sprint(len(data)))
	e.mustKubectl("cp", "box:/tmp/there/file", dir+"/back")
	if back, err := e.host.ReadFile(dir + "/back"); err != nil || !bytes.Equal(back, data) {
		t.Errorf("%d bytes came back of %d (%v)", len(back), len(data), err)
	}
}

func TestPortForward(t *testing.T) {
	e := inNamespace(t)
	e.startWeb(1, corev1.ServiceTypeClusterIP)
	for _, target := range []string{"deployment/web", "service/web"} {
		p := e.background("port-forward", target, ":8080")
		port := regexp.MustCompile(`127\.0\.0\.1:(\d+) ->`)
		e.eventually("an answer through "+target, func() error {
			m := port.FindStringSubmatch(p.Log())
			if m == nil {
				return fmt.Errorf("kubectl says %q", p.Log())
			}
			who, err := get(e.host, "http://127.0.0.1:"+m[1]+"/hostname")
			if err == nil && !strings.HasPrefix(who, "web-") {
				err = fmt.Errorf("%q answers", who)
			}
			return err
		})
	}
}

func TestEphemeralDebugContainer(t *testing.T) {
	e := inNamespace(t)
	e.startPod(pod("web", web()))
	// The server image has no shell; the debug container brings one and shares
	// the target's processes.
	e.mustKubectl("debug", "web", "--image=knarr.test/busybox:1", "--target=http", "--container=doctor", "--profile=general", "--", "sh", "-c", "trap 'exit 0' TERM; ps; testserver get http://127.0.0.1:8080/hostname; echo; sleep 3600 & wait")
	e.eventually("the doctor's report", func() error {
		out, err := e.runKubectl("logs", "web", "-c", "doctor")
		if err == nil && !(strings.Contains(out, "testserver http") && strings.HasSuffix(out, "\nweb\n")) {
			err = fmt.Errorf("it is %q", out)
		}
		return err
	})
}

func TestAttachAndRun(t *testing.T) {
	e := inNamespace(t)
	out, err := e.kubectlWith(strings.NewReader("three\nlines\nhere\n"), "run", "counter", "--rm", "-i", "--quiet", "--restart=Never", "--image=knarr.test/busybox:1", "--", "wc", "-l")
	e.must(err)
	if strings.TrimSpace(out) != "3" {
		t.Errorf("kubectl run -i gives %q, want 3", out)
	}
	if _, err := e.getPod("counter"); err == nil {
		t.Error("--rm left the pod")
	}
}

func TestExplainApplyDiffAndKustomize(t *testing.T) {
	e := inNamespace(t)
	if out := e.mustKubectl("explain", "deployment.spec.strategy"); !strings.Contains(out, "RollingUpdate") {
		t.Errorf("kubectl explain says %q", out)
	}
	dir := "/tmp/kustomize-" + e.ns
	e.must(e.host.WriteFile(dir+"/kustomization.yaml", []byte("configMapGenerator:\n- name: made\n  literals: [a=b]\n"), 0o644))
	e.mustKubectl("apply", "-k", dir)
	if out := e.mustKubectl("get", "configmaps", "-o", "name"); !strings.Contains(out, "configmap/made-") {
		t.Errorf("after apply -k there are %q", out)
	}
	if _, err := e.runKubectl("diff", "-k", dir); err != nil {
		t.Errorf("diff of what was just applied: %v", err)
	}
}

func TestWatchFromKubectl(t *testing.T) {
	e := inNamespace(t)
	p := e.background("get", "configmaps", "--watch", "-o", "name")
	// Only what is made after the watch began shows that it watches.
	for i := range 3 {
		name := fmt.Sprintf("made-%d", i)
		e.mustKubectl("create", "configmap", name)
		e.eventually(name+" to be seen", func() error {
			if !strings.Contains(p.Log(), "configmap/"+name) {
				return fmt.Errorf("kubectl says %q", p.Log())
			}
			return nil
		})
	}
}

// The bundled kubectl finds the server by itself, and says so when it cannot.
func TestKubectlWithoutKubeconfig(t *testing.T) {
	h := suite.lab.Host(t, "stranger", lab.Options{})
	must(t, h.CopyIn(suite.binary, "/usr/local/bin/knarr", 0o755))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := h.Exec(ctx, "knarr", "kubectl", "get", "nodes")
	if err == nil || !strings.Contains(err.Error(), "/etc/knarr/knarr.yaml") {
		t.Errorf("without a server kubectl says %v; want the path of the kubeconfig that is missing", err)
	}
	if out, err := h.Exec(ctx, "sh", "-c", "ln -s /usr/local/bin/knarr /usr/local/bin/kubectl && /usr/local/bin/kubectl version --client"); err != nil || !strings.Contains(out, "v1.37.1") {
		t.Errorf("knarr called as kubectl says %q, %v", out, err)
	}
}
