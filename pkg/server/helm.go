package server

import (
	"log/slog"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"

	"github.com/knarr-io/knarr/pkg/agent"
	"github.com/knarr-io/knarr/pkg/controllers/helm"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/registry"
	"github.com/knarr-io/knarr/pkg/upstream/apiserver"
)

// helm is the Helm controller. It may do everything, since a chart may contain anything.
func (p Plan) helm(kube *apiserver.Component, s agent.Shared, log *slog.Logger) lifecycle.Component {
	access := func() *rest.Config { return kube.ClientConfig("system:knarr-controller", user.SystemPrivilegedGroup) }
	return helm.New(helm.Config{
		Static:     p.Dir.Static(),
		Registries: func() (registry.Settings, error) { return registry.Load(p.Runtime.PrivateRegistry) },
		NoDefault:  !p.Runtime.DefaultRegistryEndpoint,
	}, access, s.Client, log)
}
