package e2e

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
)

// joined is a cluster of two machines, with a third that does not get in.
type joined struct {
	*env
	server, agent, stranger *cluster.Server
	url                     string
}

// TestJoin is the life of an agent from the line that is pasted to the end of its machine.
func TestJoin(t *testing.T) {
	j := &joined{server: own(t, "lead", lab.Options{}), agent: own(t, "joiner", lab.Options{}), stranger: own(t, "stranger", lab.Options{})}
	j.env = begin(t, j.server)
	j.url = "https://" + j.server.Host.Addr().String() + ":6443"
	j.walk(
		step{"the line that is pasted", (*joined).pasted},
		step{"logs and exec without an open port", (*joined).closed},
		step{"services and volumes on two nodes", (*joined).spread},
		step{"who is refused", (*joined).refused},
		step{"the server dies and comes back", (*joined).bereft},
		step{"the agent starts without a server", (*joined).orphan},
		step{"the machine is set up anew", (*joined).reimaged},
	)
}

// step is a part of a scenario, which goes on from where the one before has ended.
type step struct {
	name string
	run  func(*joined)
}

// walk takes the steps up to the first that fails, each as a test of its own with a namespace of its own.
func (j *joined) walk(steps ...step) {
	j.t.Helper()
	for _, s := range steps {
		ok := j.t.Run(s.name, func(t *testing.T) {
			here := *j
			here.env = place(t, j.server, j.client)
			s.run(&here)
		})
		if !ok {
			return
		}
	}
}

// line is what join-command prints, without the program's name.
func (j *joined) line(args ...string) []string {
	j.t.Helper()
	out, err := j.server.Command(j.ctx, append([]string{"token", "join-command"}, args...)...)
	j.must(err)
	words := strings.Fields(out)
	if len(words) != 6 || words[0] != "knarr" || words[1] != "agent" {
		j.t.Fatalf("join-command prints %q", out)
	}
	return words[2:]
}

// start starts the agent and waits until its node is Ready.
func (j *joined) start(args []string) {
	j.t.Helper()
	j.agent.Role, j.agent.Args = "agent", args
	began := time.Now()
	j.must(j.agent.Start())
	j.nodeReady(began)
	j.t.Logf("node Ready %.1f s after the agent's start", time.Since(began).Seconds())
}

// nodeReady waits until the agent's node is Ready, as it has said itself since a time.
func (j *joined) nodeReady(since time.Time) {
	j.t.Helper()
	j.eventually("the agent's node to be Ready", func() error {
		n, err := j.client.CoreV1().Nodes().Get(j.ctx, j.agent.Host.Name(), metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("%w\n%s", err, j.agent.LogTail(5))
		}
		for _, c := range n.Status.Conditions {
			// Times in conditions are whole seconds.
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue && !c.LastHeartbeatTime.Time.Before(since.Truncate(time.Second)) {
				return nil
			}
		}
		return fmt.Errorf("conditions %v\n%s", n.Status.Conditions, j.agent.LogTail(5))
	})
}

// guest is a pod on the agent's node, with a shell and a web server.
func (j *joined) guest() *corev1.Pod {
	p := pod("guest", idle("shell"), web())
	p.Spec.NodeName = j.agent.Host.Name()
	return p
}

func (j *joined) pasted() {
	j.start(j.line())
	p := j.startPod(j.guest())
	j.eventually("the pod to answer across nodes", func() error {
		_, err := get(j.server.Host, "http://"+p.Status.PodIP+":8080/hostname")
		return err
	})
	out, err := j.agent.Command(j.ctx, "status")
	j.must(err)
	for _, want := range []string{"agent", j.server.Host.Addr().String() + ":6443 (tunnel, in use)", "load-balancer", "server-tunnels", "kubelet", "flannel"} {
		if !strings.Contains(out, want) {
			j.t.Errorf("knarr status on an agent does not show %s:\n%s", want, out)
		}
	}
}

