package globals

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// useMetrics makes the default registry of Prometheus bear two of a kind. etcd and containerd both register the metrics
// of their gRPC servers there, and containerd panics when it comes second
// (containerd v2.4.2 plugins/server/grpc/metrics.go:52; etcd server v3.7.3 etcdserver/api/v3rpc/grpc.go:107).
func useMetrics() {
	prometheus.DefaultRegisterer = tolerant{prometheus.DefaultRegisterer}
}

// tolerant takes a second collector of the same metrics and leaves it unregistered; all else is as before.
type tolerant struct{ prometheus.Registerer }

// MustRegister implements [prometheus.Registerer].
func (t tolerant) MustRegister(all ...prometheus.Collector) {
	for _, c := range all {
		var already prometheus.AlreadyRegisteredError
		if err := t.Register(c); err != nil && !errors.As(err, &already) {
			panic(err)
		}
	}
}
