package redis

import "github.com/knarr-io/knarr/scripts/helpers/traefik/leftout/provider"

const ProviderName = "redis"

type Provider = provider.Provider