// closed asks for what needs a connection from the server to the agent, which nobody can open.
func (j *joined) closed() {
	j.nft("add", "table", "inet", "closed")
	j.nft("add", "chain", "inet", "closed", "input", "{ type filter hook input priority -300; }")
	j.nft("add", "rule", "inet", "closed", "input", "iifname", "eth0", "ct", "state", "new", "drop")
	// What comes after needs the pod network, but never the kubelet's port.
	defer j.nft("add", "rule", "inet", "closed", "input", "iifname", "eth0", "tcp", "dport", "10250", "drop")
	defer j.nft("flush", "chain", "inet", "closed", "input")
	j.works()
	if out, err := j.runKubectl("logs", "guest", "-c", "http"); err != nil {
		j.t.Errorf("logs: %v %s", err, out)
	}
	if out := j.mustKubectl("get", "--raw", "/api/v1/nodes/"+j.agent.Host.Name()+"/proxy/healthz"); out != "ok" {
		j.t.Errorf("the kubelet's health through the API: %q", out)
	}
	if out := j.mustKubectl("get", "--raw", "/api/v1/namespaces/default/pods/guest:8080/proxy/hostname"); !strings.Contains(out, "guest") {
		j.t.Errorf("the pod through the API: %q", out)
	}
	const size = 8 << 20
	out, err := j.inPod("guest", fmt.Sprintf("head -c %d /dev/zero | md5sum", size))
	if want := "96995b58d4cbf6aaa9041b4f00c7f6ae"; err != nil || !strings.HasPrefix(out, want) {
		j.t.Errorf("md5sum of %d zeros in the pod: %q, %v", size, out, err)
	}
	j.eventually("the kubelet's figures", func() error {
		out, err := j.runKubectl("top", "node", j.agent.Host.Name())
		if err == nil && !strings.Contains(out, "Mi") {
			err = fmt.Errorf("no figures in %q", out)
		}
		return err
	})
	j.hooked()
}

// hooked has a webhook on the agent refuse an object.
func (j *joined) hooked() {
	j.mustKubectl("cordon", j.server.Host.Name())
	defer j.mustKubectl("uncordon", j.server.Host.Name())
	hook := j.webhook("/validate", j.serveTLS("webhook"))
	hooks := j.client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	_, err := hooks.Create(j.ctx, &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: hook.Name}, Webhooks: []admissionv1.ValidatingWebhook{hook}}, metav1.CreateOptions{})
	j.must(err)
	defer func() { j.must(hooks.Delete(j.ctx, hook.Name, metav1.DeleteOptions{})) }()
	n := 0
	j.eventually("the webhook's refusal", func() error {
		n++
		_, err := j.tryConfigMap(fmt.Sprintf("hooked-%d", n), map[string]string{"webhook.knarr.test/deny": "yes"})
		if err == nil || !strings.Contains(err.Error(), "is not allowed here") {
			return fmt.Errorf("got %v", err)
		}
		return nil
	})
}

// nft changes the agent's packet filter.
func (j *joined) nft(args ...string) {
	j.t.Helper()
	_, err := j.agent.Host.Exec(j.ctx, append([]string{"nft"}, args...)...)
	j.must(err)
}

// works is exec in the agent's pod.
func (j *joined) works() {
	j.t.Helper()
	j.eventually("exec through the tunnel", func() error {
		out, err := j.inPod("guest", "cat /proc/sys/kernel/hostname")
		if err == nil && out != "guest" {
			err = fmt.Errorf("the pod is called %q", out)
		}
		return err
	})
}

