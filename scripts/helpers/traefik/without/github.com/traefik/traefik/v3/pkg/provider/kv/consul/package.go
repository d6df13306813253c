package consul

import "github.com/knarr-io/knarr/scripts/helpers/traefik/leftout/provider"

const ProviderName = "consul"

type ProviderBuilder = provider.Builder
