package otlploghttp

import (
	"context"
	"crypto/tls"

	"github.com/knarr-io/knarr/scripts/helpers/traefik/leftout"
	sdklog "go.opentelemetry.io/otel/sdk/log"
)

type (
	Option   struct{}
	Exporter struct{ sdklog.Exporter }
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
