package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
)

const (
	// patience is how long one condition may take on a busy machine.
	patience = 3 * time.Minute
	// steady is how long something must not happen for it not to happen.
	steady = 3 * time.Second
)

// env is one test's place on the shared cluster: a namespace of its own.
type env struct {
	*shared
	t   *testing.T
	ns  string
	ctx context.Context
}

// inNamespace gives the test its place on the shared cluster and lets it run
// beside others.
func inNamespace(t *testing.T) *env {
	t.Helper()
	t.Parallel()
	return alone(t)
}

// alone is inNamespace for a test that changes the node: it runs by itself.
func alone(t *testing.T) *env {
	t.Helper()
	s, err := suite.shared()
	if err != nil {
		t.Fatalf("start the shared cluster: %v", err)
	}
	e := &env{shared: s, t: t, ctx: t.Context()}
	ns, err := s.client.CoreV1().Namespaces().Create(e.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")) + "-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("create namespace: %v", err)
	}
	e.ns = ns.Name
	t.Cleanup(e.leave)
	// Pods are refused until the namespace's service account is there.
	e.eventually("the default service account", func() error {
		_, err := e.client.CoreV1().ServiceAccounts(e.ns).Get(e.ctx, "default", metav1.GetOptions{})
		return err
	})
	return e
}

// leave tells what happened, if the test failed, and deletes the namespace.
func (e *env) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if e.t.Failed() {
		for _, args := range [][]string{{"get", "all", "-o", "wide"}, {"describe", "pods"}, {"get", "events", "--sort-by=.lastTimestamp"}} {
			const shown = 12 << 10 // characters
			out, err := e.host.Exec(ctx, append(append([]string{}, e.kubectl...), append([]string{"-n", e.ns}, args...)...)...)
			e.t.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out[max(0, len(out)-shown):])
		}
		e.t.Logf("end of the server's log:\n%s", e.log())
	}
	zero := int64(0)
	if err := e.client.CoreV1().Namespaces().Delete(ctx, e.ns, metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil && !apierrors.IsNotFound(err) {
		e.t.Errorf("delete namespace: %v", err)
	}
}

// must fails the test on an error.
func (e *env) must(err error) {
	e.t.Helper()
	must(e.t, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until try returns nil, and fails the test when it does not.
func (e *env) eventually(what string, try func() error) {
	e.t.Helper()
	eventually(e.t, what, try)
}

func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := lab.Poll(ctx, cluster.PollEvery, try); err != nil {
		t.Fatalf("wait for %s: %v", what, err)
	}
}

// stays fails the test when check fails at any time while it watches.
func (e *env) stays(what string, check func() error) {
	e.t.Helper()
	over := time.After(steady)
	tick := time.NewTicker(cluster.PollEvery)
	defer tick.Stop()
	for {
		if err := check(); err != nil {
			e.t.Fatalf("%s did not stay so: %v", what, err)
		}
		select {
		case <-over:
			return
		case <-tick.C:
		}
	}
}

// kubectl runs the bundled kubectl on the host, in the test's namespace.
func (e *env) runKubectl(args ...string) (string, error) {
	return e.kubectlWith(nil, args...)
}

func (e *env) kubectlWith(stdin io.Reader, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(e.ctx, patience)
	defer cancel()
	all := append(append([]string{}, e.kubectl...), "-n", e.ns)
	return e.host.Run(ctx, lab.Cmd{Args: append(all, args...), Stdin: stdin})
}

// mustKubectl is runKubectl for what must work.
func (e *env) mustKubectl(args ...string) string {
	e.t.Helper()
	out, err := e.runKubectl(args...)
	e.must(err)
	return out
}

// apply creates or changes the objects of a manifest.
func (e *env) apply(manifest string) {
	e.t.Helper()
	_, err := e.kubectlWith(strings.NewReader(manifest), "apply", "-f", "-")
	e.must(err)
}

// inPod runs a shell command in the first container of a pod.
func (e *env) inPod(pod, script string) (string, error) {
	out, err := e.runKubectl("exec", pod, "--", "sh", "-c", script)
	return strings.TrimSpace(out), err
}

// get asks for a URL from inside a host and returns the body of a 200.
func get(h *lab.Host, url string) (string, error) {
	c := h.HTTPClient(5 * time.Second)
	defer c.CloseIdleConnections()
	r, err := c.Get(url)
	return body(r, err)
}

// post sends an empty POST.
func post(h *lab.Host, url string) error {
	c := h.HTTPClient(5 * time.Second)
	defer c.CloseIdleConnections()
	_, err := body(c.Post(url, "", nil))
	return err
}

func body(r *http.Response, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return "", err
	}
	if r.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", r.Status, bytes.TrimSpace(b))
	}
	return string(b), nil
}

// exitCode is the code of a command that ended by itself with an error, or -1.
func exitCode(err error) int {
	if exit, ok := asType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	return -1
}