// refused is everybody who does not get in, and what each is told, in time.
func (j *joined) refused() {
	full := j.line()
	good := full[3]
	hash, password, _ := strings.Cut(good, "::node:")
	expired, err := j.server.Command(j.ctx, "token", "create", "--ttl", "1ms")
	j.must(err)
	foreign := "K10" + strings.Repeat("0", 64) + "::node:" + password
	nobody := "https://" + strings.TrimSuffix(j.server.Host.Addr().String(), j.lastOctet()) + "250:6443"
	for _, c := range []struct {
		name, url, token string
		more             []string
		want             []string
	}{
		{"wrong password", j.url, hash + "::node:nonsense", nil, []string{"the token is wrong"}},
		{"foreign cluster", j.url, foreign, nil, []string{"the token belongs to another cluster"}},
		{"expired token", j.url, strings.TrimSpace(expired), nil, []string{"expired", "knarr token create"}},
		{"unknown bootstrap token", j.url, "abcdef.0123456789abcdef", nil, []string{"not one of this cluster"}},
		{"nobody there", nobody, good, nil, []string{"cannot reach the server"}},
		{"other network", j.url, good, []string{"--cluster-cidr=10.99.0.0/16", "--cluster-domain=cluster.local"}, []string{`--cluster-cidr is "10.99.0.0/16" here and "10.42.0.0/16" in the cluster`}},
		{"name of another agent", j.url, good, []string{"--node-name", j.agent.Host.Name()}, []string{"there is a node \"joiner\" already", "knarr token allow-node joiner", "--node-name"}},
		{"name of the server", j.url, good, []string{"--node-name", j.server.Host.Name()}, []string{"there is a node \"lead\" already"}},
		{"a server whose clock is ahead", j.otherTime(time.Hour), "short", nil, []string{"the clocks of this machine and of the server differ", "NTP"}},
		{"a server whose clock is behind", j.otherTime(-time.Hour), "short", nil, []string{"the clocks of this machine and of the server differ", "NTP"}},
		{"address of another node", j.url, good, []string{"--node-ip", j.agent.Host.Addr().String()}, []string{"is that of node \"joiner\""}},
	} {
		began := time.Now()
		ctx, cancel := context.WithTimeout(j.ctx, time.Minute)
		_, err := j.stranger.Command(ctx, append([]string{"agent", "--server", c.url, "--token", c.token}, c.more...)...)
		cancel()
		took := time.Since(began)
		if exit, ok := asType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
			j.t.Errorf("%s: want exit code 1: %v", c.name, err)
			continue
		}
		last := lastLine(err.Error())
		for _, want := range c.want {
			if !strings.Contains(last, want) {
				j.t.Errorf("%s: want %q in the last line: %s", c.name, want, last)
			}
		}
		if took > 10*time.Second {
			j.t.Errorf("%s: told after %v", c.name, took)
		}
	}
	nodes, err := j.client.CoreV1().Nodes().List(j.ctx, metav1.ListOptions{})
	j.must(err)
	if len(nodes.Items) != 2 {
		j.t.Errorf("%d nodes, want 2", len(nodes.Items))
	}
}

// otherTime is the URL of what says who it is as a server does, at another time.
func (j *joined) otherTime(off time.Duration) (url string) {
	j.t.Helper()
	l, err := j.server.Host.Listen("tcp", j.server.Host.Addr().String()+":0")
	j.must(err)
	s := httptest.NewUnstartedServer(nil)
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(off).UTC().Format(http.TimeFormat))
		if err := pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}); err != nil {
			j.t.Error(err)
		}
	})
	j.must(s.Listener.Close())
	s.Listener = l
	s.StartTLS()
	j.t.Cleanup(s.Close)
	return s.URL
}

// lastLine is the last line of what a command says.
func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndex(text, "\n")+1:]
}

func (j *joined) lastOctet() string {
	a := j.server.Host.Addr().String()
	return a[strings.LastIndex(a, ".")+1:]
}

// containers are those of the agent's pod, as its runtime knows them.
func (j *joined) containers() string {
	j.t.Helper()
	var out string
	j.eventually("the agent's runtime", func() (err error) {
		out, err = j.agent.Command(j.ctx, "crictl", "ps", "-q")
		if err == nil && strings.TrimSpace(out) == "" {
			err = errors.New("no container runs")
		}
		return err
	})
	return out
}

// bereft kills the server.
func (j *joined) bereft() {
	before := j.containers()
	j.must(j.server.Process().Kill())
	j.must(j.server.Start())
	_, err := j.server.WaitAPI(j.ctx)
	j.must(err)
	began := time.Now()
	j.works()
	j.t.Logf("exec works %.1f s after the API is back", time.Since(began).Seconds())
	if after := j.containers(); after != before {
		j.t.Errorf("containers were %s and are %s", before, after)
	}
}

