package otlptracehttp

import (
	"crypto/tls"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
)

type Option struct{}

func NewClient(...Option) otlptrace.Client { return otlptrace.Client{} }

type Compression int

const GzipCompression Compression = 1

func WithEndpoint(string) Option             { return Option{} }
func WithHeaders(map[string]string) Option   { return Option{} }
func WithCompression(Compression) Option     { return Option{} }
func WithInsecure() Option                   { return Option{} }
func WithURLPath(string) Option              { return Option{} }
func WithTLSClientConfig(*tls.Config) Option { return Option{} }
