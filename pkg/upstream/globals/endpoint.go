package globals

import (
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"
	"k8s.io/component-base/metrics/legacyregistry"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // as the main package of every component upstream has it: rest_client_*, workqueue_*
)

// bridgeMetrics makes kube-apiserver's /metrics the endpoint for the whole process. Kubernetes' components have one
// registry between them already (k8s.io/component-base/metrics/legacyregistry); [others] register with Prometheus's own
// default.
func bridgeMetrics() error {
	if err := legacyregistry.Registerer().Register(defaultRegistry{prometheus.DefaultGatherer}); err != nil {
		return fmt.Errorf("put the metrics of all components together: %w", err)
	}
	return nil
}

// others are the prefixes of what is only in Prometheus's default registry: containerd's metrics and those of an etcd in
// this process. Both registries have some families, and one family twice would make the endpoint fail.
var others = []string{"containerd_", "etcd_debugging_", "etcd_disk_", "etcd_mvcc_", "etcd_network_", "etcd_server_", "etcd_snap_"}

// defaultRegistry is a registry as a collector of another one.
type defaultRegistry struct{ prometheus.Gatherer }

// Describe sends nothing: what there is comes and goes with the components.
func (defaultRegistry) Describe(chan<- *prometheus.Desc) {}

// Collect sends what the registry has.
func (r defaultRegistry) Collect(to chan<- prometheus.Metric) {
	families, err := r.Gather()
	if err != nil {
		to <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), err)
	}
	for _, f := range families {
		if !slices.ContainsFunc(others, func(prefix string) bool { return strings.HasPrefix(f.GetName(), prefix) }) {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := make([]string, len(m.GetLabel()))
			for i, l := range m.GetLabel() {
				labels[i] = l.GetName()
			}
			to <- gathered{prometheus.NewDesc(f.GetName(), f.GetHelp(), labels, nil), m}
		}
	}
}

// gathered is a metric that another registry has gathered.
type gathered struct {
	desc   *prometheus.Desc
	metric *dto.Metric
}

// Desc describes it.
func (g gathered) Desc() *prometheus.Desc { return g.desc }

// Write copies it.
func (g gathered) Write(to *dto.Metric) error {
	proto.Merge(to, g.metric)
	return nil
}
