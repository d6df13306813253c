package otlpmetricgrpc

import (
	"context"

	"github.com/knarr-io/knarr/scripts/helpers/traefik/leftout"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"google.golang.org/grpc/credentials"
)

type (
	Option   struct{}
	Exporter struct{ sdkmetric.Exporter }
)

func New(context.Context, ...Option) (*Exporter, error) { return nil, leftout.ErrLeftOut }

func WithEndpoint(string) Option                                 { return Option{} }
func WithHeaders(map[string]string) Option                       { return Option{} }
func WithCompressor(string) Option                               { return Option{} }
func WithInsecure() Option                                       { return Option{} }
func WithTLSCredentials(credentials.TransportCredentials) Option { return Option{} }
