package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/knarr-io/knarr/pkg/pki"
)

// certificates makes those of a server in the command's data directory.
func (c *command) certificates(t *testing.T) pki.Config {
	t.Helper()
	keys := pki.Config{
		DataDir: filepath.Join(c.root, "var/lib/knarr"), Agent: true, NodeName: "one", ClusterDomain: "cluster.local",
		ServerURL: "https://127.0.0.1:6443", Admin: pki.AdminKubeconfig{Path: filepath.Join(c.root, "etc/knarr/knarr.yaml")},
	}
	if _, err := pki.Ensure(time.Now(), keys); err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestCertificateCheck(t *testing.T) {
	c := newCommand(t)
	keys := c.certificates(t)
	if code := c.run(t, certificateCommand, "check"); code != 0 || !strings.Contains(c.stdout.String(), "kubelet") {
		t.Errorf("exit code %d, %s%s", code, c.stdout.String(), c.stderr.String())
	}
	if err := os.WriteFile(keys.LeafPair(pki.APIServerServing).Cert, []byte("torn"), 0o644); err != nil {
		t.Fatal(err)
	}
	code := c.run(t, certificateCommand, "check", "-o", "json")
	var rows []pki.Row
	if err := json.Unmarshal(c.stdout.Bytes(), &rows); err != nil {
		t.Fatal(err)
	}
	bad := ""
	for _, r := range rows {
		if r.Status != pki.StatusOK {
			bad += r.Path + " " + string(r.Status)
		}
	}
	if want := keys.LeafPair(pki.APIServerServing).Cert + " DAMAGED"; code != exitFailed || bad != want {
		t.Errorf("exit code %d, what is not well: %q, want %q", code, bad, want)
	}
	// An agent has no authorities, and one certificate more.
	own, more := keys.LeafPair(pki.KubeletClient), keys.LeafPair(pki.AgentControllerClient)
	if err := errors.Join(os.RemoveAll(keys.DataDir+"/server"), os.Link(own.Cert, more.Cert), os.Link(own.Key, more.Key)); err != nil {
		t.Fatal(err)
	}
	if code := c.run(t, certificateCommand, "check"); code != 0 || strings.Contains(c.stdout.String(), "serving-kube-apiserver") {
		t.Errorf("of an agent: exit code %d, %s%s", code, c.stdout.String(), c.stderr.String())
	}
	if code := c.run(t, certificateCommand, "rotate"); code != exitFailed || !strings.Contains(c.stderr.String(), "agent") {
		t.Errorf("rotate on an agent: exit code %d, %s", code, c.stderr.String())
	}
}

func TestCertificateRotate(t *testing.T) {
	c := newCommand(t)
	if code := c.run(t, certificateCommand, "rotate"); code != exitFailed || !strings.Contains(c.stderr.String(), "no server") {
		t.Errorf("without a server: exit code %d, %s", code, c.stderr.String())
	}
	keys := c.certificates(t)
	read := func(leaf pki.Leaf) []byte {
		key, err := os.ReadFile(keys.LeafPair(leaf).Key)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	serving, auth := read(pki.APIServerServing), read(pki.AuthProxyClient)
	if code := c.run(t, certificateCommand, "rotate", "--service", "auth-proxy"); code != 0 {
		t.Fatalf("exit code %d, %s", code, c.stderr.String())
	}
	if bytes.Equal(read(pki.AuthProxyClient), auth) || !bytes.Equal(read(pki.APIServerServing), serving) {
		t.Error("other keys are new than those that were asked for")
	}
	if code := c.run(t, certificateCommand, "rotate"); code != 0 || bytes.Equal(read(pki.APIServerServing), serving) {
		t.Errorf("without a choice: exit code %d, %s", code, c.stderr.String())
	}
	if code := c.run(t, certificateCommand, "check"); code != 0 {
		t.Errorf("afterwards: exit code %d, %s%s", code, c.stdout.String(), c.stderr.String())
	}
	if code := c.run(t, certificateCommand, "rotate", "--service", "nobody"); code != exitFailed || !strings.Contains(c.stderr.String(), "unknown service") {
		t.Errorf("an unknown service: exit code %d, %s", code, c.stderr.String())
	}
}
