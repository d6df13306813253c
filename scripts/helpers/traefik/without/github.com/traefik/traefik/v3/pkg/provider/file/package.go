package file

import "github.com/knarr-io/knarr/scripts/helpers/traefik/leftout/provider"

const ProviderName = "file"

type Provider struct{ provider.Provider }
