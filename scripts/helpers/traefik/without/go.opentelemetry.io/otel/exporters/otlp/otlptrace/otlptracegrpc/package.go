package otlptracegrpc

import (
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"google.golang.org/grpc/credentials"
)

type Option struct{}

func NewClient(...Option) otlptrace.Client { return otlptrace.Client{} }

func WithEndpoint(string) Option                                 { return Option{} }
func WithHeaders(map[string]string) Option                       { return Option{} }
func WithCompressor(string) Option                               { return Option{} }
func WithInsecure() Option                                       { return Option{} }
func WithTLSCredentials(credentials.TransportCredentials) Option { return Option{} }
