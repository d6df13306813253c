package tailscale

import (
	"github.com/knarr-io/knarr/scripts/helpers/traefik/leftout/provider"
	"github.com/traefik/traefik/v3/pkg/config/dynamic"
)

type Provider struct {
	provider.Provider
	ResolverName string
}

func (*Provider) HandleConfigUpdate(dynamic.Configuration) {}
