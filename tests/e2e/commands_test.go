package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/knarr-io/knarr/tests/lab"
)

// TestCommandsOnARunningServer tries each command's most common use, in the way
// that a user types it.
func TestCommandsOnARunningServer(t *testing.T) {
	s := own(t, "commands", lab.Options{})
	e := begin(t, s)
	e.startPod(pod("web", web()))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	run := func(script string) (string, error) {
		return s.Host.Exec(ctx, "sh", "-c", script)
	}
	for _, c := range []struct {
		script string
		want   []string // each is somewhere in the output
	}{
		{"knarr --version", []string{"knarr version v1.37.1+knarr1"}},
		{"knarr kubectl get nodes -o wide", []string{"commands", "Ready", "v1.37.1"}},
		{"knarr kubectl version", []string{"Server Version: v1.37.1"}},
		{"knarr crictl ps", []string{"http", "Running"}},
		{"knarr crictl pods --name web", []string{"web", "Ready", "default"}},
		{"knarr crictl images", []string{"knarr.test/server", "knarr.test/busybox"}},
		{"knarr crictl inspect $(knarr crictl ps -q --name http)", []string{`"info"`, `"pid"`}},
		{"knarr crictl logs $(knarr crictl ps -q --name http)", nil},
		{"knarr crictl exec $(knarr crictl ps -q --name http) /testserver 2>&1 || true", []string{"usage: testserver"}},
		{"knarr crictl stats", []string{"CPU"}},
		{"knarr crictl info", []string{"RuntimeReady", "NetworkReady"}},
		{"knarr crictl rmi knarr.test/busybox:1 && knarr crictl images", []string{"knarr.test/server"}},
		{"knarr ctr -n k8s.io images list -q", []string{"knarr.test/server:1"}},
		{"knarr ctr version", []string{"2.4.2"}},
		{"knarr status", []string{"commands", "ready after", "COMPONENT"}},
		{"knarr completion bash", []string{"complete"}},
		{"knarr help", []string{"server", "kubectl", "uninstall"}},
		{"for n in kubectl crictl ctr; do ln -sf /usr/local/bin/knarr /tmp/$n; done; /tmp/kubectl get pods && /tmp/crictl ps && /tmp/ctr version", []string{"web", "http"}},
	} {
		out, err := run(c.script)
		if err != nil {
			t.Errorf("%s: %v", c.script, err)
		}
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s does not say %q but\n%s", c.script, want, out)
			}
		}
	}
}

// TestPullWithoutRegistry reads what a user is told who has no network.
func TestPullWithoutRegistry(t *testing.T) {
	e := inNamespace(t)
	_, err := e.host.Exec(e.ctx, "knarr", "crictl", "pull", "knarr.test/nobody-has-this:1")
	if exitCode(err) != 1 || !strings.Contains(err.Error(), "knarr.test") {
		t.Errorf("pull without a registry ends with %v; want exit code 1 and the name of the registry", err)
	}
}

func TestStatus(t *testing.T) {
	s := own(t, "state", lab.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, err := s.Command(ctx, "status"); exitCode(err) != 1 || !strings.Contains(err.Error(), "knarr server") {
		t.Errorf("without a server status says %v; want exit code 1 and how to start one", err)
	}
	begin(t, s)
	var status struct {
		PID        int
		NodeName   string `json:"nodeName"`
		Components []struct{ Name, State string }
	}
	var names []string
	eventually(t, "all components to be ready, also those that the rest does not wait for", func() error {
		out, err := s.Command(ctx, "status", "-o", "json")
		if err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(out), &status); err != nil {
			return fmt.Errorf("%w in\n%s", err, out)
		}
		names = nil
		for _, c := range status.Components {
			names = append(names, c.Name)
			if !strings.EqualFold(c.State, "ready") {
				return fmt.Errorf("%s is %s", c.Name, c.State)
			}
		}
		return nil
	})
	for _, want := range []string{"apiserver", "scheduler", "controller-manager", "kubelet", "containerd", "proxy"} {
		if !strings.Contains(strings.Join(names, " "), want) {
			t.Errorf("status knows no %s, only %v", want, names)
		}
	}
	if status.PID == 0 || status.NodeName != "state" {
		t.Errorf("pid %d, node %q", status.PID, status.NodeName)
	}
}
