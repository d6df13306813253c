package server

import (
	"log/slog"

	"k8s.io/client-go/kubernetes"

	"github.com/knarr-io/knarr/pkg/upstream/apiserver"
	"github.com/knarr-io/knarr/pkg/upstream/metrics"
)

// apis are the API groups that knarr adds to kube-apiserver.
func (p Plan) apis(client func() (kubernetes.Interface, error), log *slog.Logger) []apiserver.Extension {
	if !p.Components.Packaged("metrics-server") {
		return nil
	}
	return []apiserver.Extension{metrics.New(metrics.Config{Client: client, Logger: log})}
}
