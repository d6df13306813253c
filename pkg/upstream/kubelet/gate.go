package kubelet

import (
	"errors"
	"os"
	"sync/atomic"

	"k8s.io/kubernetes/pkg/kubelet/container"
)

// gate is how the kubelet makes directories. Closed, it lets no container start: each sandbox and each container begins
// with the directory of its logs (kuberuntime/kuberuntime_sandbox.go:52, kuberuntime_container.go:361).
//
// It is there because upstream's Run returns while its pod workers live on, and on purpose without its context
// (pod_workers.go:1167): what is ended after the kubelet would be started anew by them.
type gate struct {
	container.OSInterface
	closed atomic.Bool
}

var errStopping = errors.New("knarr is stopping on this node: nothing is started any more")

// MkdirAll is os.MkdirAll, until the gate is closed.
func (g *gate) MkdirAll(path string, perm os.FileMode) error {
	if g.closed.Load() {
		return errStopping
	}
	return g.OSInterface.MkdirAll(path, perm)
}
