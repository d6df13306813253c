package otlploggrpc

import (
	"context"

	"github.com/knarr-io/knarr/scripts/helpers/traefik/leftout"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"google.golang.org/grpc/credentials"
)

type (
	Option   struct{}
	Exporter struct{ sdklog.Exporter }
)

func New(context.Context, ...Option) (*Exporter, error) { return nil, leftout.ErrLeftOut }

func WithEndpoint(string) Option                                 { return Option{} }
func WithHeaders(map[string]string) Option                       { return Option{} }
func WithCompressor(string) Option                               { return Option{} }
func WithInsecure() Option                                       { return Option{} }
func WithTLSCredentials(credentials.TransportCredentials) Option { return Option{} }
