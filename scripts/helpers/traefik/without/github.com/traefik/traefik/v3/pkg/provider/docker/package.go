package docker

import "github.com/knarr-io/knarr/scripts/helpers/traefik/leftout/provider"

const (
	DockerName = "docker"
	SwarmName  = "swarm"
)

type (
	Provider      = provider.Provider
	SwarmProvider = provider.Provider
)
