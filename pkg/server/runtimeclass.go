package server

import (
	"log/slog"

	"github.com/knarr-io/knarr/pkg/agent"
	"github.com/knarr-io/knarr/pkg/controllers/node"
	"github.com/knarr-io/knarr/pkg/controllers/runtimeclass"
	"github.com/knarr-io/knarr/pkg/lifecycle"
	"github.com/knarr-io/knarr/pkg/upstream/host"
)

// runtimeClasses offers the container runtimes that nodes have or, when it is disabled, takes back what it offered.
func (p Plan) runtimeClasses(s agent.Shared, log *slog.Logger) lifecycle.Component {
	c := runtimeclass.Config{Label: node.LabelRuntime}
	if p.Components.Packaged("runtimes") {
		c.Handlers = host.RuntimeHandlers()
	}
	return runtimeclass.New(c, s.Client, s.Informers, log)
}
