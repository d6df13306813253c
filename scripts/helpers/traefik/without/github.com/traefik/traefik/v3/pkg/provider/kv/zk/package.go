package zk

import "github.com/knarr-io/knarr/scripts/helpers/traefik/leftout/provider"

const ProviderName = "zookeeper"

type Provider = provider.Provider
