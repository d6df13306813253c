package plugins

import (
	"context"
	"net/http"

	"github.com/knarr-io/knarr/scripts/helpers/traefik/leftout"
	"github.com/traefik/traefik/v3/pkg/provider"
)

type (
	Descriptor      struct{ ModuleName, Version string }
	LocalDescriptor struct{ ModuleName string }
	Constructor     func(context.Context, http.Handler) (http.Handler, error)
	Builder         struct{}
)

func (*Builder) Build(string, map[string]any, string) (Constructor, error) {
	return nil, leftout.ErrLeftOut
}

func (*Builder) BuildProvider(string, map[string]any) (provider.Provider, error) {
	return nil, leftout.ErrLeftOut
}
