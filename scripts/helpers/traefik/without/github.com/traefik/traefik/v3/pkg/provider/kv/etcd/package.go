package etcd

import "github.com/knarr-io/knarr/scripts/helpers/traefik/leftout/provider"

const ProviderName = "etcd"

type Provider = provider.Provider
