package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"k8s.io/client-go/kubernetes"

	nodecontroller "github.com/knarr-io/knarr/pkg/controllers/node"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/pki"
	"github.com/knarr-io/knarr/pkg/service"
	"github.com/knarr-io/knarr/pkg/shutdown"
)

// ExitDeleted is the exit code of an agent whose node was deleted: who started it shall not start it again.
const ExitDeleted = 3

// deleted is the end of an agent whose node was deleted from its cluster.
type deleted struct{ node string }

func (d *deleted) Error() string {
	return fmt.Sprintf("node %q was deleted from its cluster: its pods have ended and its certificates are removed. To have it join again, start it with a good token (`knarr token join-command` on a server prints the line); to clean this machine up, run `knarr uninstall`", d.node)
}

// ExitCode is [ExitDeleted].
func (*deleted) ExitCode() int { return ExitDeleted }

// membership has the process end when its node is deleted. A kubelet would run on, and complain for ever: it registers
// its node only when it starts.
func (m *member) membership(client kubernetes.Interface) lifecycle.Component {
	return lifecycle.Func("membership", func(ctx context.Context, ready func()) error {
		ready()
		if err := nodecontroller.Deleted(ctx, client, m.nodeName); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		m.deleted.Store(true)
		m.leave(&shutdown.Request{Reason: fmt.Sprintf("node %q was deleted from its cluster", m.nodeName)})
		<-ctx.Done()
		return nil
	})
}

// left completes the end of an agent: if its node was deleted, the machine is no member any more. The node's password
// stays: it shows that a machine which joins again is the same.
func (m *member) left(ctx context.Context) error {
	if !m.deleted.Load() {
		return nil
	}
	keys := m.certificates(m.cluster)
	files := []string{m.state().File}
	for _, leaf := range []pki.Leaf{pki.KubeletClient, pki.KubeletServing, pki.KubeProxyClient, pki.AgentControllerClient} {
		pair := keys.LeafPair(leaf)
		files = append(files, pair.Cert, pair.Key)
	}
	errs := []error{&deleted{m.nodeName}}
	for _, file := range files {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("forget the cluster: %w", err))
		}
	}
	return errors.Join(append(errs, service.Host{}.GiveUp(context.WithoutCancel(ctx)))...)
}
