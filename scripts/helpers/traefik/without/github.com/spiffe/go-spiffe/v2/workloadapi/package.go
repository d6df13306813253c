package workloadapi

import (
	"context"

	"github.com/knarr-io/knarr/scripts/helpers/traefik/leftout"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

type (
	ClientOption     struct{}
	X509SourceOption struct{}
	svids            = x509svid.Source
	bundles          = x509bundle.Source
	X509Source       struct {
		svids
		bundles
	}
)

func WithAddr(string) ClientOption                       { return ClientOption{} }
func WithClientOptions(...ClientOption) X509SourceOption { return X509SourceOption{} }

func NewX509Source(context.Context, ...X509SourceOption) (*X509Source, error) {
	return nil, leftout.ErrLeftOut
}
