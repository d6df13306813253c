package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/tests/cluster"
	"github.com/knarr-io/knarr/tests/lab"
)

// TestRoles is a cluster of three machines: one has the etcd alone, one the control plane alone, one runs pods.
func TestRoles(t *testing.T) {
	store, control := own(t, "store", lab.Options{}), own(t, "control", lab.Options{})
	j := &joined{server: control, agent: own(t, "worker", lab.Options{})}
	store.Args, store.Config = []string{"--cluster-init", "--disable-apiserver", "--disable-controller-manager", "--disable-scheduler"}, ""
	must(t, store.Start())
	ready := func(s *cluster.Server) func() error {
		return func() error { _, err := s.Command(t.Context(), "status"); return err }
	}
	eventually(t, "the etcd to be ready", ready(store))
	token, err := store.Host.ReadFile(cluster.DataDir + "/server/token")
	must(t, err)
	control.Args = []string{"--server", "https://" + store.Host.Addr().String() + ":6443", "--token", strings.TrimSpace(string(token)), "--disable-etcd", "--disable-agent"}
	control.Config = ""
	must(t, control.Start())
	client, err := control.WaitAPI(t.Context())
	must(t, err)
	j.env = place(t, control, client)
	j.start(j.line())
	j.startPod(j.guest())
	j.works()

	nodes, err := j.client.CoreV1().Nodes().List(j.ctx, metav1.ListOptions{})
	j.must(err)
	if len(nodes.Items) != 1 || nodes.Items[0].Name != "worker" {
		t.Errorf("the nodes are %v, want the worker alone", nodes.Items)
	}
	for _, has := range []struct {
		server        *cluster.Server
		with, without string
	}{
		{store, "datastore supervisor", "kube-apiserver kube-scheduler kubelet containerd"},
		{control, "kube-apiserver leader-election", "kubelet containerd kube-proxy"},
	} {
		out, err := has.server.Command(j.ctx, "status")
		j.must(err)
		for _, want := range strings.Fields(has.with) {
			if !strings.Contains(out, want) {
				t.Errorf("%s has no %s:\n%s", has.server.Host.Name(), want, out)
			}
		}
		for _, no := range strings.Fields(has.without) {
			if strings.Contains(out, "\n"+no+" ") {
				t.Errorf("%s has a %s:\n%s", has.server.Host.Name(), no, out)
			}
		}
	}
	j.retired(store, strings.TrimSpace(string(token)))
	// Agents join where there is an API.
	line := j.line()
	_, err = control.Command(j.ctx, "agent", "--server", "https://"+store.Host.Addr().String()+":6443", "--token", line[3], "--data-dir", "/var/lib/other")
	if err == nil {
		t.Error("an agent joined at a server without an API")
	}

	// What was written is there after both have been killed, the etcd coming back last.
	j.mustKubectl("create", "configmap", "kept", "--from-literal=a=b")
	must(t, store.Process().Kill())
	must(t, control.Process().Kill())
	must(t, control.Start())
	must(t, store.Start())
	j.client, err = control.WaitAPI(t.Context())
	must(t, err)
	if out := j.mustKubectl("get", "configmap", "kept", "-o", "jsonpath={.data.a}"); out != "b" {
		t.Errorf("what was written is %q", out)
	}
	j.works()
	j.eventually("a leader", func() error {
		out, err := control.Command(j.ctx, "status")
		if err == nil && !strings.Contains(out, "kube-scheduler") {
			err = errors.New(out)
		}
		if err != nil {
			return fmt.Errorf("no scheduler runs: %w", err)
		}
		return nil
	})
}

// retired takes a second server that has the etcd alone, and hence no Node to delete, out of the etcd for good.
func (j *joined) retired(store *cluster.Server, token string) {
	j.t.Helper()
	second := lean(j.t, "vault")
	second.Args, second.Config = []string{"--server", "https://" + store.Host.Addr().String() + ":6443", "--token", token, "--disable-apiserver"}, ""
	j.must(second.Start())
	members := func(n int) func() error {
		return func() error {
			st := (&servers{env: j.env}).status(j.server)
			if len(st.Datastore.Members) != n {
				return fmt.Errorf("members %v", st.Datastore.Members)
			}
			return nil
		}
	}
	j.eventually("the control plane to know of two members", members(2))
	j.eventually("the second to be ready", func() error { _, err := second.Command(j.ctx, "status"); return err })
	if _, err := j.server.Command(j.ctx, "datastore", "remove-member", "nobody"); err == nil || !strings.Contains(err.Error(), "there are store, vault") {
		j.t.Errorf("removing a server that is none: %v", err)
	}
	out, err := j.server.Command(j.ctx, "datastore", "remove-member", "vault")
	if err != nil || !strings.HasPrefix(out, "vault-") {
		j.t.Errorf("removing the second: %q, %v", out, err)
	}
	ctx, cancel := context.WithTimeout(j.ctx, patience)
	defer cancel()
	if code, err := second.Process().Wait(ctx); err != nil || code != 3 || !strings.Contains(second.LogTail(1), "removed from its etcd cluster") {
		j.t.Errorf("the one that was removed ended with %d, %v; want 3\n%s", code, err, second.LogTail(5))
	}
	j.eventually("one member to be left", members(1))
	j.works()
}
