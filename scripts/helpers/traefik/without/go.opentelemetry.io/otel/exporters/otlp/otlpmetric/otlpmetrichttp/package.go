package otlpmetrichttp

import (
	"context"
	"crypto/tls"

	"github.com/knarr-io/knarr/scripts/helpers/traefik/leftout"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
)

type (
	Option   struct{}
	Exporter struct{ sdkmetric.Exporter }
)

func New(context.Context, ...Option) (*Exporter, error) { return nil, leftout.ErrLeftOut }

type Compression int

const GzipCompression Compression = 1

func WithEndpoint(string) Option             { return Option{} }
func WithHeaders(map[string]string) Option   { return Option{} }
func WithCompression(Compression) Option     { return Option{} }
func WithInsecure() Option                   { return Option{} }
func WithURLPath(string) Option              { return Option{} }
func WithTLSClientConfig(*tls.Config) Option { return Option{} }
