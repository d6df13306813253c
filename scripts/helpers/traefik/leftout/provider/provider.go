// Package provider stands in Traefik for the sources of configuration that mean
// nothing inside a cluster, each of which would bring the client library of
// some other product along. Configuring one is refused, not ignored.
package provider

import (
	"github.com/knarr-io/knarr/scripts/helpers/traefik/leftout"
	ptypes "github.com/traefik/paerser/types"
	"github.com/traefik/traefik/v3/pkg/config/dynamic"
	"github.com/traefik/traefik/v3/pkg/safe"
)

// Provider refuses to start. Its fields are those that Traefik itself reads.
type Provider struct {
	HTTPClientTimeout ptypes.Duration
	RefreshSeconds    ptypes.Duration
}

// Init returns ErrLeftOut.
func (*Provider) Init() error { return leftout.ErrLeftOut }

// Provide returns ErrLeftOut.
func (*Provider) Provide(chan<- dynamic.Message, *safe.Pool) error { return leftout.ErrLeftOut }

// Builder builds a single Provider.
type Builder struct{}

// BuildProviders returns the provider that refuses to start.
func (*Builder) BuildProviders() []*Provider { return []*Provider{{}} }
