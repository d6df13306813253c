package traefik

import (
	"github.com/knarr-io/knarr/scripts/helpers/traefik/leftout"
	"github.com/traefik/traefik/v3/pkg/config/static"
	"github.com/traefik/traefik/v3/pkg/plugins"
)

func createPluginBuilder(c *static.Configuration) (*plugins.Builder, error) {
	if c.Experimental != nil && len(c.Experimental.Plugins)+len(c.Experimental.LocalPlugins) > 0 {
		return nil, leftout.ErrLeftOut
	}
	return &plugins.Builder{}, nil
}
