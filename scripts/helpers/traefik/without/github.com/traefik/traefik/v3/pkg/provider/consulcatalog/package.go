package consulcatalog

import "github.com/knarr-io/knarr/scripts/helpers/traefik/leftout/provider"

const ProviderName = "consulcatalog"

type ProviderBuilder = provider.Builder
