package knative

import "github.com/knarr-io/knarr/scripts/helpers/traefik/leftout/provider"

const ProviderName = "knative"

type Provider = provider.Provider
