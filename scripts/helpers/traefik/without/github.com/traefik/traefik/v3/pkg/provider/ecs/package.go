package ecs

import "github.com/knarr-io/knarr/scripts/helpers/traefik/leftout/provider"

const ProviderName = "ecs"

type Provider = provider.Provider
