package nomad

import "github.com/knarr-io/knarr/scripts/helpers/traefik/leftout/provider"

const ProviderName = "nomad"

type ProviderBuilder = provider.Builder
