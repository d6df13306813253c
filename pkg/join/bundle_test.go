package join

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/knarr-io/knarr/pkg/pki"
)

// TestBundle has machines ask for what makes them servers.
func TestBundle(t *testing.T) {
	r := newRig(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "taken"}})
	r.server.config.Bundle = func(context.Context) (Bundle, error) {
		files, err := ReadFiles(r.keys.DataDir, pki.SharedFiles())
		return Bundle{Files: files, AgentToken: "for-agents", Datastore: "etcd-embedded", Etcd: []string{"https://192.0.2.1:2379"}}, err
	}
	ask := func(text, node string) (Bundle, error) {
		c := r.client(t, text, node)
		if _, err := c.Discover(t.Context()); err != nil {
			return Bundle{}, err
		}
		return c.Bundle(t.Context())
	}
	for name, c := range map[string]struct{ token, node, want string }{
		"an agents' token":     {r.tokens.Agent.Reveal(), "two", "this token joins agents only"},
		"a wrong token":        {"nonsense", "two", "the token is wrong"},
		"a name that is taken": {r.tokens.Server.Reveal(), "taken", `there is a node "taken" already`},
	} {
		if b, err := ask(c.token, c.node); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.want) || len(b.Files) > 0 {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	b, err := ask(r.tokens.Server.Reveal(), "two")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(b.Etcd, []string{"https://192.0.2.1:2379"}) || b.AgentToken != "for-agents" {
		t.Errorf("the bundle is %+v", b)
	}
	dir := t.TempDir()
	b.Files["../outside"] = []byte("x") // what was not asked for
	if err := WriteFiles(dir, pki.SharedFiles(), b.Files); err != nil {
		t.Fatal(err)
	}
	for _, name := range pki.SharedFiles() {
		have, err := os.ReadFile(filepath.Join(dir, name))
		want, err2 := os.ReadFile(filepath.Join(r.keys.DataDir, name))
		if err := errors.Join(err, err2); err != nil || string(have) != string(want) {
			t.Errorf("%s differs (%v)", name, err)
		}
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != fileMode {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "../outside")); err == nil {
		t.Error("a server writes where it likes")
	}
}
