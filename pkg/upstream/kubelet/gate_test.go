package kubelet

import (
	"errors"
	"path/filepath"
	"testing"

	"k8s.io/kubernetes/pkg/kubelet/container"
)

func TestGate(t *testing.T) {
	g := &gate{OSInterface: container.RealOS{}}
	dir := filepath.Join(t.TempDir(), "logs")
	if err := g.MkdirAll(dir, 0o755); err != nil {
		t.Errorf("while it is open: %v", err)
	}
	g.closed.Store(true)
	if err := g.MkdirAll(filepath.Join(dir, "another"), 0o755); !errors.Is(err, errStopping) {
		t.Errorf("closed: %v", err)
	}
	if _, err := g.Stat(filepath.Join(dir, "another")); err == nil {
		t.Error("the directory was made")
	}
}
