package otlptrace

import (
	"context"

	"github.com/knarr-io/knarr/scripts/helpers/traefik/leftout"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

type (
	Client   struct{}
	Exporter struct{ sdktrace.SpanExporter }
)

func New(context.Context, Client) (*Exporter, error) { return nil, leftout.ErrLeftOut }