// orphan starts the agent again while there is no server.
func (j *joined) orphan() {
	before := j.containers()
	_, err := j.server.Stop(j.ctx)
	j.must(err)
	_, err = j.agent.Command(j.ctx, "stop")
	j.must(err)
	if code, err := j.agent.Process().Wait(j.ctx); err != nil || code != 0 {
		j.t.Errorf("the agent stopped with %d, %v", code, err)
	}
	began := time.Now()
	j.must(j.agent.Start())
	j.eventually("the kubelet without a server", func() error {
		out, _ := j.agent.Command(j.ctx, "status") // which is not ready as a whole
		for l := range strings.SplitSeq(out, "\n") {
			if f := strings.Fields(l); len(f) > 1 && f[0] == "kubelet" && f[1] == "ready" {
				return nil
			}
		}
		return fmt.Errorf("status:\n%s", out)
	})
	took := time.Since(began)
	j.t.Logf("the kubelet runs %.1f s after the start without a server", took.Seconds())
	if took >= 15*time.Second {
		j.t.Errorf("the kubelet waited for what only a server knows: it runs after %v", took)
	}
	j.stays("the pod without a server", func() error {
		if after := j.containers(); after != before {
			return fmt.Errorf("containers were %s and are %s", before, after)
		}
		return nil
	})
	j.must(j.server.Start())
	_, err = j.server.WaitAPI(j.ctx)
	j.must(err)
	j.works()
	j.nodeReady(began)
	if after := j.containers(); after != before {
		j.t.Errorf("containers were %s and are %s", before, after)
	}
}

// reimaged takes knarr off the agent's machine, with all that shows which machine it was, and joins again.
func (j *joined) reimaged() {
	_, err := j.agent.Command(j.ctx, "uninstall", "--yes", "--grace", "1s")
	j.must(err)
	if code, err := j.agent.Process().Wait(j.ctx); err != nil || code != 0 {
		j.t.Errorf("the agent stopped with %d, %v", code, err)
	}
	left, err := j.agent.Host.Exec(j.ctx, "sh", "-c", "ls -d /var/lib/knarr /etc/knarr /run/knarr 2>/dev/null; true")
	j.must(err)
	if left != "" {
		j.t.Errorf("uninstall leaves %s", left)
	}
	j.must(j.agent.Host.CopyIn(suite.binary, j.agent.Program, 0o755))
	for _, a := range suite.archives {
		j.must(j.agent.Host.CopyIn(a, filepath.Join(cluster.DataDir, "agent/images", filepath.Base(a)), 0o644))
	}
	line := j.line("--ttl", "10m")
	_, err = j.agent.Command(j.ctx, append([]string{"agent"}, line...)...)
	if err == nil || !strings.Contains(err.Error(), "knarr token allow-node joiner") {
		j.t.Errorf("a machine that lost its password: %v", err)
	}
	_, err = j.server.Command(j.ctx, "token", "allow-node", j.agent.Host.Name())
	j.must(err)
	j.install(line)
	j.mustKubectl("delete", "pod", "guest", "--ignore-not-found", "--grace-period=1")
	j.startPod(j.guest())
	j.works()
}

// install makes the agent a service with install.sh, told where to go by its environment alone.
func (j *joined) install(line []string) {
	j.t.Helper()
	h := j.agent.Host
	j.must(h.CopyIn(filepath.Join(suite.root, "install.sh"), "/opt/knarr/install.sh", 0o755))
	j.must(h.CopyIn(suite.binary, "/opt/knarr/knarr", 0o755))
	j.must(h.WriteFile(cluster.ConfigFile, []byte(j.agent.Config), 0o600))
	ctx, cancel := context.WithTimeout(j.ctx, patience)
	defer cancel()
	began := time.Now()
	out, err := h.Run(ctx, lab.Cmd{Args: []string{"/opt/knarr/install.sh"}, Env: []string{
		"INSTALL_KNARR_BIN=/opt/knarr/knarr", "KNARR_URL=" + line[1], "KNARR_TOKEN=" + line[3],
	}})
	if err != nil {
		j.t.Fatalf("install.sh: %v\n%s", err, out)
	}
	j.nodeReady(began)
	j.t.Logf("node Ready %.1f s after the start of install.sh", time.Since(began).Seconds())
}
