package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
	"github.com/knarr-io/knarr/tests/lab/labinit/spec"
)

// pair is a cluster of two nodes, as a user would have it, and beside it, on
// the server's host, a registry for what is always pulled.
type pair struct {
	built, archive, binary string
	server, agent          *cluster.Server
}

// mirror is where the hosts see the directory of what was built.
const mirror = "/opt/conformance"

const registryPort = "5000"

// registryConfig is the registry's own (distribution's configuration.md).
const registryConfig = `version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: /var/lib/registry}}
http: {addr: ":` + registryPort + `"}
`

func (p *pair) start(ctx context.Context, l *lab.Lab) error {
	var err error
	for _, h := range []struct {
		name string
		to   **cluster.Server
	}{{"server", &p.server}, {"agent", &p.agent}} {
		host, err := l.AddHost(ctx, h.name, lab.Options{Binds: []spec.Bind{{Source: p.built, Target: mirror}}})
		if err != nil {
			return err
		}
		if *h.to, err = cluster.New(host, false, p.binary, []string{p.archive}); err != nil {
			return err
		}
		mirrors := fmt.Sprintf("mirrors:\n  registry.k8s.io:\n    endpoint: [\"http://%s:%s\"]\n", p.server.Host.Addr(), registryPort)
		if err := host.WriteFile("/etc/knarr/registries.yaml", []byte(mirrors), 0o600); err != nil {
			return err
		}
	}
	// The suite runs kubectl; knarr is one under that name.
	if _, err := p.server.Host.Exec(ctx, "ln", "-sf", cluster.Program, "/usr/local/bin/kubectl"); err != nil {
		return err
	}
	if err := p.server.Start(); err != nil {
		return err
	}
	client, err := p.server.WaitNode(ctx)
	if err != nil {
		return err
	}
	line, err := p.server.Command(ctx, "token", "join-command")
	if err != nil {
		return err
	}
	p.agent.Role, p.agent.Args = "agent", strings.Fields(line)[2:]
	if err := p.agent.Start(); err != nil {
		return err
	}
	if err := p.fillRegistry(ctx); err != nil {
		return fmt.Errorf("fill the registry: %w", err)
	}
	return p.bothReady(ctx, client)
}

func (p *pair) bothReady(ctx context.Context, client *cluster.Client) error {
	ctx, cancel := context.WithTimeout(ctx, cluster.StartLimit)
	defer cancel()
	err := lab.Poll(ctx, 500*time.Millisecond, func() error {
		nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		ready := 0
		for _, n := range nodes.Items {
			for _, c := range n.Status.Conditions {
				if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue && len(n.Spec.Taints) == 0 {
					ready++
				}
			}
		}
		if ready < 2 {
			return fmt.Errorf("%d of 2 nodes are Ready\n%s", ready, p.agent.LogTail(20))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("wait for both nodes: %w", err)
	}
	return nil
}

// fillRegistry starts the registry and pushes to it from the server's node.
func (p *pair) fillRegistry(ctx context.Context) error {
	const config = "/etc/conformance-registry.yaml"
	if err := p.server.Host.WriteFile(config, []byte(registryConfig), 0o644); err != nil {
		return err
	}
	if _, err := p.server.Host.Start(lab.Cmd{Args: []string{mirror + "/registry", config}, Env: []string{"OTEL_TRACES_EXPORTER=none"}}); err != nil {
		return err
	}
	address := p.server.Host.Addr().String() + ":" + registryPort
	err := lab.Poll(ctx, cluster.PollEvery, func() error {
		c, err := p.server.Host.DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		return err
	}
	for _, ref := range alwaysPulled {
		to := address + "/" + strings.TrimPrefix(ref, registry)
		if _, err := p.server.Command(ctx, "ctr", "-n", "k8s.io", "images", "push", "--plain-http", "--local", to, ref); err != nil {
			return err
		}
	}
	return nil
}

// version is knarr's, with its commit.
func (p *pair) version() (string, error) {
	client, err := p.server.Client()
	if err != nil {
		return "", err
	}
	v, err := client.Discovery().ServerVersion()
	if err != nil {
		return "", fmt.Errorf("ask for the server's version: %w", err)
	}
	version := fmt.Sprintf("%s %.7s", v.GitVersion, v.GitCommit)
	if v.GitTreeState == "dirty" {
		version += "-dirty"
	}
	return version, nil
}

// suite runs tests to their end. Ginkgo runs those that bear it side by side,
// and then the serial ones by themselves.
func (p *pair) suite(ctx context.Context, procs int, pending []string, log io.Writer, found func(outcome) error) error {
	var focus []string
	for _, n := range pending {
		focus = append(focus, regexp.QuoteMeta(n))
	}
	// When the time is over, Ginkgo's children would live on and hold its output.
	defer context.AfterFunc(ctx, p.stopHost)()
	out, in := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := p.server.Host.Run(ctx, lab.Cmd{Stdout: in, Stderr: in, Args: []string{
			mirror + "/ginkgo", "run", "--no-color", "-v", fmt.Sprintf("--procs=%d", procs), "--timeout=24h",
			"--focus=(" + strings.Join(focus, "|") + ")", mirror + "/e2e.test", "--",
			"--kubeconfig=" + cluster.Kubeconfig, "--kubectl-path=/usr/local/bin/kubectl", "--provider=local",
			"--num-nodes=2", "--disable-log-dump", "--dump-logs-on-failure"}})
		in.Close()
		done <- err
	}()
	err := readReport(io.TeeReader(out, log), pending, found)
	// Whoever writes must not wait for a reader that is gone.
	out.CloseWithError(err)
	suiteErr := <-done
	if ctx.Err() != nil {
		return errors.Join(err, fmt.Errorf("stop before the end: %w", context.Cause(ctx)))
	}
	// That tests have failed is not an error of the run.
	var exit *exec.ExitError
	if err == nil && !errors.As(suiteErr, &exit) {
		return suiteErr
	}
	return err
}

// stopHost ends all that runs on the server's host.
func (p *pair) stopHost() {
	if err := p.server.Host.Crash(); err != nil {
		fmt.Fprintln(os.Stderr, "conformance: stop the server's host:", err)
	}
}

// keepLogs writes what both nodes have logged beside the results.
func (p *pair) keepLogs(dir string, err error) error {
	for _, s := range []*cluster.Server{p.server, p.agent} {
		if s == nil { // it was not started
			continue
		}
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, s.Host.Name()+".log"), []byte(s.Log()), 0o644))
	}
	return err
}
